"""Watching every layer in any training loop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stabletrain.errors import RequestError, require_choice
from stabletrain.signal.hooks import TAPPED, Taps
from stabletrain.signal.kernels.reduce import measure_others, measure_plain, prepare
from stabletrain.signal.kernels.shards import measure_shards
from stabletrain.signal.layer_names import ForwardOrder
from stabletrain.signal.layer_statistics import Measures
from stabletrain.signal.snapshot import Snapshot
from stabletrain.signal.unit_activity import UnitTaps, find_equal_units
from stabletrain.torch_tools.local_shards import any_sharded
from stabletrain.vocabulary.signals import CLIP, DELTA, GRADIENT, MOMENT, SIGNALS, UNITS, UPDATE, WEIGHT

OF_STEP = (UPDATE, MOMENT, CLIP)  # what only the optimizer's step brings about
SECOND_MOMENTS = ("exp_avg_sq", "square_avg", "sum", "v")  # Adam and AdamW, RMSprop, Adagrad, and others' name for it


class Watch:
    """Measures the gradient of every parameter of a model, and more if asked; changes nothing.

    Call `step()` after `backward()` and before `optimizer.step()`. Layers are named in the order of the first
    forward pass after the watch was made. Parameters without a gradient (frozen, unused) are left out.

    Args:
        model: Any `torch.nn.Module`.
        optimizer: The optimizer that steps the model; `update`, `moment` and `clip` need it.
        signals: What to measure: `gradient` always; `delta` and `activation` (at the output of each layer, in the
            forward and backward pass before the call), `weight`, `update`, `moment`, `clip` and `units`.

    Raises:
        RequestError: A signal that does not exist, or that needs the optimizer.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 2)
        >>> watch = Watch(model)
        >>> model(torch.ones(4, 3)).sum().backward()
        >>> [(layer.layer, round(layer.rms, 3)) for layer in watch.step().layers]
        [('L00.weight', 4.0), ('L01.bias', 4.0)]
    """

    def __init__(
        self, model: nn.Module, *, optimizer: Optimizer | None = None, signals: Sequence[str] = (GRADIENT,)
    ) -> None:
        self.signals = tuple(require_choice("signals", signal, SIGNALS) for signal in signals)
        if optimizer is None and set(self.signals) & set(OF_STEP):
            raise RequestError(
                "These signals are measured around the optimizer's step.",
                key="signals",
                found=", ".join(s for s in self.signals if s in OF_STEP),
                allowed="together with optimizer=…",
                command="Watch(model, optimizer=optimizer, signals=…)",
            )
        prepare()
        self._order = ForwardOrder(model)
        self._taps = Taps(model, self.signals)
        self._parameters: tuple[tuple[str, ...], tuple[nn.Parameter, ...]] | None = None
        self._optimizer = optimizer
        self._units = UnitTaps(model) if UNITS in self.signals else None
        self._has_begun = False
        self._more = bool(set(self.signals) - {GRADIENT, UNITS})
        self._pending: _Step | None = None
        self._handles: list[Any] = []
        self._step = 0
        if set(self.signals) & set(TAPPED):
            self._taps.open()
        if self._units is not None:
            self._units.open()

    @property
    def layers(self) -> list[str]:
        """Layer names in forward order, as far as it is known; `step` fixes it."""
        return list(self._parameters[0] if self._parameters else self._order.named_parameters())

    def expect(self, taps: bool, *, histograms: bool = True, num_parts: int = 1) -> None:
        """Say whether the coming forward pass is to be measured; without a word every one is.

        Args:
            taps: Whether `delta`, `activation` and `units` are wanted of the next step. `units` goes on over as many
                further steps as it takes to see enough samples.
            histograms: Whether to count their distributions too.
            num_parts: Processes whose losses are averaged, each of which sees a part of the batch.
        """
        if taps:
            self._taps.open(histograms=histograms, num_parts=num_parts)
        else:
            self._taps.close()
        if self._units is not None:
            self._units.expect(taps)

    @property
    def looks_at_outputs(self) -> bool:
        """Whether hooks are on the layers, for `delta`, `activation` or `units`."""
        return self._taps.is_open or (self._units is not None and self._units.is_open)

    def collect_outputs(self, loss_scale: float = 1.0) -> Mapping[str, Measures]:
        """Return `activation` and `delta` as measured since the last call; `step` does so unless it is given them."""
        found = dict(self._taps.collect())
        if loss_scale != 1.0 and DELTA in found:
            found[DELTA] = found[DELTA].shifted(-round(math.log2(loss_scale)))
        return found

    def step(
        self,
        *,
        histograms: bool = True,
        step: int | None = None,
        others: bool = True,
        loss_scale: float = 1.0,
        outputs: Mapping[str, Measures] | None = None,
    ) -> Snapshot:
        """Measure all gradients as they are now, and the other signals.

        Args:
            histograms: Whether to count the distributions too.
            step: Number of this step; by default one more than the last.
            others: Whether to measure the signals beside the gradient on this step.
            loss_scale: What a scaler multiplied the loss by, a power of two: `delta` is divided by it. The gradients
                are to be unscaled before the call.
            outputs: `activation` and `delta` of the whole batch, if each process saw a part of it.

        Returns:
            Statistics per layer, in forward order. The signals of the optimizer's step join it when that is done.
        """
        self._step = self._step if step is None else step
        names, parameters = self._named_parameters()
        gradients = [g for p in parameters if (g := p.grad) is not None and p.requires_grad]
        if len(gradients) < len(names):  # frozen later: the last gradient may linger, and is left out
            pairs = zip(names, parameters, strict=True)
            found = {n: p for n, p in pairs if p.grad is not None and p.requires_grad}
            names, parameters = tuple(found), tuple(found.values())
        units = self._units.collect() if self._units is not None else {}
        if self._units is not None and not self._has_begun:
            units = units | find_equal_units(names, parameters)
        self._has_begun = True
        snapshot = Snapshot(self._step, _measure(names, gradients, histograms), units=units)
        if others and self._more:
            snapshot.signals.update(self.collect_outputs(loss_scale) if outputs is None else outputs)
            self._measure_weights(snapshot, names, parameters, histograms)
        self._step += 1
        return snapshot

    @property
    def tap_seconds(self) -> float:
        """Time spent in the forward and backward passes so far, on `delta`, `activation` and `units`."""
        return self._taps.seconds + (self._units.seconds if self._units is not None else 0.0)

    @property
    def is_sharded(self) -> bool:
        """Whether parameters lie in shards on several processes: then all of them must call `step`."""
        return any_sharded(self._order.model.parameters())

    def detach(self) -> None:
        """Remove what is left of the hooks."""
        self._order.detach()
        self._taps.close()
        if self._units is not None:
            self._units.close()
        self._forget()

    def _measure_weights(
        self, snapshot: Snapshot, names: Sequence[str], parameters: Sequence[nn.Parameter], histograms: bool
    ) -> None:
        if WEIGHT in self.signals or UPDATE in self.signals:
            wanted = histograms and WEIGHT in self.signals
            snapshot.signals[WEIGHT] = _measure(names, [p.detach() for p in parameters], wanted)
        if self._optimizer is None or not set(self.signals) & set(OF_STEP):
            return
        self._forget()  # a step that never came
        self._pending = _Step(self.signals, names, parameters, snapshot, histograms)
        self._handles = [
            self._optimizer.register_step_pre_hook(self._before),
            self._optimizer.register_step_post_hook(self._after),
        ]

    def _before(self, optimizer: Optimizer, *_: Any) -> None:
        if self._pending is not None:
            self._pending.measure_clipped()

    def _after(self, optimizer: Optimizer, *_: Any) -> None:
        if self._pending is not None:
            self._pending.end(optimizer)
        self._forget()

    def _forget(self) -> None:
        self._pending = None
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _named_parameters(self) -> tuple[tuple[str, ...], tuple[nn.Parameter, ...]]:
        if self._parameters is None:
            self._order.detach()
            named = self._order.named_parameters()
            self._parameters = tuple(named), tuple(named.values())
        return self._parameters


class _Step:
    """Looks at one optimizer step from both sides."""

    def __init__(
        self,
        signals: Sequence[str],
        names: Sequence[str],
        parameters: Sequence[nn.Parameter],
        snapshot: Snapshot,
        histograms: bool,
    ) -> None:
        self.signals, self.names, self.parameters = signals, list(names), list(parameters)
        self.snapshot, self.histograms = snapshot, histograms
        self._weights = [p.detach().clone() for p in parameters] if UPDATE in signals else []

    @torch.no_grad()
    def measure_clipped(self) -> None:
        """Measure the gradient as the optimizer sees it."""
        if CLIP in self.signals and CLIP not in self.snapshot.signals:
            present = [(n, p.grad) for n, p in zip(self.names, self.parameters, strict=True) if p.grad is not None]
            names, gradients = [n for n, _ in present], [g for _, g in present]
            self.snapshot.signals[CLIP] = _measure(names, gradients, self.histograms)

    @torch.no_grad()
    def end(self, optimizer: Optimizer) -> None:
        """Measure what the step did."""
        self.measure_clipped()  # not before the step where backward runs inside of it, as in Lightning
        if UPDATE in self.signals:
            changes = [p.detach() - w for p, w in zip(self.parameters, self._weights, strict=True)]
            self.snapshot.signals[UPDATE] = _measure(self.names, changes, self.histograms)
        if MOMENT in self.signals:
            pairs = [(n, _moment(optimizer, p)) for n, p in zip(self.names, self.parameters, strict=True)]
            found = [(n, m) for n, m in pairs if m is not None]
            self.snapshot.signals[MOMENT] = _measure([n for n, _ in found], [m for _, m in found], self.histograms)


def _moment(optimizer: Optimizer, parameter: nn.Parameter) -> Tensor | None:
    state = optimizer.state.get(parameter, {})
    return next((state[k] for k in SECOND_MOMENTS if isinstance(state.get(k), Tensor)), None)


def _measure(names: Sequence[str], tensors: Sequence[Tensor], histograms: bool) -> Any:
    found = measure_plain(names, tensors, histograms=histograms)
    if found is not None:
        return found
    return (measure_shards if any_sharded(tensors) else measure_others)(names, tensors, histograms=histograms)
