"""How much of a model is frozen."""

from __future__ import annotations

from torch import nn


def frozen_share(model: nn.Module) -> float:
    """Return the fraction of the elements of all parameters that require no gradient; 0 without parameters.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 1, bias=False), nn.Linear(1, 1, bias=False))
        >>> _ = model[0].requires_grad_(False)
        >>> frozen_share(model)
        0.75
    """
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    total = sum(size for size, _ in sizes)
    return sum(size for size, learns in sizes if not learns) / total if total else 0.0
