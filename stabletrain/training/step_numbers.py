"""Numbers of the training steps of any LightningModule, also of one with several optimizers."""

from __future__ import annotations

import pytorch_lightning as pl
from torch import nn

from stabletrain.training.module import TrainingModule


def current_step(trainer: pl.Trainer) -> int:
    """Return the number of the step that a batch is part of, from 0.

    Lightning counts the steps of all optimizers together, so that the generator of a GAN would take steps 1, 3,
    5, … and the discriminator the others. With several optimizers, the steps that belong to one batch have its number.
    """
    return trainer.global_step if len(trainer.optimizers) < 2 else max(0, trainer.fit_loop.total_batch_idx)


def last_step(trainer: pl.Trainer) -> int:
    """Return the number of the last step that was taken, once its batch is done; 0 before the first."""
    return max(0, trainer.global_step - 1) if len(trainer.optimizers) < 2 else current_step(trainer)


def trained_network(module: pl.LightningModule) -> nn.Module:
    """Return what is watched: of our own module its network, of any other the module itself.

    The attribute `network` of a user's module may be anything: a string, a method, or a backbone without its head.
    """
    return module.network if isinstance(module, TrainingModule) else module
