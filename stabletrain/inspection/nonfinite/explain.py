"""Find the origin of the first non-finite value of a step, from the calls of the model and the graph of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from types import FrameType

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from stabletrain.inspection.nonfinite.explanation import Explanation, bad_samples
from stabletrain.inspection.nonfinite.loss_part import FoundInLoss, LossPart
from stabletrain.inspection.nonfinite.model_call import ModelCall
from stabletrain.inspection.nonfinite.reached import reaching
from stabletrain.inspection.nonfinite.variables import find_bad, find_target, raised_frames
from stabletrain.inspection.nonfinite.weights import is_among, is_weight
from stabletrain.signal.domains import has_nan, has_positive_infinity, is_bad
from stabletrain.signal.operations import Leaf, Operation, OperationTrace, tensors_in
from stabletrain.signal.user_code import find_line
from stabletrain.torch_tools.isolation import differentiable, isolated
from stabletrain.vocabulary.origins import BACKWARD, CHANGED, FORWARD, INPUT, NOT_AGAIN, TARGET, WEIGHT

Replayed = tuple[ModelCall, list[Tensor], list[Tensor]]  # a call, its outputs, and its inputs with a gradient


def explain(
    model: nn.Module,
    calls: Sequence[ModelCall],
    losses: Sequence[LossPart],
    loss_is_bad: bool,
    frames: list[FrameType],
) -> Explanation:
    """Return where the first non-finite value comes from.

    The calls of the model are repeated, from the random state that they had, and every operation is followed. What
    the loop computed between the outputs and the loss is read from what the graph had saved.

    Args:
        model: The model, whose parameters are finite.
        calls: Its calls in this step.
        losses: What was kept of the graph before each backward pass.
        loss_is_bad: Whether the loss is not finite; otherwise a gradient is not.
        frames: Frames of the user's functions, in whose variables the targets are.
    """
    calls, is_whole = _repeatable(reaching(calls, losses))
    replayed: list[Replayed] = []
    stopped: list[Tensor] = []  # what a call that raised, such as by a check of the model's own, had computed
    with isolated(model), differentiable(), OperationTrace(model) as trace:
        for call in calls:
            try:
                replayed.append((call, *call.repeat()))
            except Exception as error:
                stopped = find_bad(raised_frames(error))
                if not stopped:
                    raise
                break
    outputs = [*(x for _, outputs, _ in replayed for x in outputs), *stopped]
    trace.read_names(outputs)
    found = trace.find(outputs)
    if found is not None and not _is_mask(found):
        return _from_trace(model, calls, trace, found, FORWARD)
    if any(is_bad(x.detach()) for call in calls for x in call.outputs) and not any(map(is_bad, outputs)):
        return _not_again(calls, FORWARD)
    if loss_is_bad:
        return _in_loss(calls, losses, frames)
    found = _in_backward(model, calls, losses, trace, replayed, frames)
    if found is None:
        return _not_again(calls, BACKWARD) if is_whole else Explanation(None, "a gradient is not finite", BACKWARD)
    return found


def _repeatable(calls: Sequence[ModelCall]) -> tuple[list[ModelCall], bool]:
    """Return the calls to repeat, and whether they are all; of those that were noted briefly, the first bad one."""
    brief = [call for call in calls if call.is_brief and any(is_bad(x.detach()) for x in call.outputs)][:1]
    found = [call for call in calls if not call.is_dropped and (not call.is_brief or call in brief)]
    return found, bool(calls) and len(found) == len(calls)


def explain_before_weights(
    calls: Sequence[ModelCall], losses: Sequence[LossPart], frames: list[FrameType]
) -> Explanation | None:
    """Return where a NaN comes from that reached the weights within this step; None if that is not what happened.

    An optimizer that calls the loss itself, such as LBFGS, has stepped by the time at which the step is inspected. The
    first outputs were finite, and so were the weights that they were computed with.
    """
    if not calls or not calls[0].outputs or any(is_bad(x.detach()) for x in calls[0].outputs):
        return None
    for part in losses:
        inside, phase = (part.find_in_forward(), FORWARD) if part.is_bad else (part.find_in_backward(), BACKWARD)
        if inside is not None:
            return _from_loss(calls, inside, phase, frames)
    return None


def _in_loss(calls: Sequence[ModelCall], losses: Sequence[LossPart], frames: list[FrameType]) -> Explanation:
    for part in losses:
        if part.is_bad and (inside := part.find_in_forward()) is not None:
            return _from_loss(calls, inside, FORWARD, frames)
    return _unknown_target(calls, frames) or Explanation(
        None, "the loss is not finite, although the outputs are", FORWARD
    )


def _in_backward(
    model: nn.Module,
    calls: Sequence[ModelCall],
    losses: Sequence[LossPart],
    trace: OperationTrace,
    replayed: Sequence[Replayed],
    frames: list[FrameType],
) -> Explanation | None:
    for part in losses:
        if (inside := part.find_in_backward()) is not None:
            return _from_loss(calls, inside, BACKWARD, frames)
    found = _differentiate(model, trace, replayed)
    if found is not None:
        return _from_trace(model, calls, trace, found, BACKWARD)
    if any(call.has_bad_gradient for call in calls):
        risky = [part for loss in losses for part in loss.parts if part.saved]
        name = risky[-1].name if risky else losses[0].parts[-1].name if losses and losses[0].parts else None
        return Explanation(None, "the derivative of the loss is not finite", BACKWARD, name)
    return None


def _differentiate(model: nn.Module, trace: OperationTrace, replayed: Sequence[Replayed]) -> Operation | Leaf | None:
    """Repeat the backward pass of the calls at which finite gradients arrived."""
    pairs, wanted = [], [p for p in model.parameters() if p.requires_grad]
    for call, outputs, inputs in replayed:
        wanted += inputs
        for index, x in enumerate(outputs):
            gradient = call.gradients.get(index)
            if gradient is not None and x.requires_grad and not call.has_bad_gradient:
                pairs.append((x, gradient if gradient.shape == x.shape else torch.ones_like(x)))
    if not pairs or not wanted:
        return None
    outputs, gradients = zip(*pairs, strict=True)
    with differentiable(), trace:
        results = torch.autograd.grad(outputs, wanted, gradients, allow_unused=True)
    return trace.find(g for g in results if g is not None)


def _from_trace(
    model: nn.Module, calls: Sequence[ModelCall], trace: OperationTrace, found: Operation | Leaf, phase: str
) -> Explanation:
    operation = found.user if isinstance(found, Leaf) else found
    layer, module = trace.layer_of(operation.module), _module(model, operation.module)
    place = operation.place or (calls[0].place if calls else None)
    line = None if place is None else str(place)
    length = _num_samples(calls)
    if isinstance(found, Leaf):
        origin, tensor = _kind_of(model, calls, found.tensor)
        what = "NaN" if has_nan(found.tensor) else "Inf"
        why = {INPUT: f"the batch contains {what}", WEIGHT: f"{tensor} contains {what}"}
        rows = () if _is_packed(calls) else bad_samples(found.tensor, None if origin == INPUT else length)
        return Explanation(
            origin, why.get(origin, f"a tensor contains {what}"), phase, operation.node, module, layer, line, tensor,
            samples=() if origin == WEIGHT else rows, reproducible=True,
        )  # fmt: skip
    origin, why = operation.reason
    dtype = str(operation.output.dtype).removeprefix("torch.")
    rows = bad_samples(operation.output, length)
    return Explanation(
        origin, why, phase, operation.node, module, layer, line, dtype=dtype, samples=rows, reproducible=True
    )


def _from_loss(calls: Sequence[ModelCall], found: FoundInLoss, phase: str, frames: list[FrameType]) -> Explanation:
    origin, why = found.judgement
    place = calls[0].place if calls else None
    line = find_line(place, found.operation) or (None if place is None else str(place))
    tensor, name = found.tensor, None
    if origin == TARGET and tensor is None:
        name, tensor = find_target(frames, _num_samples(calls))
    dtype = None if tensor is None else str(tensor.dtype).removeprefix("torch.")
    samples = () if tensor is None else bad_samples(tensor)
    return Explanation(origin, why, phase, found.operation, None, None, line, name, dtype, samples)


def _kind_of(model: nn.Module, calls: Sequence[ModelCall], x: Tensor) -> tuple[str, str | None]:
    path = is_weight(model, x)
    if path is not None:
        return WEIGHT, path
    if is_among(x, [(call.args, call.kwargs) for call in calls]):
        for call in calls:
            for index, value in enumerate((*call.args, *call.kwargs.values())):
                if is_among(x, value):
                    return INPUT, f"argument {index}" if index < len(call.args) else [*call.kwargs][
                        index - len(call.args)
                    ]
    return INPUT, None


def _module(model: nn.Module, path: str | None) -> str | None:
    return type(model).__name__ if path == "" else path


def _is_mask(found: Operation | Leaf) -> bool:
    """Return whether infinities in the outputs were put there on purpose."""
    if isinstance(found, Leaf):
        return not has_nan(found.tensor) and not has_positive_infinity(found.tensor)
    return found.is_intended and not found.is_nan


def _not_again(calls: Sequence[ModelCall], phase: str) -> Explanation:
    if any(call.was_changed for call in calls):
        return Explanation(
            None, "the step could not be replayed, since the model's inputs were changed in place", phase
        )
    why = NOT_AGAIN if phase == FORWARD else f"{NOT_AGAIN}; {CHANGED}"
    return Explanation(None, why, phase, reproducible=False)


def _unknown_target(calls: Sequence[ModelCall], frames: list[FrameType]) -> Explanation | None:
    """Return the targets as the origin, if a variable as long as the batch contains NaN."""
    num_samples = _num_samples(calls)
    name, tensor = find_target(frames, num_samples)
    if tensor is None or len(tensor) != num_samples:
        return None
    return Explanation(TARGET, f"{name} contains NaN", FORWARD, tensor=name, samples=bad_samples(tensor))


def _is_packed(calls: Sequence[ModelCall]) -> bool:
    """Return whether the inputs are packed sequences, whose rows are no examples."""
    return any(isinstance(x, PackedSequence) for call in calls for x in (*call.args, *call.kwargs.values()))


def _num_samples(calls: Sequence[ModelCall]) -> int | None:
    """Return the length of the batch: of the first tensor that the model was given."""
    return next((len(x) for x in tensors_in([(c.args, c.kwargs) for c in calls]) if x.dim()), None)
