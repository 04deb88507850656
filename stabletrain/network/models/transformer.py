"""The transformer: attention and feed-forward branches, with a norm before, after, or on both sides of each."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stabletrain.errors import RequestError, require_choice, require_count
from stabletrain.network.models.model_parts import OUTPUTS, Parts, require_shape
from stabletrain.network.normalization import LayerNorm, Norm, build_norm
from stabletrain.network.residual import AddResidual, Branch, build_residual, fit_residuals_
from stabletrain.network.residual.stochastic_depth import DropBranch, branch_rates, require_branches

PLACEMENTS = ("pre", "post", "sandwich")
_EXPANSION = 4  # Vaswani et al. 2017, section 3.3: 2048 hidden units at a width of 512


class Attention(nn.Module):
    """Multi-head attention: softmax(Q Kᵀ / √d) V in each head, then an output projection.

    Args:
        width: Width of the tokens; a multiple of `num_heads`.
        num_heads: Number of heads.
        is_causal: Whether a step attends only to itself and earlier steps.

    References:
        Vaswani et al. 2017, Attention Is All You Need, eq. 1 and section 3.2.2.
    """

    def __init__(self, width: int, num_heads: int, is_causal: bool) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)
        self.num_heads = num_heads
        self.is_causal = is_causal

    def forward(self, x: Tensor) -> Tensor:
        """Map x (batch, time, width) to the same shape."""
        heads = [p(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for p in (self.query, self.key, self.value)]
        mixed = F.scaled_dot_product_attention(*heads, is_causal=self.is_causal)  # (batch, heads, time, width / heads)
        return self.output(mixed.transpose(1, 2).flatten(2))

    @property
    def path(self) -> tuple[Tensor, ...]:
        """The weights that multiply the signal; queries and keys only set how much of it each step gets."""
        return self.value.weight, self.output.weight


class FeedForward(nn.Module):
    """W₂ φ(W₁ x + b₁) + b₂, applied to each step, with 4 · width hidden units.

    Args:
        width: Width of the tokens.
        parts: Supplies the activation.

    References:
        Vaswani et al. 2017, Attention Is All You Need, eq. 2.
    """

    def __init__(self, width: int, parts: Parts) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, _EXPANSION * width)
        self.activation = parts.activation()
        self.linear2 = nn.Linear(_EXPANSION * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (batch, time, width) to the same shape."""
        return self.linear2(self.activation(self.linear1(x)))

    @property
    def path(self) -> tuple[Tensor, ...]:
        """The weights that multiply the signal."""
        return self.linear1.weight, self.linear2.weight


class Sublayer(nn.Module):
    """One branch F with its norms and its residual connection.

        pre:      y = residual(x, F(N(x)))
        post:     y = N(residual(x, F(x)))
        sandwich: y = residual(x, N'(F(N(x))))

    Args:
        branch: F, with its `path`.
        width: Width of the tokens.
        parts: Supplies norm and residual.
        placement: `pre`, `post` or `sandwich`.
        dropout: Fraction of the branch's elements dropped in training.
        drop_rate: Fraction of examples whose branch is dropped in training.

    References:
        post: Vaswani et al. 2017, section 3.1; pre: Xiong et al. 2020, On Layer Normalization in the Transformer
        Architecture, figure 1; sandwich: Ding et al. 2021, CogView, section 2.3.
    """

    def __init__(
        self,
        branch: Attention | FeedForward,
        width: int,
        parts: Parts,
        placement: str,
        dropout: float,
        drop_rate: float,
    ) -> None:
        super().__init__()
        self.branch = branch
        self.placement = placement
        self.norm = build_norm(parts.norm, width, "sequence")
        self.norm_after = build_norm(parts.norm, width, "sequence") if placement == "sandwich" else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.drop_branch = DropBranch(drop_rate)
        self.residual = build_residual(parts.residual, width, norm_follows=placement == "post")

    def forward(self, x: Tensor) -> Tensor:
        """Map x (batch, time, width) to the same shape."""
        branch = self.branch(x if self.placement == "post" else self.norm(x))
        joined = self.residual(x, self.drop_branch(self.dropout(self.norm_after(branch))))
        return self.norm(joined) if self.placement == "post" else joined

    def branches(self) -> list[Branch]:
        """Return the only branch."""
        return [Branch(self.residual, self.branch.path)]


