"""Recognizes activations and norms in any network: by class if they are torch's or ours, else by name."""

from __future__ import annotations

import functools
import re
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from stabletrain.errors import RequestError
from stabletrain.network.activation import TORCH_ACTIVATIONS, TORCH_FUNCTIONS, Identity
from stabletrain.network.normalization import Layout, NoNorm, Norm
from stabletrain.network.normalization.step_norm import StepBatchNorm

# Modules that define only activations: transformers.activations, timm.layers.activations, timm.layers.activations_me.
_ACTIVATION_MODULE = re.compile(r"(transformers|timm)\.(.+\.)?activations(_\w+)?")
# BloomGelu, QuickGELU, HSwish: a class with such a name is an activation, unless it has children (ConvBNReLU).
_ACTIVATION_NAME = re.compile(r"(elu|relu6?|silu|swish|mish|sigmoid|tanh|softplus)$", re.IGNORECASE)
_NORM_NAME = re.compile(r"(Layer|RMS)Norm(2d)?$")  # LlamaRMSNorm, T5LayerNorm; LayerNorm2d has channels on axis 1

_GAINS = ("weight", "gamma", "g", "scale")  # in x-transformers `g` for RMS norm, `gamma` for layer norm


def is_activation(module: nn.Module) -> bool:
    """Return whether `module` is an elementwise activation: torch's or ours by class, others by name."""
    if isinstance(module, (Identity, *TORCH_ACTIVATIONS)):
        return True
    kind = type(module)
    matches = _ACTIVATION_MODULE.fullmatch(kind.__module__) or _ACTIVATION_NAME.search(kind.__name__)
    return matches is not None and next(module.children(), None) is None


def is_activation_function(value: Any) -> bool:
    """Return whether `value` is one of torch's elementwise activation functions, or a `partial` of one."""
    value = value.func if isinstance(value, functools.partial) else value
    return callable(value) and any(value is function for function in TORCH_FUNCTIONS)


def find_norm(module: Any, path: str) -> tuple[int, Layout] | None:
    """Return the width and layout of a norm, None for anything else.

    Args:
        module: Any object.
        path: Its name in the network, for messages.

    Raises:
        RequestError: The norm acts on several axes, or is lazy and does not have a width yet.
    """
    if isinstance(module, NoNorm):
        return module.width, module.layout
    if isinstance(module, StepBatchNorm):
        return module.weight.numel(), "vector"
    own: Layout | None = module.layout if isinstance(module, Norm) else None
    if isinstance(module, _NormBase):
        return _require_known(module, path), own or "channels"
    if isinstance(module, nn.GroupNorm):
        return module.num_channels, own or "channels"
    named = _NORM_NAME.search(type(module).__name__)
    has_channels_first = (named and named[2]) or getattr(module, "data_format", None) == "channels_first"  # ConvNeXt
    layout = own or ("channels" if has_channels_first else "sequence")
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return _require_one_axis(tuple(module.normalized_shape), path), layout
    gain = _gain(module) if named and isinstance(module, nn.Module) else None
    return (_require_one_axis(tuple(gain.shape), path), layout) if gain is not None else None


def _gain(module: nn.Module) -> torch.Tensor | None:
    """Return the gain of a norm under one of its usual names."""
    found = (getattr(module, name, None) for name in _GAINS)
    return next((gain for gain in found if isinstance(gain, torch.Tensor) and gain.dim() > 0), None)


def _require_known(module: _NormBase, path: str) -> int:
    if any(tensor is not None and is_lazy(tensor) for tensor in (module.weight, module.running_mean)):
        raise RequestError(
            "The norm is lazy and has no width yet; run one batch through the model first.",
            key="model",
            found=path or type(module).__name__,
        )
    return module.num_features


def _require_one_axis(shape: tuple[int, ...], path: str) -> int:
    if len(shape) != 1:
        raise RequestError(
            "A norm over several axes cannot be replaced by one with a single width.",
            key="model",
            found=f"{path or 'the model'} over {shape}",
            allowed="norms over a single axis",
        )
    return shape[0]


def refresh_fast_paths(model: nn.Module) -> None:
    """Make torch's transformer layers use their fused path only where it computes the same as their modules.

    In evaluation mode `torch.nn.TransformerEncoderLayer` may run one kernel for layer norm with ReLU or exact GELU,
    which reads the weights of the modules without checking their classes. Read and set here are the attributes
    `activation_relu_or_gelu` and `use_nested_tensor` of torch 2.13.0.
    """
    for layer in model.modules():
        if isinstance(layer, nn.TransformerEncoderLayer):
            layer.activation_relu_or_gelu = _find_fused(layer)
    for encoder in model.modules():
        if isinstance(encoder, nn.TransformerEncoder) and not all(
            getattr(layer, "activation_relu_or_gelu", 0) for layer in encoder.layers
        ):
            encoder.use_nested_tensor = False


def _find_fused(layer: nn.TransformerEncoderLayer) -> int:
    """Return torch's number of the activation in the fused kernel: 1 for ReLU, 2 for GELU, 0 for neither."""
    if not all(isinstance(norm, nn.LayerNorm) for norm in (layer.norm1, layer.norm2)):
        return 0
    activation: Any = layer.activation
    if activation is F.relu or type(activation) is nn.ReLU:
        return 1
    is_gelu = activation is F.gelu or (type(activation) is nn.GELU and activation.approximate == "none")
    return 2 if is_gelu else 0
