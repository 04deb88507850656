"""Units that do not contribute: dead ones, which are almost never active, and saturated ones."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stabletrain.signal.layer_names import layer_name
from stabletrain.signal.sources.output_statistics import first_tensor, watched_modules
from stabletrain.signal.sources.source import Source, Step
from stabletrain.torch_tools.eager import is_compiled_in_place
from stabletrain.torch_tools.local_shards import is_sharded
from stabletrain.torch_tools.module_hooks import ModuleHooks
from stabletrain.vocabulary.signals import DEAD, EQUAL, SATURATED, UNITS

MIN_SAMPLES = 512  # a unit active on 1% is expected to be active 5 times, and never in 0.6% of measurements
MIN_ACTIVE = 0.01  # fraction of samples; a dead unit is active on fewer
MAX_SATURATED = 0.5  # fraction of samples; a saturated unit is at an end of its range on more
MIN_EQUAL = 0.5  # fraction of a layer's units; pruning leaves fewer rows of zeros
ORDER, INCOMPLETE, COMPLETE = "order", "is_incomplete", "may_be_complete"  # keys of the state
EDGE = 0.99  # of the distance from the center of the range to its end; for the logistic function 0.01 and 0.99

CHANNELS_FIRST = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
)
CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)


@torch.no_grad()
def find_equal_units(layers: Sequence[str], parameters: Sequence[Tensor]) -> dict[str, dict[str, float]]:
    """Return the fraction of units that are copies of the first one, for layers where it exceeds one half.

    A unit is a row of a weight matrix: the weights of one output. Units that are initialized identically receive the
    same gradient and stay identical (Goodfellow et al. 2016, section 8.4), unless a later layer distinguishes them.
    Sharded weights are skipped.

    Args:
        layers: Names of the parameters.
        parameters: Of any shape; those with fewer than two axes are skipped.

    Returns:
        Fractions by layer under `equal`; empty if no layer has such units.

    Example:
        >>> find_equal_units(["a", "b"], [torch.ones(4, 2), torch.randn(4, 2)])
        {'equal': {'a': 1.0}}
    """
    shares = {}
    for layer, parameter in zip(layers, parameters, strict=True):
        if parameter.dim() > 1 and len(parameter) > 1 and parameter.numel() and not is_sharded(parameter):
            rows = parameter.detach().flatten(1)
            if bool((rows[0] == rows[-1]).all()):  # cheap, and almost never true
                shares[layer] = float((rows == rows[:1]).all(1).float().mean())
    shares = {layer: share for layer, share in shares.items() if share > MIN_EQUAL}
    return {EQUAL: shares} if shares else {}


class UnitActivity(Source):
    """Measures the fraction of dead and of saturated units of each layer while it trains.

    dead = fraction of units k with #{samples: x_k ≠ 0} < 1%, saturated = fraction with #{samples: |y_k − c| > 0.99 r} >
    50%, where c is the center of the activation's range and r half its width.

    A unit is one position on the feature axis: axis 1 for convolutions and batch norms, the last axis otherwise. All
    other axes are samples: examples, positions, time steps. At least 512 samples are counted, over several steps if
    batches are small; then the layer's fraction is reported and its counts are reset.

    - `dead` is measured at the input of each module that has parameters of its own, so that `F.relu` in a forward pass
      is covered too, and only if that input requires a gradient, since constant pixels are not dead units.
    - `saturated` is measured at the outputs of bounded activations (range c ± r) and of `nn.RNN` with tanh. Gates
      saturate by design and are left out, as are the cells of LSTM and GRU, and the output activation of the network.

    Layers are named as in the activation signal. Passes in evaluation mode or without a graph are not counted. Under
    data parallelism each process counts its own part of the batch, and the fractions of rank 0 are recorded. Unlike
    for other signals, reading a complete fraction waits for the GPU.

    Args:
        model: Any module.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
        >>> _ = model[0].bias.data.fill_(-100.0)
        >>> units = UnitActivity(model)
        >>> units.open()
        >>> _ = model(torch.randn(512, 2))
        >>> units.take()
        {'dead': {'L02.2': 1.0}}
    """

    signals = (UNITS,)
    is_always_due = True

    def __init__(self, model: nn.Module, signals: Sequence[str] = (UNITS,)) -> None:
        super().__init__(model, signals)
        self._model = model
        self._modules = watched_modules(model)
        self._order: dict[str, int] = {}  # path: position in forward order
        gated = [f"{path}." for path, m in model.named_modules() if isinstance(m, nn.RNNBase) and "RNN" not in m.mode]
        self._dead = {
            p: _Tally() for p, m in self._modules.items() if next(m.parameters(recurse=False), None) is not None
        }
        self._limits = {path: _range_of(module) for path, module in self._modules.items()}
        self._saturated = {
            path: _Tally()
            for path, limits in self._limits.items()
            if limits is not None and not path.startswith(tuple(gated))
        }
        self._is_channels_first = False  # layout of the most recent layer with weights
        self._is_incomplete = False  # whether a tally needs more samples
        self._may_be_complete = False  # whether a fraction may be there to be taken: on most steps, nothing was counted
        self._hooks = ModuleHooks(before=UnitActivity._count_active, after=UnitActivity._count_saturated)
        self.seconds = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the hooks are active."""
        return self._hooks.is_open

    def expect(self, wanted: bool, *, histograms: bool = True, num_parts: int = 1) -> None:
        """Activate the hooks if the coming step is to be measured, or if counts of the last one are incomplete."""
        self.open() if wanted or self._is_incomplete else self.close()
        self._is_incomplete = False

    def open(self) -> None:
        """Activate the hooks; counts are kept."""
        if not self.is_open and not is_compiled_in_place(self._model):
            self._hooks.open(
                self,
                before=[(self._modules[path], path) for path in self._dead],
                after=[(module, path) for path, module in self._modules.items()],
            )

    def close(self) -> None:
        """Deactivate the hooks; counts are kept."""
        self._hooks.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the counts that are not complete yet."""
        return {
            DEAD: {path: tally.state for path, tally in self._dead.items() if tally.sums is not None},
            SATURATED: {path: tally.state for path, tally in self._saturated.items() if tally.sums is not None},
            ORDER: self._order,
            INCOMPLETE: self._is_incomplete,
            COMPLETE: self._may_be_complete,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting."""
        for tallies, saved in ((self._dead, state.get(DEAD, {})), (self._saturated, state.get(SATURATED, {}))):
            for path in tallies.keys() & saved.keys():
                tallies[path].state = saved[path]
        self._order = dict(state.get(ORDER, {}))
        self._is_incomplete = state.get(INCOMPLETE, False)
        self._may_be_complete = state.get(COMPLETE, False)

    def before_step(self, step: Step) -> None:
        """Add the complete fractions to the snapshot, and on the first step those of equal units."""
        units = self.take()
        step.snapshot.units = units | find_equal_units(step.names, step.parameters) if step.is_first else units

    def take(self) -> dict[str, dict[str, float]]:
        """Return the complete fractions of `dead` and `saturated` units by layer, and reset their counts."""
        if not self._may_be_complete:
            return {}
        self._may_be_complete = False
        found = {
            DEAD: self._shares(self._dead, lambda active: active < MIN_ACTIVE),
            SATURATED: self._shares(self._saturated, lambda at_end: at_end > 2 * MAX_SATURATED - 1),
        }
        return {kind: shares for kind, shares in found.items() if shares}

    def _count_active(self, path: str, module: nn.Module, inputs: Any) -> None:
        tally, x = self._dead[path], first_tensor(inputs)
        if x is None or x.is_complex():
            return
        axis = _feature_axis(module, x)
        if isinstance(module, CHANNELS_FIRST + CHANNELS_LAST):
            self._is_channels_first = axis == 1 and x.dim() > 2
        if axis is None or tally.is_complete or not (x.requires_grad and _is_measured(module)):
            return
        x = x.detach()
        self._add(tally, x.sign().abs_().add_(x, alpha=0), axis)  # keeps NaN, whose sign is 0

    def _count_saturated(self, path: str, module: nn.Module, _: Any, output: Any) -> None:
        tally, limits, y = self._saturated.get(path), self._limits[path], first_tensor(output)
        if y is None or not _is_measured(module) or y.dim() == 0:
            return
        if path not in self._order:
            self._order[path] = len(self._order)
            self._may_be_complete = True  # what was counted at its input has a name now
        if tally is None or limits is None or tally.is_complete or not y.requires_grad:
            return
        center, distance = limits
        y = (y.detach() - center).abs_() if center else y.detach().abs()
        self._add(tally, y.sub_(distance).sign_(), 1 if self._is_channels_first and y.dim() > 2 else -1)

    def _add(self, tally: _Tally, marks: Tensor, axis: int) -> None:
        start = time.perf_counter()
        tally.add(marks, axis)
        self._is_incomplete = self._is_incomplete or not tally.is_complete
        self._may_be_complete = self._may_be_complete or tally.is_complete
        self.seconds += time.perf_counter() - start

    def _shares(self, tallies: Mapping[str, _Tally], is_idle: Any) -> dict[str, float]:
        last = max((path for path in self._order if path), key=self._order.__getitem__, default="")
        complete = {path: tally for path, tally in tallies.items() if tally.is_complete and path in self._order}
        sums = _to_host([tally.sums for tally in complete.values() if tally.sums is not None])
        shares = {}
        for (path, tally), row in zip(complete.items(), sums, strict=True):
            if path != last or _is_hidden(self._modules[path], tallies is self._dead):
                shares[path] = float(is_idle(row / tally.num_samples).double().mean())
            tally.clear()
        paths = sorted(shares, key=self._order.__getitem__)
        return {layer_name(self._order[path], path, len(self._modules)): shares[path] for path in paths}


