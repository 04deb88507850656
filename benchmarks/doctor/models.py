"""Small networks in plain PyTorch."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmarks.doctor.case import Network

ACTIVATIONS = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
}
NUM_HEADS = 2
MAX_LENGTH = 256


class Block(nn.Module):
    """Linear layer or convolution, norm, activation; a residual block adds its input."""

    def __init__(self, linear: nn.Module, network: Network, norm: nn.Module) -> None:
        super().__init__()
        self.linear, self.norm = linear, norm
        self.activation = ACTIVATIONS[network.activation]()
        self.dropout = nn.Dropout(network.dropout)
        self.is_residual = network.residual != "none"

    def forward(self, x: Tensor) -> Tensor:
        y = self.dropout(self.activation(self.norm(self.linear(x))))
        return x + y if self.is_residual and x.shape == y.shape else y


class AttentionBlock(nn.Module):
    """Self-attention and two linear layers, each with a residual connection and its norm first."""

    def __init__(self, network: Network, is_causal: bool) -> None:
        super().__init__()
        width = network.width
        self.norm1, self.norm2 = (_norm(network, width) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.activation = ACTIVATIONS[network.activation]()
        self.is_causal = is_causal

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        heads = self.qkv(self.norm1(x)).view(batch, length, 3, NUM_HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(*heads, is_causal=self.is_causal)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(self.activation(self.up(self.norm2(x))))


class FeedForward(nn.Module):
    """Linear blocks and a head."""

    def __init__(self, network: Network, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        widths = [num_inputs] + [network.width] * network.depth
        pairs = pairwise(widths)
        self.blocks = nn.Sequential(*(Block(nn.Linear(i, o), network, _norm(network, o)) for i, o in pairs))
        self.head = nn.Linear(network.width, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x))


class Convolutional(nn.Module):
    """Blocks of 3 × 3 convolutions, downsampled after the first, averaged over positions at the end."""

    def __init__(self, network: Network, num_channels: int, num_outputs: int) -> None:
        super().__init__()
        widths = [num_channels] + [network.width] * network.depth
        make_norm = nn.BatchNorm2d if network.norm == "batch" else lambda _: nn.Identity()
        pairs = pairwise(widths)
        self.blocks = nn.ModuleList(Block(nn.Conv2d(i, o, 3, padding=1), network, make_norm(o)) for i, o in pairs)
        self.head = nn.Linear(network.width * 4, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.blocks):
            x = block(x)
            x = nn.functional.max_pool2d(x, 2) if index == 0 else x
        return self.head(nn.functional.avg_pool2d(x, 2).flatten(1))


class Recurrent(nn.Module):
    """One or more recurrent layers, and a head at each step."""

    def __init__(self, network: Network, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        make = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[network.family]
        more = {"nonlinearity": network.activation} if network.family == "rnn" else {}
        self.rnn = make(num_inputs, network.width, network.depth, batch_first=True, dropout=network.dropout, **more)
        self.head = nn.Linear(network.width, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


class Transformer(nn.Module):
    """Attention blocks over embedded steps, and a head at each step."""

    def __init__(self, network: Network, num_inputs: int, num_outputs: int, is_causal: bool) -> None:
        super().__init__()
        self.embedding = nn.Linear(num_inputs, network.width)
        self.place = nn.Parameter(torch.zeros(MAX_LENGTH, network.width))
        self.blocks = nn.Sequential(*(AttentionBlock(network, is_causal) for _ in range(network.depth)))
        self.norm = _norm(network, network.width)
        self.head = nn.Linear(network.width, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x) + self.place[: x.shape[1]]
        return self.head(self.norm(self.blocks(x)))


def _norm(network: Network, width: int) -> nn.Module:
    makers = {"none": nn.Identity, "layer": nn.LayerNorm, "batch": nn.BatchNorm1d}
    return makers[network.norm](width)


def build(network: Network, x: Tensor, num_outputs: int, is_causal: bool) -> nn.Module:
    """Return a network for inputs like `x`."""
    if network.family == "mlp":
        return FeedForward(network, x.shape[1], num_outputs)
    if network.family == "cnn":
        return Convolutional(network, x.shape[1], num_outputs)
    if network.family == "transformer":
        return Transformer(network, x.shape[2], num_outputs, is_causal)
    return Recurrent(network, x.shape[2], num_outputs)
