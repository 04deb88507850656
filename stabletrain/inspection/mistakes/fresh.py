"""Tells weights that were never trained from those that were, by the distribution that torch draws new layers from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MIN_SIZE = 64  # elements from which a distribution can be recognized
TOLERANCE = 0.03  # relative, of the spread, and three standard errors more
WITH_KNOWN_WEIGHTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding, nn.RNNBase)


@torch.no_grad()
def is_fresh(module: nn.Module) -> bool | None:
    """Return whether the weights of a layer are those of a new one; None if that is not known.

    New linear and convolutional layers are uniform in ±1/√fan_in (He et al. 2015 with a = √5), recurrent ones in
    ±1/√hidden, embeddings standard normal. Training moves weights out of the range of the uniform distribution.
    """
    if isinstance(module, nn.Embedding):
        weight = module.weight.detach().float()
        if weight.numel() < MIN_SIZE:
            return None
        error = weight.numel() ** -0.5
        return abs(float(weight.std()) - 1) < TOLERANCE + 3 * error and abs(float(weight.mean())) < 4 * error
    if isinstance(module, nn.RNNBase):
        return _is_uniform(getattr(module, "weight_hh_l0", None), module.hidden_size**-0.5)
    if isinstance(module, WITH_KNOWN_WEIGHTS):
        weight = getattr(module, "weight", None)
        return _is_uniform(weight, weight[0].numel() ** -0.5) if isinstance(weight, Tensor) and len(weight) else None
    return None


def _is_uniform(weight: Tensor | None, bound: float) -> bool | None:
    """Return whether numbers are uniform in ±bound; their standard deviation is bound/√3."""
    if weight is None or weight.numel() < MIN_SIZE:
        return None
    values = weight.detach().float()
    spread = float(values.std()) * 3**0.5 / bound
    error = (0.2 / values.numel()) ** 0.5  # relative standard error of the spread of a uniform distribution
    return float(values.abs().max()) <= bound * (1 + 1e-6) and abs(spread - 1) < TOLERANCE + 3 * error
