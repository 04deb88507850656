"""Measure every layer in any training loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from stabletrain.errors import RequestError, require_choice
from stabletrain.signal.kernels.reduce import prepare
from stabletrain.signal.layer_names import ForwardOrder
from stabletrain.signal.layer_statistics import Measures
from stabletrain.signal.snapshot import Snapshot
from stabletrain.signal.sources import OF_STEP as OF_STEP
from stabletrain.signal.sources import SOURCES
from stabletrain.signal.sources.source import Step, measure
from stabletrain.torch_tools.local_shards import any_sharded
from stabletrain.vocabulary.signals import GRADIENT, SIGNALS

STEP, STATES = "step", "sources"  # keys of the state


class Watch:
    """Measures the gradient of every parameter of a model, and other signals if requested, and changes nothing.

    Call `step()` after `backward()` and before `optimizer.step()`. Layers are named in the order of the first forward
    pass after the watch was created. Parameters without a gradient (frozen, unused) are left out.

    Nothing is attached to the model: it can be pickled, copied, exported and compiled while it is watched. Of a
    compiled module (`torch.compile(model)`, `model.compile()`) the outputs are not measured, since that would change
    what it computes; gradients, weights and updates are.

    Args:
        model: Any `torch.nn.Module`.
        optimizer: The optimizer that steps the model, or a list of several; `update`, `moment` and `clip` require it.
        signals: What to measure: `gradient` always; `delta` and `activation` (at the output of each layer, in the
            backward and forward pass before the call), `weight`, `update`, `moment`, `clip` and `units`.

    Raises:
        RequestError: A signal does not exist, or requires an optimizer and none was given.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 2)
        >>> watch = Watch(model)
        >>> model(torch.ones(4, 3)).sum().backward()
        >>> [(layer.layer, round(layer.rms, 3)) for layer in watch.step().layers]
        [('L00.weight', 4.0), ('L01.bias', 4.0)]
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        signals: Sequence[str] = (GRADIENT,),
    ) -> None:
        self.signals = tuple(require_choice("signals", signal, SIGNALS) for signal in signals)
        given = optimizer if isinstance(optimizer, list | tuple) else [optimizer]
        optimizers: tuple[Optimizer, ...] = tuple(x for x in given if x is not None)  # pyright: ignore[reportAssignmentType]
        if not optimizers and set(self.signals) & set(OF_STEP):
            raise RequestError(
                "These signals are measured around the optimizer's step.",
                key="signals",
                found=", ".join(s for s in self.signals if s in OF_STEP),
                allowed="together with optimizer=…",
                command="Watch(model, optimizer=optimizer, signals=…)",
            )
        prepare()
        self._order = ForwardOrder(model)
        self._parameters: tuple[tuple[str, ...], tuple[nn.Parameter, ...]] | None = None
        self._optimizers = optimizers
        requested = set(self.signals)
        self._sources = [
            source(model, self.signals) for source in SOURCES if requested & {*source.signals, *source.needed_by}
        ]
        self._of_step = any(source.needs_optimizer for source in self._sources)
        self._begun: set[int] = set()  # optimizers whose first step was measured; 0 for all of them together
        self._pending: Step | None = None
        self._handles: list[Any] = []
        self._step = 0
        for source in self._sources:
            source.open()

    @property
    def layers(self) -> list[str]:
        """Layer names in forward order, as far as the order is known; the first `step` fixes it."""
        return list(self._parameters[0] if self._parameters else self._order.named_parameters())

    def expect(self, taps: bool, *, histograms: bool = True, num_parts: int = 1) -> None:
        """Set whether to measure outputs in the coming forward pass; by default every pass is measured.

        Args:
            taps: Whether to measure `delta`, `activation` and `units` on the next step. `units` continues on the
                following steps until it has seen enough samples.
            histograms: Whether to compute histograms of `delta` and `activation` too.
            num_parts: Number of processes whose losses are averaged, each of which sees a part of the batch.
        """
        for source in self._sources:
            source.expect(taps, histograms=histograms, num_parts=num_parts)

    @property
    def looks_at_outputs(self) -> bool:
        """Whether hooks are active, for `delta`, `activation` or `units`."""
        return any(source.is_open for source in self._sources)

    def collect_outputs(self, loss_scale: float = 1.0) -> Mapping[str, Measures]:
        """Return `activation` and `delta` measured since the last call; `step` calls this unless `outputs` is given."""
        found: dict[str, Measures] = {}
        for source in self._sources:
            found.update(source.collect(loss_scale))
        return found

    def step(
        self,
        *,
        histograms: bool = True,
        step: int | None = None,
        others: bool = True,
        loss_scale: float = 1.0,
        outputs: Mapping[str, Measures] | None = None,
        optimizer: Optimizer | None = None,
    ) -> Snapshot:
        """Measure the gradients as they are now, and the other signals.

        Args:
            histograms: Whether to compute histograms too.
            step: Number of this step; by default one more than the last.
            others: Whether to measure the signals other than the gradient on this step.
            loss_scale: Factor, a power of two, by which a gradient scaler multiplied the loss: `delta` is divided by
                it. The gradients must be unscaled before the call.
            outputs: `activation` and `delta` of the whole batch, if each process saw a part of it.
            optimizer: The optimizer that is about to step, if each of several has a backward pass of its own: only its
                parameters are measured. By default all parameters are, at the next step of any optimizer.

        Returns:
            Statistics per layer, in forward order. The signals of the optimizer's step are added once it is done.
        """
        self._step = self._step if step is None else step
        names, parameters = self._named_parameters()
        gradients = [g for p in parameters if (g := p.grad) is not None and p.requires_grad]
        if len(gradients) < len(names) or optimizer is not None:
            stepped = None if optimizer is None else parameters_of(optimizer)
            pairs = zip(names, parameters, strict=True)  # a parameter that was frozen later may keep its last gradient
            found = {
                n: p
                for n, p in pairs
                if p.grad is not None and p.requires_grad and (stepped is None or id(p) in stepped)
            }
            names, parameters = tuple(found), tuple(found.values())
            gradients = [p.grad for p in parameters if p.grad is not None]
        snapshot = Snapshot(self._step, measure(names, gradients, histograms))
        if self._sources:
            if others:
                snapshot.signals.update(self.collect_outputs(loss_scale) if outputs is None else outputs)
            is_first = (0 if optimizer is None else id(optimizer)) not in self._begun
            self._before_step(Step(names, parameters, snapshot, histograms, is_first), others, optimizer)
        self._begun.add(0 if optimizer is None else id(optimizer))
        self._step += 1
        return snapshot

    @property
    def tap_seconds(self) -> float:
        """Seconds spent within forward and backward passes so far, on `delta`, `activation` and `units`."""
        return sum(source.seconds for source in self._sources)

    @property
    def is_sharded(self) -> bool:
        """Whether parameters are sharded over several processes; then each process must call `step`."""
        return any_sharded(self._order.model.parameters())

    @torch.no_grad()
    def has_nonfinite(self) -> bool:
        """Return whether an element of a weight or gradient is Inf or NaN; this reads every one of them."""
        parameters = [*self._order.model.parameters()]
        tensors = [*parameters, *(p.grad for p in parameters if p.grad is not None and p.requires_grad)]
        return not all(bool(torch.isfinite(x.coalesce().values() if x.is_sparse else x).all()) for x in tensors)

    def state_dict(self) -> dict[str, Any]:
        """Return what later measurements depend on, such as incomplete counts: plain numbers and tensors."""
        return {STEP: self._step, STATES: {type(s).__name__: s.state_dict() for s in self._sources}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state; sources that are not in it begin anew."""
        self._step = state[STEP]
        self._begun = {0, *map(id, self._optimizers)} if self._step else set()
        for source in self._sources:
            source.load_state_dict(state[STATES].get(type(source).__name__, {}))

    def detach(self) -> None:
        """Remove all hooks."""
        self._order.detach()
        for source in self._sources:
            source.close()
        self._forget()

    def _before_step(self, step: Step, others: bool, optimizer: Optimizer | None) -> None:
        if others and self._of_step:
            self._forget()  # the optimizer never took the previous step
        for source in self._sources:
            if others or source.is_always_due:
                source.before_step(step)
        if others and self._of_step:
            self._pending = step
            for stepping in self._optimizers if optimizer is None else (optimizer,):
                self._handles.append(stepping.register_step_pre_hook(self._at_step))
                self._handles.append(stepping.register_step_post_hook(self._after_step))

    @torch.no_grad()
    def _at_step(self, optimizer: Optimizer, *_: Any) -> None:
        if self._pending is not None:
            for source in self._sources:
                source.at_step(self._pending)

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        if self._pending is not None:
            for source in self._sources:
                source.after_step(self._pending, optimizer)
        self._forget()

    def _forget(self) -> None:
        self._pending = None
        for source in self._sources:
            source.forget()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _named_parameters(self) -> tuple[tuple[str, ...], tuple[nn.Parameter, ...]]:
        if self._parameters is None:
            self._order.detach()
            named = self._order.named_parameters()
            self._parameters = tuple(named), tuple(named.values())
        return self._parameters


def parameters_of(optimizer: Optimizer) -> set[int]:
    """Return the identities of the parameters that an optimizer steps."""
    return {id(p) for group in optimizer.param_groups for p in group["params"]}
