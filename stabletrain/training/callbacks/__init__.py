"""Callbacks for any `pytorch_lightning.Trainer` and any LightningModule."""

from stabletrain.training.callbacks.doctor_callback import DoctorCallback as Doctor
from stabletrain.training.callbacks.gradient_watch import GradientWatch
from stabletrain.training.callbacks.offender_bundle import OffenderBundle

__all__ = ["Doctor", "GradientWatch", "OffenderBundle"]
