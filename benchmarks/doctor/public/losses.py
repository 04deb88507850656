"""The losses: for each of Keras, PyTorch's function of that name; and the loss of the best constant prediction."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-7  # keras.backend.epsilon()
CATEGORICAL = "categorical_crossentropy"


def binary_crossentropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each output, taken as a probability.

    PyTorch refuses outputs and targets outside of [0, 1], Keras does not: for those, its formula, which cuts them off.
    """
    if all(values.min() >= 0 and values.max() <= 1 for values in (outputs, targets)):
        return F.binary_cross_entropy(outputs, targets)
    p = outputs.clamp(EPSILON, 1 - EPSILON)
    return -(targets * p.log() + (1 - targets) * (1 - p).log()).mean()


def categorical_crossentropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of logits, with labels or with probabilities as targets."""
    if targets.is_floating_point():
        return F.cross_entropy(outputs, targets)
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "mae": F.l1_loss,
    "binary_crossentropy": binary_crossentropy,
    "binary_crossentropy_with_logits": F.binary_cross_entropy_with_logits,
    CATEGORICAL: categorical_crossentropy,
}


def prior_of(loss: str, targets: Tensor) -> float:
    """Return the loss of the best constant prediction."""
    if not targets.is_floating_point():
        targets = F.one_hot(targets).float()
    flat = targets.reshape(-1, targets.shape[-1])
    mean = flat.mean(0)
    if loss == CATEGORICAL:
        return float(-(flat * (mean / mean.sum()).clamp_min(1e-12).log()).sum(-1).mean())
    if loss.startswith("binary"):
        return float(binary_crossentropy(mean.expand_as(flat), flat))
    constant = flat.median(0).values if loss == "mae" else mean
    return float(LOSSES[loss](constant.expand_as(flat), flat))
