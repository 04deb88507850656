"""The training steps that `watching.py` watches: plain PyTorch models, a fixed batch, gradient descent."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

VOCABULARY = 256


class TransformerModel(nn.Module):
    """Embedding, pre-norm encoder layers, head."""

    def __init__(self, depth: int, width: int, vocabulary: int = VOCABULARY) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, width // 64, 4 * width, 0.0, batch_first=True, norm_first=True)
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embedding(x)))


class LSTMModel(nn.Module):
    """Embedding, LSTM, head."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width // 2)
        self.recurrent = nn.LSTM(width // 2, width, depth, batch_first=True)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embedding(x))[0])


def make_mlp() -> nn.Sequential:
    hidden = [module for _ in range(100) for module in (nn.Linear(128, 128), nn.Tanh())]
    return nn.Sequential(*hidden, nn.Linear(128, 10))


@dataclass(frozen=True)
class Workload:
    """A model, and the shape of a batch: tokens, or feature vectors if `num_classes` is set."""

    title: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    num_classes: int = 0
    vocabulary: int = VOCABULARY
    is_mixed: bool = False  # bfloat16 in the forward pass, as is usual on a GPU


WORKLOADS = {
    "mlp": Workload("MLP, 100 layers of 128", make_mlp, (128, 128), num_classes=10),
    "transformer": Workload("transformer, 6 layers of 256", lambda: TransformerModel(6, 256), (16, 64)),
    "lstm": Workload("LSTM, 2 layers of 256", lambda: LSTMModel(2, 256), (48, 32)),
    "transformer_768": Workload(
        "transformer, 12 layers of 768", lambda: TransformerModel(12, 768, 50257), (16, 512), 0, 50257, True
    ),
}
ON_CPU, ON_CUDA = ("mlp", "transformer", "lstm"), ("transformer_768",)


class Stepper:
    """Takes training steps; `look` is called between the backward pass and the optimizer's step."""

    def __init__(self, workload: Workload, device: torch.device) -> None:
        self.workload, self.device = workload, device
        self.model = workload.make().to(device)
        self.loss_function: nn.Module = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)
        if workload.num_classes:
            self.x = torch.randn(workload.shape, device=device)
            self.target = torch.randint(workload.num_classes, workload.shape[:1], device=device)
        else:
            self.x = torch.randint(workload.vocabulary, workload.shape, device=device)
            self.target = self.x.flatten()
        self.look: Callable[[], None] = lambda: None
        self.look_s = 0.0  # spent in `look` so far

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @property
    def num_tensors(self) -> int:
        return len(list(self.model.parameters()))

    def loss(self) -> Tensor:
        mixed = torch.autocast(self.device.type, torch.bfloat16) if self.workload.is_mixed else nullcontext()
        with mixed:
            return self.loss_function(self.model(self.x).flatten(0, -2), self.target)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.loss().backward()
        start = time.perf_counter()
        self.look()
        self.look_s += time.perf_counter() - start
        self.optimizer.step()
