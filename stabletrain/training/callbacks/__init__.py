"""Callbacks for any `pytorch_lightning.Trainer`."""

from stabletrain.training.callbacks.doctor_callback import Doctor as Doctor
from stabletrain.training.callbacks.gradient_watch import GradientWatch as GradientWatch
from stabletrain.training.callbacks.offender_bundle import OffenderBundle as OffenderBundle
