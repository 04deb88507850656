"""Losses as Keras defines them on the outputs, and the loss of the best constant prediction."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

EPSILON = 1e-7  # keras.backend.epsilon()


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error."""
    return (outputs - targets).square().mean()


def mae(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean absolute error."""
    return (outputs - targets).abs().mean()


def binary_crossentropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of each output, taken as a probability."""
    p = outputs.clamp(EPSILON, 1 - EPSILON)
    return -(targets * p.log() + (1 - targets) * (1 - p).log()).mean()


def categorical_crossentropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of the outputs, divided by their sum and taken as probabilities."""
    p = (outputs / outputs.sum(-1, keepdim=True)).clamp(EPSILON, 1 - EPSILON)
    return -(targets * p.log()).sum(-1).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": mse,
    "mae": mae,
    "binary_crossentropy": binary_crossentropy,
    "categorical_crossentropy": categorical_crossentropy,
}


def prior_of(loss: str, targets: Tensor) -> float:
    """Return the loss of the best constant prediction."""
    flat = targets.reshape(-1, targets.shape[-1])
    constant = flat.median(0).values if loss == "mae" else flat.mean(0)
    return float(LOSSES[loss](constant.expand_as(flat), flat))