class _Tally:
    """Per-unit sums of marks over samples. A NaN makes the sum NaN, so that the unit is neither dead nor saturated."""

    __slots__ = ("num_samples", "sums")

    def __init__(self) -> None:
        self.clear()

    @property
    def is_complete(self) -> bool:
        return self.num_samples >= MIN_SAMPLES

    @property
    def state(self) -> tuple[Tensor | None, int]:
        return self.sums, self.num_samples

    @state.setter
    def state(self, state: tuple[Tensor | None, int]) -> None:
        self.sums, self.num_samples = state

    def clear(self) -> None:
        self.sums: Tensor | None = None  # (units,) float32, on the layer's device
        self.num_samples = 0

    def add(self, marks: Tensor, axis: int) -> None:
        """Add marks of 0 and 1, or of −1 and 1. They are computed by signs, in a third of the time of comparisons.

        Args:
            marks: A tensor detached from the graph.
            axis: The axis of the units; all other axes are samples.
        """
        if not marks.numel():
            return
        axis %= marks.dim()
        samples = [k for k in range(marks.dim()) if k != axis]
        sums = marks.sum(samples, dtype=torch.float32) if samples else marks.float()
        if self.sums is None or len(self.sums) != len(sums):
            self.sums, self.num_samples = sums, 0
        else:
            self.sums = self.sums.to(sums.device).add_(sums)  # a loaded state may lie elsewhere
        self.num_samples += marks.numel() // len(sums)


