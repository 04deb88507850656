"""Callbacks for any `pytorch_lightning.Trainer`."""

from stabletrain.training.callbacks import GradientWatch as GradientWatch
