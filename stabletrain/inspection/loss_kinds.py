"""Recognize a loss function by the gradient at the network's outputs, which also tells the targets.

A loss is computed anywhere: in a module, in a function, by hand. What can always be seen are the outputs z, the loss L
and the gradient g = ∂L/∂z, and for the usual losses these determine the targets:

| loss, summed with weight w | gradient | hence |
|---|---|---|
| cross entropy of logits | w (softmax(z) - onehot(y)) | y is where g < 0, or where z is largest |
| negative log likelihood of log-probabilities | -w onehot(y) | y is where g < 0 |
| binary cross entropy of logits | w (σ(z) - y) | y = 1 where g < 0, or g = 0 and z > 0 |
| binary cross entropy of probabilities | w (z - y) / (z (1 - z)) | y = 1 where g < 0, or g = 0 and z > ½ |
| squared error | 2 w (z - y) | y = z - g / 2w, with w = Σg² / 4L |

A loss is recognized only if the gradient and the loss that follow from these targets are the ones that were observed.
So is a sum of such losses, each of an output of its own: the gradient alone determines w and thereby every part but a
squared error, which is what remains of the sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
        mean: That mean.
    """

    kind: str
    values: Tensor
    num_classes: int
    scale: float
    mean: float


def recognize(outputs: Tensor, gradient: Tensor, loss: float) -> Targets | None:
    """Return the targets of a loss; None if it is no loss of the table.

    Args:
        outputs: What the network returned, of any shape.
        gradient: The gradient with respect to it.
        loss: The loss of the batch, before a factor for accumulation or half precision, or after it.
    """
    z, g = outputs.detach().float(), gradient.detach().float()
    if not (math.isfinite(loss) and _is_usable(z, g)):
        return None
    return _labels(z, g, loss) or _real(*_columns(z, g), loss)


def recognize_sum(outputs: Sequence[tuple[Tensor, Tensor]], loss: float) -> tuple[Targets, ...] | None:
    """Return the targets of each term of a loss that is a sum; None if it is no sum of losses of the table.

    Args:
        outputs: Pairs of an output and the gradient with respect to it. Those without a gradient are left out.
        loss: The loss of the batch.
    """
    pairs = [(z.detach().float(), g.detach().float()) for z, g in outputs]
    pairs = [(z, g) for z, g in pairs if g.any()]
    if len(pairs) < 2 or not (math.isfinite(loss) and all(_is_usable(z, g) for z, g in pairs)):
        return None
    found = [_labels(z, g) for z, g in pairs]
    rest = loss - sum(x.scale * x.mean for x in found if x is not None)
    others = [pair for pair, x in zip(pairs, found, strict=True) if x is None]
    if not others:
        return tuple(x for x in found if x is not None) if abs(rest) < TOLERANCE * abs(loss) else None
    remaining = _real(*_columns(*others[0]), rest) if len(others) == 1 else None
    return None if remaining is None else tuple(x or remaining for x in found)


def _is_usable(z: Tensor, g: Tensor) -> bool:
    return bool(z.isfinite().all() and g.isfinite().all() and g.any())


def _columns(z: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Return outputs and gradients as (examples, numbers), without numbers that the loss does not depend on."""
    z, g = (x.reshape(len(x), -1) if x.dim() else x.reshape(1, 1) for x in (z, g))
    used = g.any(dim=0)  # the loss may be that of the last position of a sequence only
    return z[:, used], g[:, used]


def _labels(z: Tensor, g: Tensor, loss: float | None = None) -> Targets | None:
    """Recognize a cross entropy, of classes or of pairs; without a loss, by the gradient alone."""
    for axis in dict.fromkeys((-1, 1)) if z.dim() > 2 else (-1,):
        if z.dim() > 1 and z.shape[axis] > 1:
            found = _classes(_rows(z, axis), _rows(g, axis), loss)
            if found is not None:
                return found
    return _binary(*_columns(z, g), loss)


def _rows(x: Tensor, axis: int) -> Tensor:
    return x.movedim(axis, -1).reshape(-1, x.shape[axis])


def _classes(z: Tensor, g: Tensor, loss: float | None) -> Targets | None:
    """Recognize cross entropy. Rows without a gradient, such as padding, are left out, unless the answer is certain."""
    kept = g.any(dim=1) | (z.softmax(dim=1).amax(dim=1) == 1)
    z, g = z[kept], g[kept]
    labels = torch.where(g.amin(dim=1) < 0, g.argmin(dim=1), z.argmax(dim=1))
    onehot = F.one_hot(labels, z.shape[1]).float()
    log_p = z.log_softmax(dim=1)
    expected = log_p.exp() - onehot
    found = _fit(g, expected, -log_p.gather(1, labels[:, None]), loss)
    if found is None and torch.allclose(z.logsumexp(dim=1), z.new_zeros(()), atol=1e-2):
        found = _fit(g, -onehot, -z.gather(1, labels[:, None]), loss)
    return None if found is None else Targets("classes", labels, z.shape[1], *found)


def _binary(z: Tensor, g: Tensor, loss: float | None) -> Targets | None:
    y = ((g < 0) | ((g == 0) & (z > 0))).float()  # where the right answer is certain, nothing is left of the gradient
    if bool(((z.sigmoid() - y).abs() > SURE).all()):
        return None  # all wrong and sure: the gradient is as large everywhere, as that of a squared error far off
    found = _fit(g, z.sigmoid() - y, F.binary_cross_entropy_with_logits(z, y, reduction="none"), loss)
    if found is None and z.min() >= 0 and z.max() <= 1:
        inner = z.clamp(1e-6, 1 - 1e-6)
        y = ((g < 0) | ((g == 0) & (z > 0.5))).float()
        found = _fit(g, (z - y) / (inner * (1 - inner)), F.binary_cross_entropy(z, y, reduction="none"), loss)
    return None if found is None else Targets("binary", y, y.shape[1], *found)


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
    return Targets("real", y, y.shape[1], scale, loss / scale)


def _adds_up_to_zero(g: Tensor) -> bool:
    """Return whether the gradient of each example does, as it does wherever a softmax follows."""
    return float(g.sum(dim=-1).norm()) < 1e-3 * float(g.norm())


def _fit(g: Tensor, expected: Tensor, losses: Tensor, loss: float | None) -> tuple[float, float] | None:
    """Return the loss over the mean of `losses`, and that mean, if g is `expected` times a factor that the loss allows.

    Args:
        g: The observed gradient.
        expected: That of the sum of `losses`.
        losses: The loss of each target.
        loss: The observed loss; None if it is a sum of others too, and any factor will do.
    """
    square = float((expected * expected).sum())
    if square <= TINY:
        return None
    weight = float((g * expected).sum()) / square
    total = float(losses.sum())
    if weight <= 0 or total <= TINY or float((g - weight * expected).norm()) > TOLERANCE * float(g.norm()):
        return None
    mean = total / losses.numel()
    if loss is None:
        return weight * losses.numel(), mean
    return (loss / mean, mean) if loss > 0 and _is_usual(weight * total / loss) else None


def _is_usual(factor: float) -> bool:
    """Return whether a loss is multiplied by `factor` before its backward pass: 1, 1/n, or a power of two."""
    near: Callable[[float, float], bool] = lambda a, b: abs(a / b - 1) < TOLERANCE  # noqa: E731
    divisor = round(1 / factor) if factor < 1 else 1
    return (1 <= divisor <= MAX_DIVISOR and near(factor * divisor, 1)) or near(factor, 2.0 ** round(math.log2(factor)))
