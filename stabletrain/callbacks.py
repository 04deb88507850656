"""Callbacks for any `pytorch_lightning.Trainer`."""

from stabletrain.training.watch import GradientWatch as GradientWatch
