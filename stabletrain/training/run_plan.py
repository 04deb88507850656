"""What the doctor needs to know before the first step: the training budget and the loss at chance level."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from stabletrain.data import Data
from stabletrain.signal.layer_names import clean_name
from stabletrain.torch_tools.frozen import frozen_share
from stabletrain.torch_tools.weight_gain import weight_gain

MAX_TARGETS = 4096  # read if examples are created one by one


def describe_training(
    network: nn.Module, data: Any, trainer: pl.Trainer, num_batches: int | None, label_smoothing: float = 0.0
) -> dict[str, Any]:
    """Return `num_steps`, `steps_per_epoch`, `num_dims` by path, `frozen_share`, `weight_gain` and `prior_loss`.

    Args:
        network: The network to train.
        data: A `Data`; for anything else `prior_loss` is None.
        trainer: The trainer, which limits epochs, steps and batches.
        num_batches: Number of training batches per epoch; None if unknown.
        label_smoothing: Label smoothing of the loss.
    """
    limit = trainer.limit_train_batches
    if num_batches is not None:
        num_batches = min(num_batches, limit) if isinstance(limit, int) else int(num_batches * limit)
    per_epoch = None if num_batches is None else math.ceil(num_batches / trainer.accumulate_grad_batches)
    limits = [trainer.max_steps] if trainer.max_steps > 0 else []
    if per_epoch and (trainer.max_epochs or -1) > 0:
        limits.append(per_epoch * int(trainer.max_epochs or 0))
    return {
        "num_steps": min(limits, default=None),
        "steps_per_epoch": per_epoch,
        "num_dims": {clean_name(path): p.dim() for path, p in network.named_parameters()},
        "frozen_share": frozen_share(network),
        "weight_gain": weight_gain(network),
        "prior_loss": prior_loss(data, label_smoothing) if isinstance(data, Data) else None,
    }


def prior_loss(data: Data, label_smoothing: float = 0.0) -> float:
    """Return the training loss of the best constant prediction: chance level.

    Classification: the entropy H(q) = −Σ q_k log q_k of the class frequencies q, smoothed like the labels.
    Regression: the variance of the targets, averaged over the outputs.

    Args:
        data: The data set, whose training targets are read.
        label_smoothing: ε, from 0 to below 1: q becomes (1 − ε) q + ε / K for K classes.
    """
    targets = _targets(data)
    if data.task == "regression":
        return float(targets.flatten(0, -2).var(0, unbiased=False).mean())
    shares = torch.bincount(targets.flatten(), minlength=data.num_outputs).double() / targets.numel()
    shares = (1 - label_smoothing) * shares + label_smoothing / data.num_outputs
    return float(torch.special.entr(shares).sum())


def _targets(data: Data) -> Tensor:
    if isinstance(data.train, TensorDataset):
        return data.train.tensors[1]
    return torch.stack([data.train[i][1] for i in range(min(MAX_TARGETS, len(data.train)))])
