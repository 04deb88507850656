"""How large the weights of a model are for their number of inputs."""

from __future__ import annotations

import math
from statistics import median

import torch
from torch import nn

from stabletrain.torch_tools.local_shards import any_sharded

LOOKED_UP = (nn.Embedding, nn.EmbeddingBag)  # their rows are outputs, not weights of a sum


@torch.no_grad()
def weight_gain(model: nn.Module) -> float | None:
    """Return the median over the trained weights of rms(W) √fan_in, by which a layer multiplies the size of its input.

    It is 0.58 for the default of torch's linear, convolutional and recurrent layers, 1 for orthogonal ones and 1.41
    after He et al. 2015. Left out are parameters with one axis, embeddings, and weights that are all zero.

    Returns:
        The median; None if there is no such weight, or if weights are sharded over several processes.

    Example:
        >>> layer = nn.Linear(100, 50)
        >>> _ = nn.init.normal_(layer.weight, std=0.3)
        >>> round(weight_gain(layer))
        3
    """
    if any_sharded(model.parameters()):
        return None
    looked_up = {id(p) for m in model.modules() if isinstance(m, LOOKED_UP) for p in m.parameters(recurse=False)}
    weights = [p for p in model.parameters() if p.requires_grad and p.dim() > 1 and id(p) not in looked_up]
    gains = [_norm(p) / math.sqrt(len(p)) for p in weights if p.numel()]
    gains = [gain for gain in gains if 0 < gain < math.inf]
    return median(gains) if gains else None


def _norm(weight: nn.Parameter) -> float:
    return float(torch.linalg.vector_norm(weight.detach().float()))
