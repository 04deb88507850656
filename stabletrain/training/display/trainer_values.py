"""Read from a trainer what is shown of its run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch import Tensor

from stabletrain.diagnosis.openings import MIN_STEPS
from stabletrain.signal.layer_statistics import Measures
from stabletrain.signal.snapshot import Snapshot
from stabletrain.training.callbacks.doctor_callback import DoctorCallback
from stabletrain.training.callbacks.gradient_watch import GradientWatch
from stabletrain.training.display.pace import Budget
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import Finding

PREFERRED = (names.VAL_ACCURACY, names.VAL_MSE)  # of the validation's metrics, the one that is shown


def budget_of(trainer: pl.Trainer, module: pl.LightningModule) -> Budget:
    """Return when a run ends, once its training loader is set up."""
    num_batches = trainer.num_training_batches
    epochs = trainer.max_epochs
    return Budget(
        num_steps=trainer.max_steps if trainer.max_steps > 0 else None,
        num_epochs=epochs if epochs is not None and epochs > 0 else None,
        num_batches=int(num_batches) if math.isfinite(num_batches) and num_batches > 0 else None,
        batches_per_step=trainer.accumulate_grad_batches if module.automatic_optimization else None,
    )


def loss_of(module: pl.LightningModule, outputs: Any) -> float | None:
    """Return the loss of the last batch, which waits for a GPU; None without one.

    Args:
        module: Its `last_loss` is read if it has one.
        outputs: What its `training_step` returned: the loss, or a mapping with `loss`.
    """
    found = getattr(module, "last_loss", None)
    if not isinstance(found, Tensor):
        found = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    return found.item() if isinstance(found, Tensor) and found.numel() == 1 else None


def metric_of(trainer: pl.Trainer) -> tuple[str, float] | None:
    """Return a metric of the last validation: accuracy or mean squared error, or else the first one, or the loss."""
    validated = {k: v for k, v in trainer.callback_metrics.items() if not names.is_monitoring(k)}
    validated = {k: v for k, v in validated.items() if names.metric_of(k, names.TRAIN) is None}
    scores = [k for k in validated if "loss" not in k]
    name = next((k for k in (*PREFERRED, *scores, *validated) if k in validated), None)
    return None if name is None else (name, float(validated[name]))


def watch_of(trainer: pl.Trainer) -> GradientWatch | None:
    """Return the callback that measures the gradients."""
    callbacks: Any = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    return next((x for x in callbacks if isinstance(x, GradientWatch)), None)


def findings_of(trainer: pl.Trainer) -> Sequence[Finding] | None:
    """Return the doctor's findings above `info`; None before its first diagnosis or without a doctor."""
    callbacks: Any = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    doctor = next((x for x in callbacks if isinstance(x, DoctorCallback)), None)
    if doctor is None or trainer.global_step <= MIN_STEPS:
        return None
    return [finding for finding in doctor.findings if finding.alarms]


def gradients_of(snapshot: Snapshot | None) -> tuple[tuple[float, float] | None, int]:
    """Return the smallest and the largest finite rms of a layer, and the number of layers with Inf or NaN."""
    if snapshot is None or not len(snapshot.layers):
        return None, 0
    arrays = Measures.of(snapshot.layers).arrays
    finite = arrays.rms[np.isfinite(arrays.rms)]
    return (float(finite.min()), float(finite.max())) if len(finite) else None, int((arrays.num_nonfinite > 0).sum())
