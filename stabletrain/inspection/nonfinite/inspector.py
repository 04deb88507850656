"""Notices the first non-finite value of a training, and explains it while all that led to it is still known."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from stabletrain.inspection.inspector import Inspector, StepView
from stabletrain.inspection.nonfinite.explain import explain, explain_before_weights
from stabletrain.inspection.nonfinite.explanation import Explanation
from stabletrain.inspection.nonfinite.loss_part import LossPart
from stabletrain.inspection.nonfinite.model_call import ModelCall
from stabletrain.inspection.nonfinite.variables import find_bad, find_loss, raised_frames, running_frames
from stabletrain.inspection.nonfinite.weights import explain_weight
from stabletrain.signal.domains import is_bad
from stabletrain.signal.layer_statistics import Measures
from stabletrain.torch_tools.backward_calls import ignore_backward, observe_backward
from stabletrain.torch_tools.local_shards import any_sharded
from stabletrain.torch_tools.outermost_calls import OutermostCalls
from stabletrain.vocabulary.kinds import NONFINITE
from stabletrain.vocabulary.notice import Notice
from stabletrain.vocabulary.origins import ORIGIN

MAX_CALLS = 32  # of the model in one step, and of `backward`, of which all is noted
MAX_BRIEF = 1000  # further calls of the model, of which the random state is not noted
MAX_ELEMENTS = 2**26  # of the arguments that are kept; beyond, the oldest calls can no longer be repeated
ANOMALY = "returned nan values"  # in what torch.autograd.detect_anomaly raises, torch 2.13.0
MAX_EXPLAINED = 3  # steps of a run; each explanation costs some passes


class NonFiniteInspector(Inspector):
    """Explains the first step whose loss or gradient is not finite: the operation, the module and the line.

    On every step it keeps references to the arguments and outputs of the model's calls, the state of torch's random
    number generator (5 kB), and what risky operations of the loss, such as a square root, saved for their derivative;
    all of it until the step has been inspected. Only a step that is not finite is replayed.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._calls: list[ModelCall] = []
        self._losses: list[LossPart] = []
        self._num_elements = 0  # of the arguments of these calls
        self._outermost = OutermostCalls(model, self)
        self._num_explained = 0
        self._was_finite = True
        self._waits_for_others = _waits_for_others(model)
        observe_backward(self.before_backward)

    def before_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelCall | None:
        """Note a call of the model."""
        if not self._was_finite or len(self._calls) >= MAX_CALLS + MAX_BRIEF:
            return None
        with self._harmless():
            call = ModelCall.begin(module, args, kwargs, briefly=len(self._calls) >= MAX_CALLS)
            self._calls.append(call)
            self._num_elements += call.size
            if self._num_elements > MAX_ELEMENTS:
                self._drop_oldest()
            return call

    def after_call(self, call: ModelCall | None, output: Any) -> None:
        """Note the output of a call."""
        if call is not None:
            with self._harmless():
                call.end(output)

    def before_backward(self, loss: Tensor) -> None:
        """Keep what the backward pass of a loss will free."""
        if not self._was_finite or loss.grad_fn is None or len(self._losses) >= MAX_CALLS:
            return
        if self._calls and not any(call.ends for call in self._calls):
            return
        with self._harmless():
            ends = [node for call in self._calls for node in call.ends]
            bad = loss.device.type == "cpu" and loss.numel() == 1 and not math.isfinite(loss.item())
            self._losses.append(LossPart(loss, ends, is_bad=bad))

    def _drop_oldest(self) -> None:
        """Release arguments, such as images of micro-batches that the loop has forgotten, but not those of the last."""
        for call in self._calls[:-1]:
            if not call.is_dropped and self._num_elements > MAX_ELEMENTS:
                self._num_elements -= call.size
                call.drop()

    def _forget(self) -> None:
        self._calls, self._losses, self._num_elements = [], [], 0

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        """Let training go on as without the doctor, whatever goes wrong here."""
        try:
            yield
        except Exception as error:
            logging.getLogger(__name__).warning("origins of non-finite values are no longer looked for: %s", error)
            self.detach()

    @torch.no_grad()
    def inspect(self, view: StepView) -> Iterable[Notice]:
        """Return a notice with the origin if this step is the first that is not finite."""
        try:
            if self._waits_for_others:
                return ()
            bad_loss = self._has_bad_loss(view)
            is_finite = not bad_loss and not _has_bad_gradient(view)
            if is_finite or not self._was_finite or self._num_explained >= MAX_EXPLAINED:
                self._was_finite = is_finite
                return ()
            return (self._notice(view, bad_loss, running_frames()),)
        finally:
            self._forget()
            with self._harmless():
                self._outermost.settle()

    @torch.no_grad()
    def inspect_failure(self, view: StepView, error: BaseException) -> Iterable[Notice]:
        """Return a notice if a NaN was met on a step that raised, in a check of the user's own or in torch's."""
        try:
            is_about_numbers = not isinstance(error, KeyboardInterrupt)
            if self._waits_for_others or not self._was_finite or not is_about_numbers:
                return ()
            frames = raised_frames(error)
            with self._harmless():
                if not self._has_bad_loss(view):
                    self._keep_loss(find_loss(frames))
            bad_loss = self._has_bad_loss(view)
            in_backward = not bad_loss and (ANOMALY in str(error) or _has_bad_gradient(view))
            if not bad_loss and not in_backward and not find_bad(frames) and not _has_bad_weight(self.model):
                return ()
            notice = self._notice(view, not in_backward, frames)
            return (notice,) if bad_loss or in_backward or notice.evidence[ORIGIN] is not None else ()
        finally:
            self._forget()

    def _keep_loss(self, loss: Tensor | None) -> None:
        """Keep the graph of a loss that is not finite, and whose backward pass never came."""
        if loss is not None:
            ends = [node for call in self._calls for node in call.ends]
            self._losses.append(LossPart(loss, ends, is_bad=True))

    def detach(self) -> None:
        """Stop following the model."""
        self._outermost.close()
        ignore_backward(self.before_backward)
        self._forget()

    def _has_bad_loss(self, view: StepView) -> bool:
        if any(part.is_bad for part in self._losses):
            return True
        known = self._losses and all(part.loss.device.type == "cpu" for part in self._losses)
        losses = [view.loss] if view.loss is not None else [] if known else [part.loss for part in self._losses]
        return any(not _is_finite(loss) for loss in losses)

    def _notice(self, view: StepView, bad_loss: bool, frames: list[FrameType]) -> Notice:
        self._was_finite = False
        self._num_explained += 1
        found = self._explain(view, bad_loss, frames)
        return Notice(NONFINITE.name, view.step, view.step, found.layer, found.evidence())

    def _explain(self, view: StepView, bad_loss: bool, frames: list[FrameType]) -> Explanation:
        found = explain_weight(self.model, view.optimizers, view.step)
        try:
            if found is not None:
                return explain_before_weights(self._calls, self._losses, frames) or found
            return explain(self.model, self._calls, self._losses, bad_loss, frames)
        except Exception as error:  # a model may not stand a second call; training must go on as without the doctor
            logging.getLogger(__name__).warning("the origin of a non-finite value was not found: %s", error)
            return Explanation(None, f"the step could not be replayed: {error}")


def _waits_for_others(model: nn.Module) -> bool:
    """Return whether a call of the model waits for other processes, which may not repeat theirs."""
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    return several and (
        any_sharded(model.parameters()) or any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    )


def _is_finite(loss: Tensor | float) -> bool:
    if isinstance(loss, Tensor) and loss.numel() != 1:
        return bool(loss.isfinite().all())
    return math.isfinite(loss)


def _has_bad_weight(model: nn.Module) -> bool:
    """Return whether a trained weight is not finite: some programs replace the loss then, and lose its graph."""
    return any(p.requires_grad and is_bad(p.detach()) for p in model.parameters())


def _has_bad_gradient(view: StepView) -> bool:
    if view.snapshot is not None:
        layers = view.snapshot.layers
        if isinstance(layers, Measures):
            return bool(layers.arrays.num_nonfinite.any())
        return any(layer.num_nonfinite for layer in layers)
    gradients = [p.grad for p in view.model.parameters() if p.grad is not None]
    if not gradients or math.isfinite(torch.nn.utils.get_total_norm(gradients)):
        return False
    return any(not bool(g.isfinite().all()) for g in gradients)  # a norm may overflow by itself
