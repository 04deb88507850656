"""Text and symbols: language models, sequence to sequence, classification, alignment."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from benchmarks.doctor.wide.data import LETTERS, generator_of, text
from benchmarks.doctor.wide.program import Batch, Program, Supervised, accuracy, entropy
from benchmarks.doctor.wide.tasks.layers import Block, Transformer

NUM_SYMBOLS = 8  # in patterns; the next index is the mask
PERIOD, REPEATS = 3, 4


class MaskedPatterns(Program):
    """A masked language model: symbols of a repeated pattern are hidden, and found again one period away."""

    activation = "softmax"
    parts = ("embed", "blocks.0", "head")
    lr = 5e-3
    num_steps = 200
    batch_size = 32
    sgd_lr = 0.1
    has_float_inputs = False

    def __init__(self, seed: int) -> None:
        patterns = torch.randint(NUM_SYMBOLS, (3000, PERIOD), generator=generator_of(seed)).repeat(1, REPEATS)
        self.x, self.val_x = patterns[400:], patterns[:400]
        self.networks = {"model": Transformer(NUM_SYMBOLS + 1, PERIOD * REPEATS, 32, 2, NUM_SYMBOLS)}
        self.prior_loss = entropy(self.x)

    def batch(self, size: int, generator: Generator) -> Batch:
        return self._masked(self.x[torch.randint(len(self.x), (size,), generator=generator)], generator)

    @staticmethod
    def _masked(x: Tensor, generator: Generator) -> Batch:
        hidden = torch.rand(x.shape, generator=generator) < 0.2
        return x.masked_fill(hidden, NUM_SYMBOLS), torch.where(hidden, x, -100)

    def loss(self, batch: Batch, network: str) -> Tensor:
        return F.cross_entropy(self.model(batch[0]).flatten(0, 1), batch[1].flatten())

    def score(self) -> float:
        x, y = self._masked(self.val_x, generator_of(0))
        return accuracy(self.model(x)[y >= 0], y[y >= 0])


class TiedText(Supervised):
    """A causal language model with tied weights; points: how much of half the prior loss is removed."""

    activation = "softmax"
    head = ""
    parts = ("blocks.0", "blocks.1")
    num_steps = 200
    batch_size = 32
    sgd_lr = 0.1
    has_float_inputs = False

    def __init__(self, seed: int) -> None:
        windows, val = text(25, seed)
        self.x, self.y, self.val_x, self.val_y = windows[:, :-1], windows[:, 1:], val[:, :-1], val[:, 1:]
        model = Transformer(len(LETTERS), 24, 32, 2, len(LETTERS), is_causal=True)
        model.head.weight = model.embed.weight
        self.networks = {"model": model}
        self.prior_loss = entropy(self.y)

    def loss(self, batch: Batch, network: str) -> Tensor:
        return F.cross_entropy(self.model(batch[0]).flatten(0, 1), batch[1].flatten())

    def score(self) -> float:
        return min(100.0, 200.0 * max(0.0, 1 - self.loss((self.val_x, self.val_y), "model").item() / self.prior_loss))


class _Seq2Seq(nn.Module):
    """A GRU reads, another one writes and attends to what was read (Bahdanau et al. 2015, with dot products)."""

    def __init__(self, num_symbols: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_symbols + 1, width)
        self.encoder = nn.GRU(width, width, batch_first=True)
        self.decoder = nn.GRU(width, width, batch_first=True)
        self.query, self.head = nn.Linear(width, width), nn.Linear(2 * width, num_symbols)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        read, state = self.encoder(self.embed(x))
        written, _ = self.decoder(self.embed(before), state)
        weights = (self.query(written) @ read.transpose(1, 2) / read.shape[-1] ** 0.5).softmax(-1)
        return self.head(torch.cat([written, weights @ read], 2))


class Reversal(Supervised):
    """Sequence to sequence with attention: write five symbols in reverse order."""

    activation = "softmax"
    parts = ("encoder", "decoder", "head")
    lr = 1e-2
    sgd_lr = 0.3
    num_steps = 250
    batch_size = 32
    has_float_inputs = False
    num_symbols, length = 6, 5

    def __init__(self, seed: int) -> None:
        x = torch.randint(self.num_symbols, (2500, self.length), generator=generator_of(seed))
        y = self.answer(x)
        self.x, self.y, self.val_x, self.val_y = x[500:], y[500:], x[:500], y[:500]
        self.networks = {"model": self.make()}
        self.prior_loss = entropy(y)

    def make(self) -> nn.Module:
        return _Seq2Seq(self.num_symbols, 32)

    def answer(self, x: Tensor) -> Tensor:
        return x.flip(1)

    def outputs(self, x: Tensor, y: Tensor) -> Tensor:
        """Return logits (N, T, symbols), each given the true symbols before it."""
        before = F.pad(y[:, :-1], (1, 0), value=self.num_symbols)
        return self.model(x, before)

    def loss(self, batch: Batch, network: str) -> Tensor:
        return F.cross_entropy(self.outputs(*batch).flatten(0, 1), batch[1].flatten())

    def score(self) -> float:
        return accuracy(self.outputs(self.val_x, self.val_y), self.val_y)


class _Translator(nn.Module):
    def __init__(self, num_symbols: int, length: int, width: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(num_symbols + 1, width), nn.Embedding(length, width)
        nn.init.normal_(self.embed.weight, std=0.3)
        nn.init.normal_(self.place.weight, std=0.3)
        self.encoder, self.decoder = Block(width), Block(width, is_causal=True)
        self.cross = nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_symbols)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        place = self.place.weight[: x.shape[1]]
        read = self.encoder(self.embed(x) + place)
        written = self.decoder(self.embed(before) + place)
        written = written + self.cross(written, read, read, need_weights=False)[0]
        return self.head(self.norm(written))


class Shifting(Reversal):
    """A transformer with cross-attention: write each symbol plus one, beginning with the second."""

    parts = ("encoder", "cross", "head")
    lr = 5e-3
    sgd_lr = 0.1
    num_steps = 200

    def make(self) -> nn.Module:
        return _Translator(self.num_symbols, self.length, 32)

    def answer(self, x: Tensor) -> Tensor:
        return (x.roll(-1, 1) + 1) % self.num_symbols


class _Reader(nn.Module):
    def __init__(self, num_symbols: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(num_symbols, width), nn.LSTM(width, width, batch_first=True)
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.lstm(self.embed(x))[0].amax(1)))


class TextClasses(Supervised):
    """An LSTM tells text, reversed text, shuffled text and text without vowels apart."""

    activation = "softmax"
    parts = ("embed", "lstm", "head")
    lr = 1e-2
    sgd_lr = 0.3
    num_steps = 120
    batch_size = 32
    has_float_inputs = False
    has_modes = True

    def __init__(self, seed: int) -> None:
        (self.x, self.y), (self.val_x, self.val_y) = (self._kinds(part, generator_of(seed)) for part in text(16, seed))
        self.networks = {"model": _Reader(len(LETTERS), 32, 3)}
        self.prior_loss = entropy(self.y)

    @staticmethod
    def _kinds(x: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        vowels = torch.tensor([LETTERS.index(c) for c in "aeiou"])
        silent = torch.where(torch.isin(x, vowels), LETTERS.index("x"), x)
        shuffled = torch.stack([row[torch.randperm(len(row), generator=generator)] for row in x])
        return torch.cat([x, silent, shuffled]), torch.arange(3).repeat_interleave(len(x))

    def loss(self, batch: Batch, network: str) -> Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def score(self) -> float:
        return accuracy(self.model(self.val_x), self.val_y)


class _Listener(nn.Module):
    def __init__(self, num_features: int, width: int, num_symbols: int) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv1d(num_features, width, 3, padding=1), nn.ReLU()
        self.gru, self.head = nn.GRU(width, width, batch_first=True), nn.Linear(width, num_symbols + 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(self.act(self.conv(x.transpose(1, 2))).transpose(1, 2))[0])


class Speech(Supervised):
    """Connectionist temporal classification: three sounds of varying length in noise, their order unaligned."""

    parts = ("conv", "gru", "head")
    lr = 1e-2
    sgd_lr = 0.05
    num_steps = 150
    batch_size = 16
    num_sounds, length, width = 3, 12, 8

    def __init__(self, seed: int) -> None:
        generator = generator_of(seed)
        shapes = torch.randn(6, self.width, generator=generator)
        x, y = self._spoken(1200, shapes, generator)
        self.x, self.y, self.val_x, self.val_y = x[200:], y[200:], x[:200], y[:200]
        self.networks = {"model": _Listener(self.width, 32, 6)}

    def _spoken(self, count: int, shapes: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        y = torch.stack([torch.randperm(6, generator=generator)[: self.num_sounds] for _ in range(count)])
        ends = torch.randint(3, 6, (count, self.num_sounds), generator=generator).cumsum(1)
        at = (torch.arange(self.length) >= ends[:, :, None]).sum(1).clamp(max=self.num_sounds - 1)
        x = shapes[y.gather(1, at)]
        return x + 0.5 * torch.randn(x.shape, generator=generator), y + 1

    def loss(self, batch: Batch, network: str) -> Tensor:
        x, y = batch
        log_p = self.model(x).log_softmax(-1).transpose(0, 1)
        sizes = torch.full((len(x),), self.length), torch.full((len(x),), self.num_sounds)
        return F.ctc_loss(log_p, y, *sizes)

    def score(self) -> float:
        """Return 100 times the share of sequences that the best path gets right."""
        best = self.model(self.val_x).argmax(-1)
        right = 0
        for row, y in zip(best.tolist(), self.val_y.tolist(), strict=True):
            said = [s for i, s in enumerate(row) if s and (i == 0 or s != row[i - 1])]
            right += said == y
        return 100.0 * right / len(best)
