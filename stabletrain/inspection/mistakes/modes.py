"""Training in evaluation mode, and batch norm of single examples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.dropout import _DropoutNd  # pyright: ignore[reportPrivateUsage]

from stabletrain.inspection.inspector import Inspector, StepView
from stabletrain.inspection.mistakes import graph
from stabletrain.inspection.mistakes.cadence import is_inspected
from stabletrain.inspection.mistakes.wording import listed
from stabletrain.vocabulary.kinds import WRONG_MODE
from stabletrain.vocabulary.notice import ADVICE, CERTAIN, CERTAINTY, DETAIL, HARMLESS, POSSIBLE, REMEDY, Notice

ENOUGH = 3  # inspected steps in a row
BATCH_NORM = ("NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm")
EVAL = "evaluation mode"


class ModeInspector(Inspector):
    """Compares the mode of the model and of its batch norm with the fact that it is trained."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        norms = [(path, m) for path, m in model.named_modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        self._norms = [(path, norm) for path, norm in norms if _is_trained(norm)]
        self._has_dropout = any(isinstance(m, _DropoutNd) and m.p > 0 for m in model.modules())
        self._was_training = False
        self._num_eval = self._num_single = 0
        self._is_done = not norms and not self._has_dropout

    def inspect(self, view: StepView) -> list[Notice]:
        """Return what is in the wrong mode."""
        if self._is_done:
            return []
        single = self._find_single(view) if is_inspected(view.step) and self._norms else []
        if self.model.training:
            self._was_training, self._num_eval = True, 0
            return single or self._find_norms_in_eval(view)
        self._num_eval += 1
        if self._num_eval < ENOUGH:
            return single
        self._is_done = True
        return [*single, self._in_eval(view)]

    def _in_eval(self, view: StepView) -> Notice:
        first = view.step - ENOUGH + 1
        since = f" since step {first}" if self._was_training else ""
        detail = f"The model is trained in {EVAL}{since}."
        certainty = HARMLESS
        if self._norms and (self._was_training or _never_updated([norm for _, norm in self._norms])):
            certainty = CERTAIN
        elif self._norms or self._was_training:
            certainty = POSSIBLE
        evidence: dict[str, Any] = {CERTAINTY: certainty, "mode": EVAL, "was_training": self._was_training}
        evidence |= {"batch_norm": [path for path, _ in self._norms][:20], DETAIL: detail}
        evidence |= {ADVICE: "Dropout and batch norm then act as in a validation: call model.train() after each one."}
        evidence |= {REMEDY: "model.train() before the training steps"}
        return Notice(WRONG_MODE.name, first, view.step, evidence=evidence)

    def _find_norms_in_eval(self, view: StepView) -> list[Notice]:
        """Find batch norm that was never trained and is in evaluation mode although the model is in training mode."""
        if view.step != ENOUGH:
            return []
        wrong = [(path, norm) for path, norm in self._norms if not norm.training and _never_updated([norm])]
        if not wrong:
            return []
        self._is_done = True
        names = [path for path, _ in wrong]
        detail = f"{listed(names)} run in {EVAL}, with statistics that were never updated: nothing is normalized."
        evidence: dict[str, Any] = {CERTAINTY: CERTAIN, "mode": EVAL, "batch_norm": names[:20], DETAIL: detail}
        return [Notice(WRONG_MODE.name, 0, view.step, evidence=evidence)]

    def _find_single(self, view: StepView) -> list[Notice]:
        sizes = [graph.shape_of(node) for node in graph.walk(view.loss) if _is_training_norm(node)]
        sizes = [size for size in sizes if size is not None and len(size) > 1]
        self._num_single = self._num_single + 1 if sizes and all(size[0] == 1 for size in sizes) else 0
        if self._num_single != ENOUGH:
            return []
        detail = "Every batch has one example, and batch norm normalizes it by itself."
        evidence: dict[str, Any] = {CERTAINTY: CERTAIN, "batch_size": 1, "output_shape": list(sizes[0]), DETAIL: detail}
        return [Notice(WRONG_MODE.name, max(0, view.step - ENOUGH + 1), view.step, evidence=evidence)]


def _is_trained(norm: _BatchNorm) -> bool:
    """Return whether a batch norm has parameters that learn; without, it was frozen on purpose."""
    return any(p.requires_grad for p in norm.parameters())


def _never_updated(norms: list[_BatchNorm]) -> bool:
    """Return whether the running statistics are still those of a new layer."""
    with torch.no_grad():
        return all(
            norm.num_batches_tracked is not None
            and int(norm.num_batches_tracked) == 0
            and _all_equal(norm.running_mean, 0)
            and _all_equal(norm.running_var, 1)
            for norm in norms
        )


def _all_equal(values: Tensor | None, value: float) -> bool:
    return values is not None and bool((values == value).all())


def _is_training_norm(node: Any) -> bool:
    return graph.name_of(node) in BATCH_NORM and bool(getattr(node, "_saved_training", True))
