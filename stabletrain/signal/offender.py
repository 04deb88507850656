"""Find the first non-finite value of a training step: its phase, its layer, and the samples that cause it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stabletrain.errors import RequestError
from stabletrain.signal.operations import Leaf, Operation, OperationTrace
from stabletrain.signal.splitting import find_samples, leaves, length_of
from stabletrain.signal.trace import NonFinite, Trace, count_nonfinite
from stabletrain.torch_tools.isolation import differentiable, isolated, preserve_rng, require_scalar
from stabletrain.torch_tools.replacements import without_step_hooks
from stabletrain.vocabulary.origins import INPUT, TARGET, WEIGHT

DATA, PARAMETER, FORWARD, LOSS, BACKWARD, OPTIMIZER = "data", "parameter", "forward", "loss", "backward", "optimizer"
PHASES = (DATA, PARAMETER, FORWARD, LOSS, BACKWARD, OPTIMIZER)
MAX_SAMPLES = 32  # reported at most
ALLOWED = "a function of the batch that returns the loss: a scalar tensor, before its backward pass"

LossFunction = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Offender:
    """The first tensor that contains Inf or NaN, and the nearest finite layer.

    Attributes:
        phase: `data`, `parameter`, `forward`, `loss`, `backward` or `optimizer`.
        layer: Layer of the tensor, named as in the activation signal; in the phases `parameter` and `optimizer` as in
            the gradient signal. None if the tensor belongs to no layer, such as the batch or the loss.
        tensor: Name of the tensor: `batch[0]`, `output`, `gradient of the input`, `exp_avg_sq`, …
        clean: The nearest layer whose tensors are finite: the previous one in `forward` and `loss`, the following one
            in `backward`. None if there is none.
        num_nonfinite: Number of Inf and NaN in the tensor.
        size: Number of elements of the tensor.
        samples: Indices into the batch, at most 32, of samples that are not finite on their own; empty if only the
            whole batch is not finite.
        origin: One of `vocabulary.origins.ORIGINS`.
        operation: Name of autograd's node that made the value, such as `SqrtBackward0`.
        module: Path of the module in which it ran; the class name of the model for its own `forward`; None for code
            outside of the model.
        line: Line of the user's code.
        why: The reason, in words.
    """

    phase: str
    layer: str | None
    tensor: str
    clean: str | None
    num_nonfinite: int
    size: int
    samples: tuple[int, ...] = ()
    origin: str | None = None
    operation: str | None = None
    module: str | None = None
    line: str | None = None
    why: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self) | {"samples": list(self.samples)}

    def __str__(self) -> str:
        where = f"{self.tensor} of {self.layer}" if self.layer else self.tensor
        clean = f", {self.clean} is clean" if self.clean else ""
        samples = f", samples {', '.join(map(str, self.samples))}" if self.samples else ""
        found = f"{self.phase}: {where}, {self.num_nonfinite:,} of {self.size:,} not finite{clean}{samples}"
        if self.operation is None:
            return found
        place = f" in {self.module}" if self.module else ""
        return f"{found}; {self.operation}{place}: {self.why}{f' ({self.line})' if self.line else ''}"


def find_offender(
    model: nn.Module, loss_fn: LossFunction, batch: Any, *, optimizer: Optimizer | None = None
) -> Offender | None:
    """Rerun one training step and return the first tensor that is not finite, or None if all are finite.

    The loss and the gradients of the parameters are computed first. If one of these is not finite, the following are
    checked in this order: the batch, the parameters, the outputs of the layers in forward order, the loss, and the
    gradients in the order of backpropagation. If all are finite and an optimizer is given, its state is checked, and
    the parameters after a trial step that is then undone.

    Parameters, gradients, buffers, the optimizer's state and random states are restored. Hooks on the model run.

    Args:
        model: Any module, with the weights from before the step.
        loss_fn: Maps a batch to the loss by calling the model. It is called again with parts of the batch, to find the
            samples.
        batch: Tensors whose first axis is that of the samples, in tuples, lists or mappings.
        optimizer: The optimizer of the parameters.

    Raises:
        RequestError: The model is not a module, the optimizer is not one, the loss is not a scalar, or it is finite and
            has no graph, so that no gradient can be checked.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> x = torch.ones(4, 2)
        >>> x[3, 0] = torch.inf
        >>> found = find_offender(model, lambda x: model(x).sum(), x)
        >>> found.phase, found.tensor, found.samples
        ('data', 'batch', (3,))
    """
    _require(model, optimizer)
    with isolated(model), _without_gradients(model):
        trace, origin = _run(model, loss_fn, batch)
        if trace.is_finite:
            found = None if optimizer is None else _in_optimizer(trace, optimizer)
        else:
            is_made = isinstance(origin, Operation)  # else NaN in the batch may be masked, and not be the cause
            found = (
                (None if is_made else _in_data(batch))
                or _in_parameters(trace, optimizer)
                or _in_pass(trace, lambda: _samples(model, loss_fn, batch, trace))
            )
        return None if found is None else _explained(found, model, origin)


def _require(model: Any, optimizer: Any) -> None:
    if not isinstance(model, nn.Module):
        found, allowed = type(model).__name__, "a torch.nn.Module"
        raise RequestError("There is no module to follow.", key="model", found=found, allowed=allowed)
    if optimizer is not None and not hasattr(optimizer, "param_groups"):
        found, allowed = type(optimizer).__name__, "a torch.optim.Optimizer, or None"
        raise RequestError("There is no optimizer to try.", key="optimizer", found=found, allowed=allowed)


@contextmanager
def _without_gradients(model: nn.Module) -> Iterator[None]:
    """Put the gradients aside, so that a loss function which calls `backward` adds to none of them."""
    kept = [(p, p.grad) for p in model.parameters()]
    try:
        for p, _ in kept:
            p.grad = None
        yield
    finally:
        for p, gradient in kept:
            p.grad = gradient


def _run(model: nn.Module, loss_fn: LossFunction, batch: Any) -> tuple[Trace, Operation | Leaf | None]:
    """Run the step; return what the layers showed, and where the first non-finite value came from."""
    trace, operations = Trace(model), OperationTrace(model)
    with preserve_rng(), differentiable(), operations, trace:
        loss = loss_fn(batch)
        operations.read_names([require_scalar(loss, ALLOWED)])
        if not loss.requires_grad and any(p.requires_grad for p in model.parameters()) and bool(loss.isfinite()):
            found = "a tensor without a graph"
            raise RequestError("The loss cannot be differentiated.", key="loss_fn", found=found, allowed=ALLOWED)
        trace.differentiate(loss)
    return trace, operations.find([loss]) or operations.find(trace.gradients.values())


def _explained(found: Offender, model: nn.Module, origin: Operation | Leaf | None) -> Offender:
    """Return an offender with the operation, its module and its line."""
    if found.phase in (PARAMETER, OPTIMIZER):
        why = "it is not finite before the step" if found.phase == PARAMETER else "the optimizer's step makes it so"
        return replace(found, origin=WEIGHT, why=why)
    if origin is None:
        return found
    operation = origin.user if isinstance(origin, Leaf) else origin
    kind, why = operation.reason
    if isinstance(origin, Leaf):
        kind, why = (TARGET if operation.module is None else INPUT), "a tensor that it was given is not finite"
    module = type(model).__name__ if operation.module == "" else operation.module
    line = None if operation.place is None else str(operation.place)
    return replace(found, origin=kind, operation=operation.node, module=module, line=line, why=why)


def _in_data(batch: Any) -> Offender | None:
    for name, tensor in leaves(batch):
        found = count_nonfinite(tensor)
        if found.num_nonfinite:
            rows = (~tensor.isfinite()).flatten(1).any(1) if tensor.dim() > 1 else ~tensor.isfinite().reshape(-1)
            samples = rows.nonzero().flatten()[:MAX_SAMPLES].tolist()
            return Offender(DATA, None, f"batch{name}", None, *found, tuple(samples))
    return None


def _in_parameters(trace: Trace, optimizer: Optimizer | None) -> Offender | None:
    for layer, parameter in trace.parameters.items():
        found = count_nonfinite(parameter.detach())
        if found.num_nonfinite:
            counts = {key: count_nonfinite(x) for key, x in _state_of(optimizer, parameter).items()}
            bad = {key: count for key, count in counts.items() if count.num_nonfinite}
            if bad and len(bad) < len(counts):  # a bad gradient would have affected all of it, so the state was first
                key, count = next(iter(bad.items()))
                return Offender(OPTIMIZER, layer, key, None, *count)
            return Offender(PARAMETER, layer, "parameter", None, *found)
    return None


def _in_pass(trace: Trace, find: Callable[[], tuple[int, ...]]) -> Offender | None:
    """Return the offender in the forward pass, the loss or the backward pass."""
    assert trace.loss is not None
    if trace.loss.num_nonfinite:
        found = trace.first_bad_output()
        if found is None:
            return Offender(LOSS, None, "loss", trace.last_layer, *trace.loss, find())
        buffer = found.bad_buffer()
        if buffer is not None:
            name, nonfinite = buffer
            return Offender(PARAMETER, found.layer, name, found.clean, *nonfinite)
        return Offender(FORWARD, found.layer, found.tensor, found.clean, *found.nonfinite, find())
    found = trace.first_bad_gradient()
    assert found is not None
    return Offender(BACKWARD, found.layer, found.tensor, found.clean, *found.nonfinite, find())


def _samples(model: nn.Module, loss_fn: LossFunction, batch: Any, trace: Trace) -> tuple[int, ...]:
    """Return the samples whose loss alone is not finite, or if the loss is finite, whose gradients are not."""
    assert trace.loss is not None
    only_forward = bool(trace.loss.num_nonfinite)

    def fails(part: Any) -> bool:
        with preserve_rng(), differentiable():  # the same random numbers in every pass
            loss = loss_fn(part)
            if only_forward or not bool(loss.isfinite()):
                return not bool(loss.isfinite())
            parameters = [p for p in trace.parameters.values() if p.requires_grad]
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            return any(count_nonfinite(g).num_nonfinite for g in gradients if g is not None)

    return find_samples(batch, length_of(batch), fails, MAX_SAMPLES)


def _state_of(optimizer: Optimizer | None, parameter: nn.Parameter) -> Mapping[str, Tensor]:
    state = optimizer.state.get(parameter, {}) if optimizer is not None else {}
    return {key: x for key, x in state.items() if isinstance(x, Tensor) and x.is_floating_point() and key != "step"}


def _in_optimizer(trace: Trace, optimizer: Optimizer) -> Offender | None:
    for layer, parameter in trace.parameters.items():
        for key, x in _state_of(optimizer, parameter).items():
            found = count_nonfinite(x)
            if found.num_nonfinite:
                return Offender(OPTIMIZER, layer, key, None, *found)
    after = _try_step(trace, optimizer)
    bad = next(((layer, found) for layer, found in after.items() if found.num_nonfinite), None)
    return Offender(OPTIMIZER, bad[0], "parameter after the step", None, *bad[1]) if bad is not None else None


@torch.no_grad()
def _try_step(trace: Trace, optimizer: Optimizer) -> dict[str, NonFinite]:
    """Step with the gradients of the trace, check the parameters, and undo the step."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    before = [(p, p.detach().clone(), p.grad) for p in parameters]
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    state = {p: dict(s) for p, s in optimizer.state.items()}
    values = {p: {k: v.clone() for k, v in s.items() if isinstance(v, Tensor)} for p, s in state.items()}
    try:
        for p in parameters:
            p.grad = trace.gradients.get(id(p))
        with without_step_hooks(optimizer):
            type(optimizer).step(optimizer)  # not `optimizer.step`, in which a schedule counts the steps
        return {layer: count_nonfinite(p.detach()) for layer, p in trace.parameters.items()}
    except TypeError:  # the optimizer requires a closure, and would rerun the forward and backward pass
        return {}
    finally:
        for p, value, gradient in before:
            p.copy_(value)
            p.grad = gradient
        for group, settings in zip(optimizer.param_groups, groups, strict=True):
            group.update(settings)
        optimizer.state.clear()
        for p, entries in state.items():
            for key, value in values[p].items():
                entries[key].copy_(value)
            optimizer.state[p] = entries
