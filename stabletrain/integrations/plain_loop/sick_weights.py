"""Weights that became Inf or NaN after the last step that the doctor saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn
from torch.optim import Optimizer

from stabletrain.diagnosis.observations import Observations
from stabletrain.inspection.nonfinite.weights import explain_weight
from stabletrain.torch_tools.local_shards import any_sharded
from stabletrain.vocabulary.kinds import NONFINITE
from stabletrain.vocabulary.notice import Notice


def with_bad_weights(
    observations: Observations, model: nn.Module, optimizers: Sequence[Optimizer], step: int
) -> Observations:
    """Return the observations with a notice, if a weight is not finite now and none was known to be.

    A forward pass may raise on such a weight, as torch's distributions do: then no step shows it any more.

    Args:
        observations: What was measured.
        model: The watched model.
        optimizers: Those that step it.
        step: Number of steps seen so far.
    """
    is_known = any(notice.kind == NONFINITE.name for notice in observations.notices)
    if not step or is_known or any_sharded(model.parameters()):
        return observations
    found = explain_weight(model, optimizers, step)
    if found is None:
        return observations
    notice = Notice(NONFINITE.name, step, step, found.layer, found.evidence())
    return replace(observations, notices=(*observations.notices, notice))
