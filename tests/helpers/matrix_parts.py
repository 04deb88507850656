"""A user-defined model and data set."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import Dataset

from stabletrain.network import Parts
from stabletrain.network.normalization import build_norm


class Net(nn.Module):
    """A network with one hidden layer, built from the given parts."""

    def __init__(self, num_inputs: int, num_outputs: int, parts: Parts, width: int = 8) -> None:
        super().__init__()
        self.first = nn.LazyLinear(width) if num_inputs < 1 else nn.Linear(num_inputs, width)
        self.norm = build_norm(parts.norm, width, "vector")
        self.activation = parts.activation()
        self.residual = parts.residual(width)
        self.second = nn.Linear(width, width)
        self.head = nn.Linear(self.residual.join_width(width), num_outputs)

    def forward(self, x):
        x = self.first(x)
        return self.head(self.residual(x, self.second(self.activation(self.norm(x)))))


class Waves(Dataset):
    """Sine waves of two frequencies."""

    def __len__(self):
        return 120

    def __getitem__(self, index):
        steps = torch.linspace(0, 6, 12)
        return torch.sin(steps * (1 + index % 2) + index).unsqueeze(-1), torch.tensor(index % 2)
