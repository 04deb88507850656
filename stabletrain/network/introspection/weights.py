"""Finds the weights of any module that an initialization should fill, one per matrix of the equations."""

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
_HOOKED = ("_g", "_v", "_orig")  # the parts of torch's older weight norm and spectral norm, which a hook puts together


@dataclass(frozen=True)
class Block:
    """One weight matrix or kernel, seen as (fan-out, fan-in, …).

    Args:
        weight: A view into the parameter; filling it fills the parameter.
        role: `input` (feed-forward, or from a recurrent cell's input) or `hidden` (from step to step).
        recurrent: Whether it belongs to a recurrent layer.
        num_stacked: How many matrices its parameter stacks: 4 in an LSTM, 3 in a GRU, 1 alone.
        owner: The module that it belongs to.
    """

    weight: Tensor
    role: str
    recurrent: bool
    num_stacked: int
    owner: nn.Module


def find_parameters(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Yield `(owner, name, parameter)` of all that may be filled, each shared parameter once.

    Norms, embeddings and what is tied to them are left out.

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
    """Yield `(owner, name)` of every weight that torch computes from others (`torch.nn.utils.parametrize`)."""
    for owner in module.modules():
        if parametrize.is_parametrized(owner):
            yield from ((owner, name) for name in owner.parametrizations if is_weight(name))  # pyright: ignore


def is_weight(name: str) -> bool:
    """Whether a parameter of that name is a weight: what others mean only their author knows."""
    return "weight" in name and "bias" not in name


def find_weights(module: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    """Return `(owner, name, weight)` of all weights of two axes and more, in the order of the modules.

    Those behind a parametrization can be filled within `parametrized.writable_weights` only.
    """
    found: list[tuple[nn.Module, str, Tensor]] = [
        (o, n, p) for o, n, p in find_parameters(module) if is_weight(n) and not _is_hooked(o, n)
    ]
    found += [(owner, name, getattr(owner, name)) for owner, name in find_parametrized(module)]
    place = {id(owner): index for index, owner in enumerate(module.modules())}
    found.sort(key=lambda row: place[id(row[0])])
    return [(owner, name, weight.detach()) for owner, name, weight in found if weight.dim() >= 2]


def _is_hooked(owner: nn.Module, name: str) -> bool:
    """Whether a hook computes another tensor from this parameter: `weight` from `weight_g` and `weight_v`."""
    whole = next((name.removesuffix(end) for end in _HOOKED if name.endswith(end)), None)
    return whole is not None and isinstance(getattr(owner, whole, None), Tensor)


def find_blocks(module: nn.Module) -> Iterator[Block]:
    """Yield the blocks of all weights: stacked gates, projections and groups of channels one by one."""
    stacked = _find_stacked(module)
    for owner, name, parameter in find_weights(module):
        recurrent = isinstance(owner, (nn.RNNBase, nn.RNNCellBase))
        role = "hidden" if recurrent and name.startswith("weight_hh") else "input"
        num_stacked = stacked.get(id(owner), 1) if name == "weight" else count_stacked(owner, name)
        for weight in split_weight(owner, parameter, num_stacked):
            yield Block(weight, role, recurrent, num_stacked, owner)


def find_biases(module: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Yield `(owner, name, bias)` of all biases of one axis."""
    for owner, name, parameter in find_parameters(module):
        if parameter.dim() == 1 and "bias" in name:
            yield owner, name, parameter.detach()


def count_stacked(owner: nn.Module, name: str) -> int:
    """Return how many matrices of the equations one parameter stacks along its first axis."""
    if isinstance(owner, nn.RNNBase):
        return 1 if name.startswith("weight_hr") else _NUM_GATES.get(owner.mode, 1)
    if isinstance(owner, nn.RNNCellBase):
        return owner.weight_ih.size(0) // owner.hidden_size
    if isinstance(owner, nn.MultiheadAttention) and name == "in_proj_weight":
        return 3  # query, key, value
    return 1


def split_weight(owner: nn.Module, weight: Tensor, num_stacked: int = 1) -> list[Tensor]:
    """Show a parameter as the matrices (out, in, …) that the equations have: gates, projections, groups.

    A convolution of G groups is G convolutions side by side, each with its own, smaller, fans.
    """
    groups = owner.groups if isinstance(owner, _ConvNd) else 1
    if isinstance(owner, _ConvTransposeNd):  # stores (in, out / groups, …)
        return [group.transpose(0, 1) for group in weight.chunk(groups)]
    if is_transposed_linear(owner):  # stores (in, out)
        weight = weight.transpose(0, 1)
    return list(weight.chunk(num_stacked * groups))


def is_transposed_linear(module: nn.Module) -> bool:
    """Whether `module` is the `Conv1D` of the transformers library: a linear layer that stores (in, out)."""
    return any(c.__name__ == "Conv1D" and c.__module__.startswith("transformers.") for c in type(module).__mro__)


def _find_stacked(module: nn.Module) -> dict[int, int]:
    """Return, by the identity of the layer, how many projections an attention of others stacks in one layer."""
    found: dict[int, int] = {}
    for parent in module.modules():
        qkv = getattr(parent, "qkv", None)  # timm: one linear layer (3 width, width)
        if isinstance(qkv, nn.Linear) and qkv.out_features == 3 * qkv.in_features:
            found[id(qkv)] = 3
        c_attn = getattr(parent, "c_attn", None)  # GPT-2: query, key, value; across, key and value
        if isinstance(c_attn, nn.Module) and is_transposed_linear(c_attn):
            rows, columns = c_attn.get_parameter("weight").shape
            found[id(c_attn)] = max(columns // rows, 1)
    return found