class Transformer(nn.Module):
    """Transformer encoder, or causal decoder: `depth` layers of attention and feed-forward, then a linear head.

    Each step is projected to the width, and sinusoidal position encodings are added. The head acts on the mean over
    all steps, or on every step if there is one output per step. With `next_step` the attention is causal.

    Args:
        num_inputs: Features per step, from 1.
        num_outputs: Outputs per example or per step, from 1.
        parts: Activation, norm and residual; tanh, layer norm and add by default.
        output: `one` output per example, one for `each_step`, or one that predicts the `next_step` at each step.
        depth: Number of layers with two branches each, from 1.
        width: Width of the tokens; an even number and a multiple of `num_heads`.
        num_heads: Number of attention heads, from 1.
        placement: Placement of the norm: `pre`, `post` or `sandwich`.
        dropout: Fraction of a branch's elements dropped in training, from 0 to below 1.
        stochastic_depth: Fraction of examples whose last branch is dropped in training, from 0 to below 1; it
            increases linearly with depth up to there.

    Raises:
        RequestError: A number is out of range, or a part does not fit.

    References:
        Vaswani et al. 2017, Attention Is All You Need; see `Sublayer` for the placements of the norm.
    """

    input_form: ClassVar[str] = "sequence"

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        parts: Parts | None = None,
        *,
        output: str = "one",
        depth: int = 2,
        width: int = 64,
        num_heads: int = 4,
        placement: str = "pre",
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
    ) -> None:
        super().__init__()
        require_shape(num_inputs, num_outputs, depth, width, dropout)
        require_choice("output", output, OUTPUTS)
        require_choice("placement", placement, PLACEMENTS)
        _require_heads(width, require_count("num_heads", num_heads))
        parts = parts or Parts(norm=LayerNorm, residual=AddResidual)
        require_branches(stochastic_depth, parts.residual(width))
        _require_stepwise(parts.norm(width), output)
        self.output = output
        self.embedding = nn.Linear(num_inputs, width)
        rates = branch_rates(2 * depth, stochastic_depth)
        self.layers = nn.ModuleList()
        for number, rate in enumerate(rates):
            branch = FeedForward(width, parts) if number % 2 else Attention(width, num_heads, output == "next_step")
            self.layers.append(Sublayer(branch, width, parts, placement, dropout, rate))
        self.norm = nn.Identity() if placement == "post" else build_norm(parts.norm, width, "sequence")
        self.head = nn.Linear(width, num_outputs)
        fit_residuals_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (batch, time, num_inputs) to (batch, num_outputs), or (batch, time, num_outputs)."""
        x = self.embedding(x)  # (batch, time, width)
        x = x + encode_positions(x.size(1), x.size(2), x.device).to(x.dtype)
        for layer in self.layers:
            x = layer(x)  # (batch, time, width)
        x = self.norm(x)
        return self.head(x.mean(dim=1) if self.output == "one" else x)


def encode_positions(num_steps: int, width: int, device: torch.device | None = None) -> Tensor:
    """Return the position encodings sin(t / 10000^(2i/width)) and cos of the same, interleaved: (num_steps, width).

    References:
        Vaswani et al. 2017, Attention Is All You Need, section 3.5.
    """
    steps = torch.arange(num_steps, device=device).unsqueeze(1)  # (time, 1)
    rates = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000.0) / width))  # (width / 2,)
    angles = steps * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def _require_heads(width: int, num_heads: int) -> None:
    if width % num_heads or width % 2:
        raise RequestError(
            "The width is not an even number divisible by the number of heads.",
            key="width",
            found=f"{width} with {num_heads} heads",
            allowed=f"a multiple of {num_heads if num_heads % 2 == 0 else 2 * num_heads}",
        )


def _require_stepwise(norm: nn.Module, output: str) -> None:
    """Raise RequestError for a norm through which a step would depend on the steps that it should predict."""
    if output == "next_step" and isinstance(norm, Norm) and norm.reads_all_steps:
        raise RequestError(
            f"{type(norm).__name__} takes its statistics over all steps, including those to be predicted.",
            key="norm",
            found=type(norm).__name__,
            allowed="a norm over a single step: layer, rms, group",
            closest="layer",
            command="norm=layer",
        )
