"""Finds the weights of any module that an initialization should fill, one for each matrix in the equations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from stabletrain.errors import RequestError
from stabletrain.network.normalization.step_norm import StepBatchNorm

_UNTOUCHED = (
    _NormBase,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    StepBatchNorm,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.PReLU,
)
_NUM_GATES = {"LSTM": 4, "GRU": 3}  # torch stacks i f g o, and r z n, along the first axis
_HOOKED = ("_g", "_v", "_orig")  # parameters of torch's older weight and spectral norm, whose hook computes the weight


@dataclass(frozen=True)
class Block:
    """One weight matrix or kernel, as (fan-out, fan-in, …).

    Args:
        weight: A view into the parameter; filling it fills the parameter.
        role: `hidden` for the hidden-to-hidden weights of a recurrent layer, `input` for all others.
        recurrent: Whether it belongs to a recurrent layer.
        num_stacked: Number of matrices stacked in its parameter: 4 in an LSTM, 3 in a GRU, 1 for a plain weight.
        owner: The module that has the parameter.
    """

    weight: Tensor
    role: str
    recurrent: bool
    num_stacked: int
    owner: nn.Module


def find_parameters(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Yield `(owner, name, parameter)` of all parameters that may be filled, shared ones once.

    Norms, embeddings and weights tied to embeddings are left out.

    Raises:
        RequestError: A lazy module has not seen its first batch.
    """
    owners = list(module.modules())
    seen = {id(p) for owner in owners if isinstance(owner, _UNTOUCHED) for p in owner.parameters(recurse=False)}
    for owner in owners:
        for name, parameter in owner.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            if is_lazy(parameter):
                raise RequestError(
                    "The module has lazy weights of unknown shape; run one batch through it first.",
                    key="module",
                    found=type(owner).__name__,
                )
            seen.add(id(parameter))
            yield owner, name, parameter


def find_parametrized(module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Yield `(owner, name)` of every parametrized weight (`torch.nn.utils.parametrize`)."""
    for owner in module.modules():
        if parametrize.is_parametrized(owner):
            yield from ((owner, name) for name in owner.parametrizations if is_weight(name))  # pyright: ignore


def is_weight(name: str) -> bool:
    """Return whether a parameter is a weight by its name; other parameters have a meaning only their author knows."""
    return "weight" in name and "bias" not in name


def find_weights(module: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    """Return `(owner, name, weight)` of all weights with two or more axes, in the order of the modules.

    Parametrized weights can be filled only within `parametrized.writable_weights`.
    """
    found: list[tuple[nn.Module, str, Tensor]] = [
        (o, n, p) for o, n, p in find_parameters(module) if is_weight(n) and not _is_hooked(o, n)
    ]
    found += [(owner, name, getattr(owner, name)) for owner, name in find_parametrized(module)]
    place = {id(owner): index for index, owner in enumerate(module.modules())}
    found.sort(key=lambda row: place[id(row[0])])
    return [(owner, name, weight.detach()) for owner, name, weight in found if weight.dim() >= 2]


def _is_hooked(owner: nn.Module, name: str) -> bool:
    """Return whether a hook computes another tensor from this parameter: `weight` from `weight_g` and `weight_v`."""
    whole = next((name.removesuffix(end) for end in _HOOKED if name.endswith(end)), None)
    return whole is not None and isinstance(getattr(owner, whole, None), Tensor)


def find_blocks(module: nn.Module) -> Iterator[Block]:
    """Yield the blocks of all weights, with stacked gates, projections and convolution groups one by one."""
    stacked = _find_stacked(module)
    for owner, name, parameter in find_weights(module):
        recurrent = isinstance(owner, (nn.RNNBase, nn.RNNCellBase))
        role = "hidden" if recurrent and name.startswith("weight_hh") else "input"
        num_stacked = stacked.get(id(owner), 1) if name == "weight" else count_stacked(owner, name)
        for weight in split_weight(owner, parameter, num_stacked):
            yield Block(weight, role, recurrent, num_stacked, owner)


def find_biases(module: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Yield `(owner, name, bias)` of all biases with one axis."""
    for owner, name, parameter in find_parameters(module):
        if parameter.dim() == 1 and "bias" in name:
            yield owner, name, parameter.detach()


def count_stacked(owner: nn.Module, name: str) -> int:
    """Return the number of matrices that a parameter stacks along its first axis."""
    if isinstance(owner, nn.RNNBase):
        return 1 if name.startswith("weight_hr") else _NUM_GATES.get(owner.mode, 1)
    if isinstance(owner, nn.RNNCellBase):
        return owner.weight_ih.size(0) // owner.hidden_size
    if isinstance(owner, nn.MultiheadAttention) and name == "in_proj_weight":
        return 3  # query, key, value
    return 1


def split_weight(owner: nn.Module, weight: Tensor, num_stacked: int = 1) -> list[Tensor]:
    """Return views of a parameter as the matrices (out, in, …) in the equations: gates, projections, groups.

    A convolution with G groups is G independent convolutions, each with a smaller fan-in and fan-out.
    """
    groups = owner.groups if isinstance(owner, _ConvNd) else 1
    if isinstance(owner, _ConvTransposeNd):  # stores (in, out / groups, …)
        return [group.transpose(0, 1) for group in weight.chunk(groups)]
    if is_transposed_linear(owner):  # stores (in, out)
        weight = weight.transpose(0, 1)
    return list(weight.chunk(num_stacked * groups))


def is_transposed_linear(module: nn.Module) -> bool:
    """Return whether `module` is `Conv1D` of the transformers library: a linear layer that stores (in, out)."""
    return any(c.__name__ == "Conv1D" and c.__module__.startswith("transformers.") for c in type(module).__mro__)


def _find_stacked(module: nn.Module) -> dict[int, int]:
    """Return the number of projections that attention layers of other libraries stack in one layer, by its `id`."""
    found: dict[int, int] = {}
    for parent in module.modules():
        qkv = getattr(parent, "qkv", None)  # timm: one linear layer (3 width, width)
        if isinstance(qkv, nn.Linear) and qkv.out_features == 3 * qkv.in_features:
            found[id(qkv)] = 3
        c_attn = getattr(parent, "c_attn", None)  # GPT-2: query, key and value; in cross-attention, key and value
        if isinstance(c_attn, nn.Module) and is_transposed_linear(c_attn):
            rows, columns = c_attn.get_parameter("weight").shape
            found[id(c_attn)] = max(columns // rows, 1)
    return found
