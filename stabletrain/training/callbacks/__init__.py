"""Callbacks for any LightningModule and the trainers of `pytorch_lightning` and `lightning.pytorch`."""

from stabletrain.training.callbacks.doctor_callback import DoctorCallback as Doctor
from stabletrain.training.callbacks.gradient_watch import GradientWatch
from stabletrain.training.callbacks.offender_bundle import OffenderBundle

__all__ = ["Doctor", "GradientWatch", "OffenderBundle"]
