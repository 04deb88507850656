"""Recognize a loss function by the gradient at the network's outputs, which also tells the targets.

A loss is computed anywhere: in a module, in a function, by hand. What can always be seen are the outputs z, the loss L
and the gradient g = ∂L/∂z, and for the usual losses these determine the targets:

| loss, summed with weight w | gradient | hence |
|---|---|---|
| cross entropy of logits | w (softmax(z) - onehot(y)) | y is where g < 0 |
| negative log likelihood of log-probabilities | -w onehot(y) | y is where g < 0 |
| binary cross entropy of logits | w (σ(z) - y) | y = 1 where g < 0 |
| binary cross entropy of probabilities | w (z - y) / (z (1 - z)) | y = 1 where g < 0 |
| squared error | 2 w (z - y) | y = z - g / 2w, with w = Σg² / 4L |

A loss is recognized only if the gradient and the loss that follow from these targets are the ones that were observed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

TOLERANCE = 1e-2  # of the norm of the gradient, and of the loss; half precision alone loses 4e-3
SCALE_TOLERANCE = 2e-4  # of the weight of a squared error, whose gradient alone fits any loss
MAX_DIVISOR = 64  # a loss may be divided by the number of accumulated batches before its backward pass
MAX_ZERO = 0.1  # share of the outputs without a gradient: more of them are no targets, as in Q-learning
SURE = 0.999
ROUNDING = 1e-5  # of the outputs: what exploded hides the targets in its rounding errors
TINY = 1e-12


class Targets(NamedTuple):
    """Targets of one batch, and the loss that was computed from them.

    Attributes:
        kind: `classes`, `binary` or `real`.
        values: (n,) class indices, or (n, D) targets.
        num_classes: Number of classes; D for other kinds.
        scale: The loss divided by its mean over the targets: 1 for a mean, n for a sum.
    """

    kind: str
    values: Tensor
    num_classes: int
    scale: float


def recognize(outputs: Tensor, gradient: Tensor, loss: float) -> Targets | None:
    """Return the targets of a loss; None if it is no loss of the table.

    Args:
        outputs: What the network returned, of any shape.
        gradient: The gradient with respect to it.
        loss: The loss of the batch, before a factor for accumulation or half precision, or after it.
    """
    z, g = outputs.detach().float(), gradient.detach().float()
    if not (math.isfinite(loss) and z.isfinite().all() and g.isfinite().all() and g.any()):
        return None
    for axis in dict.fromkeys((-1, 1)) if z.dim() > 2 else (-1,):
        if z.dim() > 1 and z.shape[axis] > 1:
            found = _classes(_rows(z, axis), _rows(g, axis), loss)
            if found is not None:
                return found
    z, g = (x.reshape(len(x), -1) if x.dim() else x.reshape(1, 1) for x in (z, g))
    used = g.any(dim=0)  # the loss may be that of the last position of a sequence only
    z, g = z[:, used], g[:, used]
    return _binary(z, g, loss) or _real(z, g, loss)


def _rows(x: Tensor, axis: int) -> Tensor:
    return x.movedim(axis, -1).reshape(-1, x.shape[axis])


def _classes(z: Tensor, g: Tensor, loss: float) -> Targets | None:
    """Recognize cross entropy. Rows without a gradient, such as padding, are left out."""
    kept = g.any(dim=1)
    z, g = z[kept], g[kept]
    labels = g.argmin(dim=1)
    onehot = F.one_hot(labels, z.shape[1]).float()
    log_p = z.log_softmax(dim=1)
    expected = log_p.exp() - onehot
    found = _fit(g, expected, -log_p.gather(1, labels[:, None]), loss)
    if found is None and torch.allclose(z.logsumexp(dim=1), z.new_zeros(()), atol=1e-2):
        found = _fit(g, -onehot, -z.gather(1, labels[:, None]), loss)
    return None if found is None else Targets("classes", labels, z.shape[1], found)


def _binary(z: Tensor, g: Tensor, loss: float) -> Targets | None:
    y = (g < 0).float()
    if bool(((z.sigmoid() - y).abs() > SURE).all()):
        return None  # all wrong and sure: the gradient is as large everywhere, as that of a squared error far off
    scale = _fit(g, z.sigmoid() - y, F.binary_cross_entropy_with_logits(z, y, reduction="none"), loss)
    if scale is None and z.min() >= 0 and z.max() <= 1:
        inner = z.clamp(1e-6, 1 - 1e-6)
        scale = _fit(g, (z - y) / (inner * (1 - inner)), F.binary_cross_entropy(z, y, reduction="none"), loss)
    return None if scale is None else Targets("binary", y, y.shape[1], scale)


def _real(z: Tensor, g: Tensor, loss: float) -> Targets | None:
    """Recognize a squared error that is a sum or a mean, over all or over the examples, or half of it."""
    if loss <= 0 or (g == 0).float().mean() > MAX_ZERO or (z.shape[1] > 1 and _adds_up_to_zero(g)):
        return None
    weight = float(g.square().sum()) / (4 * loss)
    scale = weight * z.numel()
    usual = (1.0, float(z.numel()), z.numel() / len(z))
    if not any(abs(scale / (factor * s) - 1) < SCALE_TOLERANCE for s in usual for factor in (1.0, 0.5)):
        return None
    y = z - g / (2 * weight)
    if ROUNDING * float(z.abs().max()) > float(y.square().mean().sqrt()):
        return None
    return Targets("real", y, y.shape[1], scale)


def _adds_up_to_zero(g: Tensor) -> bool:
    """Return whether the gradient of each example does, as it does wherever a softmax follows."""
    return float(g.sum(dim=-1).norm()) < 1e-3 * float(g.norm())


def _fit(g: Tensor, expected: Tensor, losses: Tensor, loss: float) -> float | None:
    """Return the loss over the mean of `losses`, if g is `expected` times a factor that the loss explains.

    Args:
        g: The observed gradient.
        expected: That of the sum of `losses`.
        losses: The loss of each target.
        loss: The observed loss.
    """
    square = float((expected * expected).sum())
    if square <= TINY:
        return None
    weight = float((g * expected).sum()) / square
    total = float(losses.sum())
    if weight <= 0 or total <= TINY or loss <= 0:
        return None
    if float((g - weight * expected).norm()) > TOLERANCE * float(g.norm()):
        return None
    return loss * losses.numel() / total if _is_usual(weight * total / loss) else None


def _is_usual(factor: float) -> bool:
    """Return whether a loss is multiplied by `factor` before its backward pass: 1, 1/n, or a power of two."""
    near: Callable[[float, float], bool] = lambda a, b: abs(a / b - 1) < TOLERANCE  # noqa: E731
    divisor = round(1 / factor) if factor < 1 else 1
    return (1 <= divisor <= MAX_DIVISOR and near(factor * divisor, 1)) or near(factor, 2.0 ** round(math.log2(factor)))
