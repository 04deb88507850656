"""Callbacks for any `pytorch_lightning.Trainer`."""

from stabletrain.training.doctor import Doctor as Doctor
from stabletrain.training.offender import OffenderBundle as OffenderBundle
from stabletrain.training.watch import GradientWatch as GradientWatch