def _feature_axis(module: nn.Module, x: Tensor) -> int | None:
    """Return the axis of the units in the input of a module; None if it is unknown."""
    layout = getattr(module, "layout", None)
    if isinstance(layout, str):  # a norm of `stabletrain.network`, which states its layout
        return 1 if layout == "channels" else -1
    if isinstance(module, CHANNELS_LAST) or x.dim() <= 2:
        return -1
    return 1 if isinstance(module, CHANNELS_FIRST) else None


def _range_of(module: nn.Module) -> tuple[float, float] | None:
    """Return the center of a bounded activation's range and the distance beyond which it counts as saturated."""
    if isinstance(module, nn.Tanh | nn.Softsign) or (isinstance(module, nn.RNN) and module.mode == "RNN_TANH"):
        return 0.0, EDGE
    if isinstance(module, nn.Sigmoid | nn.Hardsigmoid):
        return 0.5, EDGE - 0.5
    if isinstance(module, nn.Hardtanh) and not isinstance(module, nn.ReLU6):  # ReLU6 is at 0 for half of its inputs
        return (module.max_val + module.min_val) / 2, EDGE * (module.max_val - module.min_val) / 2
    return None


def _is_measured(module: nn.Module) -> bool:
    return module.training and torch.is_grad_enabled()


def _is_hidden(module: nn.Module, at_input: bool) -> bool:
    """Return whether the last module's tensor is not the network's output, which may reach the ends of its range."""
    return at_input or isinstance(module, nn.RNNBase)


def _to_host(sums: Sequence[Tensor]) -> list[Tensor]:
    """Copy rows to the host, all at once."""
    if not sums:
        return []
    whole = torch.cat([x.to(sums[0].device) for x in sums]).cpu()
    return list(whole.split([len(x) for x in sums]))
