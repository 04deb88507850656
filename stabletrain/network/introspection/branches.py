"""Finds the residual branches in blocks of other libraries, by class or by the names of their layers.

Each finder takes one module and returns the weights of its branches, each branch in forward order and each weight as
(out, in, …); nothing if it does not recognize the module.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from stabletrain.network.introspection.weights import is_transposed_linear, split_weight

Paths = list[tuple[Tensor, ...]]


def find_torch_layer(module: Any) -> Paths:
    """Recognize torch.nn.TransformerEncoderLayer and DecoderLayer: each attention, and the feed-forward block."""
    if not isinstance(module, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
        return []
    attentions = [module.self_attn]
    if isinstance(module, nn.TransformerDecoderLayer):
        attentions.append(module.multihead_attn)
    return [*map(_attention_path, attentions), (module.linear1.weight, module.linear2.weight)]


def find_gpt2_block(module: Any) -> Paths:
    """Recognize GPT2Block of transformers: self-attention, cross-attention if any, the feed-forward block."""
    attention: Any = getattr(module, "attn", None)
    mlp: Any = getattr(module, "mlp", None)
    if not (_has(attention, "c_attn", "c_proj") and _has(mlp, "c_fc", "c_proj")):
        return []
    across: Any = getattr(module, "crossattention", None)
    attentions: list[Any] = [a for a in (attention, across) if _has(a, "c_attn", "c_proj")]
    paths: Paths = [(_last_projection(a.c_attn), _matrix(a.c_proj)) for a in attentions]
    return [*paths, (_matrix(mlp.c_fc), _matrix(mlp.c_proj))]


def find_bert_layer(module: Any) -> Paths:
    """Recognize BertLayer of transformers and layers of the same structure (RoBERTa, ELECTRA, …)."""
    attention: Any = getattr(module, "attention", None)
    if not (_has(getattr(attention, "self", None), "value") and _has(getattr(attention, "output", None), "dense")):
        return []
    if not (_has(getattr(module, "intermediate", None), "dense") and _has(getattr(module, "output", None), "dense")):
        return []
    feed_forward = (module.intermediate.dense.weight, module.output.dense.weight)
    attentions = [a for a in (attention, getattr(module, "crossattention", None)) if a is not None]
    return [*((a.self.value.weight, a.output.dense.weight) for a in attentions), feed_forward]


def find_vit_block(module: Any) -> Paths:
    """Recognize Block of timm's vision transformers: attention with one layer `qkv`, and a feed-forward block."""
    attention: Any = getattr(module, "attn", None)
    mlp: Any = getattr(module, "mlp", None)
    if not (_has(attention, "qkv", "proj") and _has(mlp, "fc1", "fc2")):
        return []
    return [(_last_projection(attention.qkv), attention.proj.weight), (mlp.fc1.weight, mlp.fc2.weight)]


def find_resnet_block(module: Any) -> Paths:
    """Recognize BasicBlock and Bottleneck of torchvision, timm and others: `conv1` …, `downsample` or `shortcut`."""
    if not (hasattr(module, "downsample") or hasattr(module, "shortcut")):
        return []
    names = sorted((n for n, _ in module.named_children() if re.fullmatch(r"conv\d+", n)), key=lambda n: int(n[4:]))
    kernels = [getattr(module, name) for name in names]
    if len(kernels) < 2 or not all(isinstance(getattr(kernel, "weight", None), Tensor) for kernel in kernels):
        return []
    return [tuple(kernel.weight for kernel in kernels)]


FINDERS: tuple[Callable[[nn.Module], Paths], ...] = (
    find_torch_layer,
    find_gpt2_block,
    find_bert_layer,
    find_vit_block,
    find_resnet_block,
)


def _has(module: object, *names: str) -> bool:
    """Return whether `module` has layers of these names."""
    return all(isinstance(getattr(getattr(module, name, None), "weight", None), Tensor) for name in names)


def _matrix(layer: nn.Module) -> Tensor:
    """Return the layer's weight as (out, in)."""
    return split_weight(layer, layer.get_parameter("weight"))[0]


def _last_projection(layer: nn.Module) -> Tensor:
    """Return the value projection of a layer that stacks (query,) key and value."""
    weight = _matrix(layer)
    width = weight.size(1)
    assert weight.size(0) % width == 0, (type(layer), is_transposed_linear(layer), weight.shape)
    return weight[-width:]


def _attention_path(attention: nn.MultiheadAttention) -> tuple[Tensor, Tensor]:
    stacked = attention.in_proj_weight
    value = attention.v_proj_weight if stacked is None else stacked.chunk(3)[2]
    assert isinstance(value, Tensor)
    return value, attention.out_proj.weight
