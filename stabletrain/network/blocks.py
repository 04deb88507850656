"""Finds the weights of any module that an initialization should fill, one per matrix of the equations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.parameter import is_lazy

from stabletrain.errors import RequestError
from stabletrain.network.step_norm import StepBatchNorm

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


@dataclass(frozen=True)
class Block:
    """One weight matrix or kernel, seen as (fan-out, fan-in, …).

    Args:
        weight: A view into the parameter; filling it fills the parameter.
        role: `input` (feed-forward, or from a recurrent cell's input) or `hidden` (from step to step).
        recurrent: Whether it belongs to a recurrent layer.
        num_stacked: How many matrices its parameter stacks: 4 in an LSTM, 3 in a GRU, 1 alone.
    """

    weight: Tensor
    role: str
    recurrent: bool
    num_stacked: int = 1


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


def find_blocks(module: nn.Module) -> Iterator[Block]:
    """Yield the blocks of all weights of two axes and more: stacked gates and projections one by one.

    A weight is a parameter named …weight…: what others mean (class tokens, positions) only their author knows.
    """
    for owner, name, parameter in find_parameters(module):
        if parameter.dim() < 2 or not ("weight" in name and "bias" not in name):
            continue
        recurrent = isinstance(owner, (nn.RNNBase, nn.RNNCellBase))
        role = "hidden" if recurrent and name.startswith("weight_hh") else "input"
        num_stacked = count_stacked(owner, name)
        for weight in parameter.detach().chunk(num_stacked):
            yield Block(_view_transposed(owner, weight), role, recurrent, num_stacked)


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


def _view_transposed(owner: nn.Module, weight: Tensor) -> Tensor:
    """A transposed convolution stores (in, out, …): show it as (out, in, …)."""
    return weight.transpose(0, 1) if isinstance(owner, _ConvTransposeNd) else weight
