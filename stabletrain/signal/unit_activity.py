"""Units that do no work: dead ones, which next to nothing switches on, and saturated ones, which stay at the ends."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stabletrain.signal.hooks import first_tensor, tapped_modules
from stabletrain.signal.layer_names import layer_name
from stabletrain.torch_tools.local_shards import is_sharded
from stabletrain.torch_tools.module_hooks import ModuleHooks

DEAD, SATURATED, EQUAL = "dead", "saturated", "equal"
MIN_SAMPLES = 512  # of a unit at 1% five are expected, and none in 0.6% of all looks
MIN_ACTIVE = 0.01  # of the samples: a dead ReLU is on for less
MAX_SATURATED = 0.5  # of the samples: a saturated unit is at the ends for more
MIN_EQUAL = 0.5  # share of a layer's units: pruned rows of zeros are fewer
EDGE = 0.99  # of the way from the centre of the range to its end; the logistic function's ends are 0.01 and 0.99

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
    """Return the share of units that are copies of the first one, of layers where they are more than half.

    A unit is a row of a weight: what leads to one output. Units that begin alike get the same gradient and stay alike
    (Goodfellow et al. 2016, section 8.4), unless what follows tells them apart. Weights in shards are left out.

    Args:
        layers: Names of the parameters.
        parameters: Of any shape; those with one axis are none.

    Returns:
        Shares by layer under `equal`; nothing if no layer has them.

    Example:
        >>> find_equal_units(["a", "b"], [torch.ones(4, 2), torch.randn(4, 2)])
        {'equal': {'a': 1.0}}
    """
    shares = {}
    for layer, parameter in zip(layers, parameters, strict=True):
        if parameter.dim() > 1 and len(parameter) > 1 and parameter.numel() and not is_sharded(parameter):
            rows = parameter.detach().flatten(1)
            if bool((rows[0] == rows[-1]).all()):  # nearly never, and cheap
                shares[layer] = float((rows == rows[:1]).all(1).float().mean())
    shares = {layer: share for layer, share in shares.items() if share > MIN_EQUAL}
    return {EQUAL: shares} if shares else {}


class UnitTaps:
    """Finds the share of dead and of saturated units of each layer while it trains.

    dead = share of units k with #{samples: x_k ≠ 0} < 1%, saturated = share with #{samples: |y_k − c| > 0.99 r} > 50%

    A unit is one place on the feature axis: axis 1 of convolutions and batch norms, the last one of all others. All
    other axes are samples: examples, positions, time steps. Counted are 512 samples or more, over several looks where
    batches are small; then a layer's share comes out and its counts begin anew.

    - `dead` is measured at what comes into each module with parameters of its own, so that `F.relu` in a forward pass
      is seen too, and only where a gradient goes back: constant pixels are not dead units.
    - `saturated` is measured at the outputs of bounded activations (range c ± r) and of `nn.RNN` with tanh. Gates
      saturate by design and are left out, as are the cells of LSTM and GRU, and an activation that ends the network.

    Layers are named as in the activation signal. Passes in evaluation mode or without a graph do not count. Under data
    parallelism each process counts its own part of the batch, and what the first one finds is recorded. Unlike the
    other signals `collect` waits for a GPU, when a share comes out.

    Args:
        model: Any module.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
        >>> _ = model[0].bias.data.fill_(-100.0)
        >>> taps = UnitTaps(model)
        >>> taps.open()
        >>> _ = model(torch.randn(512, 2))
        >>> taps.collect()
        {'dead': {'L02.2': 1.0}}
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = tapped_modules(model)
        self._order: dict[str, int] = {}  # path: place in forward order
        gated = [f"{path}." for path, m in model.named_modules() if isinstance(m, nn.RNNBase) and "RNN" not in m.mode]
        self._dead = {
            p: _Tally() for p, m in self._modules.items() if next(m.parameters(recurse=False), None) is not None
        }
        self._saturated = {
            path: _Tally()
            for path, module in self._modules.items()
            if _range_of(module) is not None and not path.startswith(tuple(gated))
        }
        self._is_channels_first = False  # the last layer with weights
        self._goes_on = False
        self._hooks = ModuleHooks()
        self.seconds = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the hooks are on the model."""
        return self._hooks.is_open

    def expect(self, wanted: bool) -> None:
        """Open for the coming step if that is wanted, or if the last one began a look that has seen too few samples."""
        self.open() if wanted or self._goes_on else self.close()
        self._goes_on = False

    def open(self) -> None:
        """Put the hooks on; what was counted stays."""
        if not self.is_open:
            self._hooks.open(
                before=[(self._modules[path], self._look_at_input(tally)) for path, tally in self._dead.items()],
                after=[(module, self._look_at_output(path)) for path, module in self._modules.items()],
            )

    def close(self) -> None:
        """Take the hooks off; what was counted stays."""
        self._hooks.close()

    def collect(self) -> dict[str, dict[str, float]]:
        """Return the shares by layer that are complete now, of `dead` and `saturated`, and begin those anew."""
        found = {
            DEAD: self._shares(self._dead, lambda active: active < MIN_ACTIVE),
            SATURATED: self._shares(self._saturated, lambda at_end: at_end > 2 * MAX_SATURATED - 1),
        }
        return {kind: shares for kind, shares in found.items() if shares}

    def _look_at_input(self, tally: _Tally) -> Any:
        def look(module: nn.Module, inputs: Any) -> None:
            x = first_tensor(inputs)
            if x is None or x.is_complex():
                return
            axis = _feature_axis(module, x)
            if isinstance(module, CHANNELS_FIRST + CHANNELS_LAST):
                self._is_channels_first = axis == 1 and x.dim() > 2
            if axis is None or tally.is_complete or not (x.requires_grad and _is_measured(module)):
                return
            x = x.detach()
            self._add(tally, x.sign().abs_().add_(x, alpha=0), axis)  # NaN stays: its sign would be 0

        return look

    def _look_at_output(self, path: str) -> Any:
        tally, limits = self._saturated.get(path), _range_of(self._modules[path])

        def look(module: nn.Module, _: Any, output: Any) -> None:
            y = first_tensor(output)
            if y is None or not _is_measured(module) or y.dim() == 0:
                return
            self._order.setdefault(path, len(self._order))
            if tally is None or limits is None or tally.is_complete or not y.requires_grad:
                return
            centre, distance = limits
            y = (y.detach() - centre).abs_() if centre else y.detach().abs()
            self._add(tally, y.sub_(distance).sign_(), 1 if self._is_channels_first and y.dim() > 2 else -1)

        return look

    def _add(self, tally: _Tally, marks: Tensor, axis: int) -> None:
        start = time.perf_counter()
        tally.add(marks, axis)
        self._goes_on = self._goes_on or not tally.is_complete
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
    """The marks of each unit of a layer, added up over samples. One that is not finite is at neither end for good."""

    __slots__ = ("num_samples", "sums")

    def __init__(self) -> None:
        self.clear()

    @property
    def is_complete(self) -> bool:
        return self.num_samples >= MIN_SAMPLES

    def clear(self) -> None:
        self.sums: Tensor | None = None  # (units,) float32, on the layer's device
        self.num_samples = 0

    def add(self, marks: Tensor, axis: int) -> None:
        """Add marks 0 and 1, or −1 and 1: signs, which cost a third of what comparing does; one axis is the units.

        They hang on no graph.
        """
        if not marks.numel():
            return
        axis %= marks.dim()
        samples = [k for k in range(marks.dim()) if k != axis]
        sums = marks.sum(samples, dtype=torch.float32) if samples else marks.float()
        if self.sums is None or len(self.sums) != len(sums):
            self.sums, self.num_samples = sums, 0
        else:
            self.sums += sums
        self.num_samples += marks.numel() // len(sums)


def _feature_axis(module: nn.Module, x: Tensor) -> int | None:
    """Return the axis of the units in what comes into a module, None where nobody can know."""
    layout = getattr(module, "layout", None)
    if isinstance(layout, str):  # a norm of ours, which knows what it was built for
        return 1 if layout == "channels" else -1
    if isinstance(module, CHANNELS_LAST) or x.dim() <= 2:
        return -1
    return 1 if isinstance(module, CHANNELS_FIRST) else None


def _range_of(module: nn.Module) -> tuple[float, float] | None:
    """Return the centre of a bounded activation's range and the distance from it beyond which it is saturated."""
    if isinstance(module, nn.Tanh | nn.Softsign) or (isinstance(module, nn.RNN) and module.mode == "RNN_TANH"):
        return 0.0, EDGE
    if isinstance(module, nn.Sigmoid | nn.Hardsigmoid):
        return 0.5, EDGE - 0.5
    if isinstance(module, nn.Hardtanh) and not isinstance(module, nn.ReLU6):  # which is at one end half of the time
        return (module.max_val + module.min_val) / 2, EDGE * (module.max_val - module.min_val) / 2
    return None


def _is_measured(module: nn.Module) -> bool:
    return module.training and torch.is_grad_enabled()


def _is_hidden(module: nn.Module, at_input: bool) -> bool:
    """Whether the last module's tensor is not the network's answer, which is to reach the ends of its range."""
    return at_input or isinstance(module, nn.RNNBase)


def _to_host(sums: Sequence[Tensor]) -> list[Tensor]:
    """Bring rows to the host in one copy."""
    if not sums:
        return []
    whole = torch.cat([x.to(sums[0].device) for x in sums]).cpu()
    return list(whole.split([len(x) for x in sums]))
