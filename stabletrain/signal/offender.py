"""The first value that is not finite: in which phase of a step it appears, in which layer, in which samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stabletrain.signal.splitting import find_samples, leaves, length_of
from stabletrain.signal.trace import Seen, Trace, see
from stabletrain.torch_tools.isolation import differentiable, isolated, preserve_rng, require_scalar

DATA, PARAMETER, FORWARD, LOSS, BACKWARD, OPTIMIZER = "data", "parameter", "forward", "loss", "backward", "optimizer"
PHASES = (DATA, PARAMETER, FORWARD, LOSS, BACKWARD, OPTIMIZER)
MAX_SAMPLES = 32  # named

LossFunction = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Offender:
    """The first tensor that holds Inf or NaN, and the nearest one that does not.

    Attributes:
        phase: `data`, `parameter`, `forward`, `loss`, `backward` or `optimizer`.
        layer: Its layer, named as in the activation signal; of `parameter` and `optimizer` as in the gradient signal.
            None of what belongs to no layer: the batch, the loss.
        tensor: Which tensor: `batch[0]`, `output`, `gradient of the input`, `exp_avg_sq`, …
        clean: The nearest layer whose tensors are finite: the one before in `forward` and `loss`, the one behind in
            `backward`; None at the end of the network.
        num_nonfinite: Number of Inf and NaN in the tensor.
        size: Number of its elements.
        samples: Places in the batch, at most 32, whose own values are not finite; none where only all together are.
    """

    phase: str
    layer: str | None
    tensor: str
    clean: str | None
    num_nonfinite: int
    size: int
    samples: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self) | {"samples": list(self.samples)}

    def __str__(self) -> str:
        where = f"{self.tensor} of {self.layer}" if self.layer else self.tensor
        clean = f", {self.clean} is clean" if self.clean else ""
        samples = f", samples {', '.join(map(str, self.samples))}" if self.samples else ""
        return f"{self.phase}: {where}, {self.num_nonfinite:,} of {self.size:,} not finite{clean}{samples}"


def find_offender(
    model: nn.Module, loss_fn: LossFunction, batch: Any, *, optimizer: Optimizer | None = None
) -> Offender | None:
    """Go through one step again and return the first tensor that is not finite, None if all of them are.

    Looked at are the loss and the gradients of the parameters; if one of these is not finite, in this order: the batch,
    the parameters, the outputs of the layers in the order in which they run, the loss, and the gradients from the loss
    down. If all are finite and an optimizer is given: its state, and the parameters after a step on trial.

    Parameters, gradients, buffers, the optimizer's state and random states are as before when it returns. Hooks on the
    model run.

    Args:
        model: Any module, with the weights that the step began with.
        loss_fn: Maps a batch to the loss: calls the model. Called again with parts of the batch, to find the samples.
        batch: Tensors along whose first axis the samples lie, in tuples, lists or mappings.
        optimizer: What steps the parameters.

    Raises:
        RequestError: The loss is not one number.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> x = torch.ones(4, 2)
        >>> x[3, 0] = torch.inf
        >>> found = find_offender(model, lambda x: model(x).sum(), x)
        >>> found.phase, found.tensor, found.samples
        ('data', 'batch', (3,))
    """
    with isolated(model):
        trace = _follow(model, loss_fn, batch)
        if trace.is_finite:
            return None if optimizer is None else _in_optimizer(trace, optimizer)
        return (
            _in_data(batch)
            or _in_parameters(trace, optimizer)
            or _in_pass(trace, lambda: _samples(model, loss_fn, batch, trace))
        )


def _follow(model: nn.Module, loss_fn: LossFunction, batch: Any) -> Trace:
    trace = Trace(model)
    with preserve_rng(), differentiable(), trace:
        loss = loss_fn(batch)
        trace.differentiate(require_scalar(loss, "a function of the batch that returns a scalar tensor"))
    return trace


def _in_data(batch: Any) -> Offender | None:
    for name, tensor in leaves(batch):
        seen = see(tensor)
        if seen.num_nonfinite:
            rows = (~tensor.isfinite()).flatten(1).any(1) if tensor.dim() > 1 else ~tensor.isfinite().reshape(-1)
            samples = rows.nonzero().flatten()[:MAX_SAMPLES].tolist()
            return Offender(DATA, None, f"batch{name}", None, *seen, tuple(samples))
    return None


def _in_parameters(trace: Trace, optimizer: Optimizer | None) -> Offender | None:
    for layer, parameter in trace.parameters.items():
        seen = see(parameter.detach())
        if seen.num_nonfinite:
            state = _state_of(optimizer, parameter)
            bad = {key: found for key, x in state.items() if (found := see(x)).num_nonfinite}
            if bad and len(bad) < len(state):  # a gradient would have spoiled all of it: the state went first
                key, found = next(iter(bad.items()))
                return Offender(OPTIMIZER, layer, key, None, *found)
            return Offender(PARAMETER, layer, "parameter", None, *seen)
    return None


def _in_pass(trace: Trace, find: Callable[[], tuple[int, ...]]) -> Offender | None:
    """Return what is wrong in the forward pass, the loss or the backward pass."""
    assert trace.loss is not None
    if trace.loss.num_nonfinite:
        found = trace.first_bad_output()
        if found is None:
            return Offender(LOSS, None, "loss", trace.last_layer, *trace.loss, find())
        buffer = found.bad_buffer()
        if buffer is not None:
            name, seen = buffer
            return Offender(PARAMETER, found.layer, name, found.clean, *seen)
        return Offender(FORWARD, found.layer, found.tensor, found.clean, *found.seen, find())
    found = trace.first_bad_gradient()
    assert found is not None
    return Offender(BACKWARD, found.layer, found.tensor, found.clean, *found.seen, find())


def _samples(model: nn.Module, loss_fn: LossFunction, batch: Any, trace: Trace) -> tuple[int, ...]:
    """Return the samples that go wrong by themselves: forward, or where the loss is finite, backward."""
    assert trace.loss is not None
    only_forward = bool(trace.loss.num_nonfinite)

    def goes_wrong(part: Any) -> bool:
        with preserve_rng(), differentiable():  # the same random numbers in every pass
            loss = loss_fn(part)
            if only_forward or not bool(loss.isfinite()):
                return not bool(loss.isfinite())
            parameters = [p for p in trace.parameters.values() if p.requires_grad]
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            return any(see(g).num_nonfinite for g in gradients if g is not None)

    return find_samples(batch, length_of(batch), goes_wrong, MAX_SAMPLES)


def _state_of(optimizer: Optimizer | None, parameter: nn.Parameter) -> Mapping[str, Tensor]:
    state = optimizer.state.get(parameter, {}) if optimizer is not None else {}
    return {key: x for key, x in state.items() if isinstance(x, Tensor) and x.is_floating_point() and key != "step"}


def _in_optimizer(trace: Trace, optimizer: Optimizer) -> Offender | None:
    for layer, parameter in trace.parameters.items():
        for key, x in _state_of(optimizer, parameter).items():
            seen = see(x)
            if seen.num_nonfinite:
                return Offender(OPTIMIZER, layer, key, None, *seen)
    after = _step_on_trial(trace, optimizer)
    bad = next(((layer, seen) for layer, seen in after.items() if seen.num_nonfinite), None)
    return Offender(OPTIMIZER, bad[0], "parameter after the step", None, *bad[1]) if bad is not None else None


@torch.no_grad()
def _step_on_trial(trace: Trace, optimizer: Optimizer) -> dict[str, Seen]:
    """Step with the gradients of the trace, look at the parameters, and take the step back."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    before = [(p, p.detach().clone(), p.grad) for p in parameters]
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    state = {p: dict(s) for p, s in optimizer.state.items()}
    values = {p: {k: v.clone() for k, v in s.items() if isinstance(v, Tensor)} for p, s in state.items()}
    hooks = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
    optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks = type(hooks[0])(), type(hooks[1])()
    try:
        for p in parameters:
            p.grad = trace.gradients.get(id(p))
        type(optimizer).step(optimizer)  # not the instance's, in which a schedule counts
        return {layer: see(p.detach()) for layer, p in trace.parameters.items()}
    except TypeError:  # it asks for a closure, and would go through the step again
        return {}
    finally:
        optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks = hooks
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
