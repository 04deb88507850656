"""What in a network of others is an activation or a norm, told by class, or by name where a library is not ours."""

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

# transformers.activations, timm.layers.activations, timm.layers.activations_me: nothing but activations.
_ACTIVATION_HOME = re.compile(r"(transformers|timm)\.(.+\.)?activations(_\w+)?")
# BloomGelu, QuickGELU, HSwish: what others call so is one, unless it holds other modules (ConvBNReLU).
_ACTIVATION_NAME = re.compile(r"(elu|relu6?|silu|swish|mish|sigmoid|tanh|softplus)$", re.IGNORECASE)
_NORM_NAME = re.compile(r"(Layer|RMS)Norm(2d)?$")  # LlamaRMSNorm, T5LayerNorm; LayerNorm2d has channels on axis 1


def is_activation(module: nn.Module) -> bool:
    """Whether `module` is an elementwise activation: of torch or ours by class, of others by name."""
    if isinstance(module, (Identity, *TORCH_ACTIVATIONS)):
        return True
    kind = type(module)
    is_called_so = _ACTIVATION_HOME.fullmatch(kind.__module__) or _ACTIVATION_NAME.search(kind.__name__)
    return is_called_so is not None and next(module.children(), None) is None


def is_activation_function(value: Any) -> bool:
    """Whether `value` is one of torch's elementwise activation functions, also with arguments bound."""
    value = value.func if isinstance(value, functools.partial) else value
    return callable(value) and any(value is function for function in TORCH_FUNCTIONS)


def find_norm(module: Any, path: str) -> tuple[int, Layout] | None:
    """Return width and layout of a norm, None for anything else.

    Args:
        module: Anything.
        path: Where it stands, for messages.

    Raises:
        RequestError: It normalizes over several axes, or its width is not known yet.
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
    weight = getattr(module, "weight", None) if named and isinstance(module, nn.Module) else None
    return (_require_one_axis(tuple(weight.shape), path), layout) if isinstance(weight, torch.Tensor) else None


def _require_known(module: _NormBase, path: str) -> int:
    if any(tensor is not None and is_lazy(tensor) for tensor in (module.weight, module.running_mean)):
        raise RequestError(
            "The norm is lazy and does not know its width; run one batch through the model first.",
            key="model",
            found=path or type(module).__name__,
        )
    return module.num_features


def _require_one_axis(shape: tuple[int, ...], path: str) -> int:
    if len(shape) != 1:
        raise RequestError(
            "A norm over several axes at once has no counterpart of one width.",
            key="model",
            found=f"{path or 'the model'} over {shape}",
            allowed="norms over one axis",
        )
    return shape[0]


def refresh_fast_paths(model: nn.Module) -> None:
    """Let torch's transformer layers take their fused path where it still computes what the modules do, only there.

    When predicting, `torch.nn.TransformerEncoderLayer` may run one kernel that knows layer norm with ReLU or exact
    GELU and reads the weights of the modules, whatever class they have now.
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
    """Return torch's number for the activation that the kernel should compute, 0 for none."""
    if not all(isinstance(norm, nn.LayerNorm) for norm in (layer.norm1, layer.norm2)):
        return 0
    activation: Any = layer.activation
    if activation is F.relu or type(activation) is nn.ReLU:
        return 1
    is_gelu = activation is F.gelu or (type(activation) is nn.GELU and activation.approximate == "none")
    return 2 if is_gelu else 0
