"""Which parameters weight decay applies to."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

_UNDECAYED = (_NormBase, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.Embedding, nn.EmbeddingBag)
_MIN_AXES = 2


def group_parameters(module: nn.Module) -> list[dict[str, Any]]:
    """Split the trainable parameters into two groups: weights, which decay, and all others, with a decay of 0.

    Weight decay is not applied to biases, norms, embeddings and parameters with at most one axis (the α of ReZero, the
    slope of PReLU), nor to the magnitude g of weight normalization: a scale that decays to zero removes the signal. A
    group without parameters is omitted.

    Args:
        module: Any module; a shared parameter appears once.

    Returns:
        Parameter groups for an optimizer, in the order of definition.

    References:
        Goyal et al. 2017, Accurate, Large Minibatch SGD, section 5.1, and He et al. 2019, Bag of Tricks, section
        3.1 (no decay on biases and norms); Radford et al. 2018, section 4.1 (on non-bias weights only).
    """
    undecayed = {id(p) for m in module.modules() if _is_undecayed(m) for p in m.parameters(recurse=False)}
    trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    decayed, others = [], []
    for name, parameter in trainable:
        is_scale = parameter.dim() < _MIN_AXES or id(parameter) in undecayed or name.endswith(".original0")
        (others if is_scale else decayed).append(parameter)
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _is_undecayed(module: nn.Module) -> bool:
    return isinstance(module, _UNDECAYED) or type(module).__name__.endswith(("LayerNorm", "RMSNorm", "BatchNorm"))
