"""The loss at chance level follows from outputs, gradients and losses, for the usual losses and for no other."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stabletrain.inspection.prior_loss import PriorLoss

N = 512
CLASSES = torch.arange(N) % 4  # entropy ln 4
RARE = (torch.arange(N) % 8 == 0).float()[:, None]  # p = 1/8
RARE_ENTROPY = -(math.log(1 / 8) / 8 + math.log(7 / 8) * 7 / 8)
REAL = 7 + 3 * torch.linspace(-1, 1, N)[:, None] * 3**0.5  # variance 9


def prior_of(model: nn.Module, loss_fn, targets: Tensor, factor: float = 1.0) -> float | None:
    """Return the estimate after four whole batches; the backward pass is of the loss times `factor`."""
    torch.manual_seed(0)
    prior, x = PriorLoss([model]), torch.randn(N, 3)
    for _ in range(4):
        prior.open()
        loss = loss_fn(model(x), targets)
        (factor * loss).backward()
        prior.see(loss)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 1e-3 * parameter.grad.sign()
                parameter.grad = None
    return prior.value


def linear(size: int, *tail: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, size), *tail)


class Last(nn.Module):
    """Returns outputs for three positions."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.stack([x, -x, 2 * x], dim=1))


class Tokens(nn.Module):
    """Returns outputs for two positions, in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(torch.stack([x, -x], dim=1))}


def padded(outputs: dict[str, Tensor], y: Tensor) -> Tensor:
    labels = torch.stack([y, torch.full_like(y, -100)], dim=1)  # the second position is padding
    return F.cross_entropy(outputs["logits"].flatten(0, 1), labels.flatten())


class Twins(nn.Module):
    """Returns the logits of two heads, equal at first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one = nn.Linear(3, 4)
        self.other = copy.deepcopy(self.one)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.one(x), self.other(x)


class Times(nn.Module):
    """Multiplies, so that most answers are certain, some of them right ones."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class TwoHeads(nn.Module):
    """Returns what two tasks need, and a hidden state without a loss."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.heads = nn.Linear(3, 5), nn.ModuleList(nn.Linear(3, n) for n in sizes)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (*(head(x) for head in self.heads), self.body(x))


class Several(nn.Module):
    """Returns its own loss, logits and a hidden state, as the models of transformers do; a part returns the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(3, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = self.body(x)
        logits = self.head(hidden)
        return {"loss": F.cross_entropy(logits, CLASSES), "logits": logits, "hidden": hidden}


KNOWN = {
    "its own loss": (Several(), lambda z, y: z["loss"], CLASSES, 0.5, math.log(4)),
    "cross entropy": (linear(4), F.cross_entropy, CLASSES, 1.0, math.log(4)),
    "accumulated": (linear(4), F.cross_entropy, CLASSES, 0.25, math.log(4)),
    "scaled for half precision": (linear(4), F.cross_entropy, CLASSES, 65536.0, math.log(4)),
    "summed": (linear(4), lambda z, y: F.cross_entropy(z, y, reduction="sum"), CLASSES, 1.0, N * math.log(4)),
    "by hand": (linear(4), lambda z, y: -z.log_softmax(1)[range(N), y].mean(), CLASSES, 1.0, math.log(4)),
    "log-probabilities": (linear(4, nn.LogSoftmax(1)), F.nll_loss, CLASSES, 1.0, math.log(4)),
    "padding": (Tokens(), padded, CLASSES, 1.0, math.log(4)),
    "binary": (linear(1), F.binary_cross_entropy_with_logits, RARE, 1.0, RARE_ENTROPY),
    "probabilities": (linear(1, nn.Sigmoid()), F.binary_cross_entropy, RARE, 1.0, RARE_ENTROPY),
    "squared": (linear(1), F.mse_loss, REAL, 1.0, 9.0),
    "the last position": (Last(), lambda z, y: F.mse_loss(z[:, -1], y), REAL, 1.0, 9.0),
    "half of it": (linear(1), lambda z, y: (z - y).square().mean() / 2, REAL, 1.0, 4.5),
    "certain of classes": (linear(4, Times(300.0)), F.cross_entropy, CLASSES, 1.0, math.log(4)),
    "certain": (linear(1, Times(300.0)), F.binary_cross_entropy_with_logits, RARE, 1.0, RARE_ENTROPY),
    "two tasks": (
        TwoHeads(4, 1),
        lambda z, y: F.cross_entropy(z[0], y) + 0.5 * F.mse_loss(z[1], REAL),
        CLASSES,
        1.0,
        math.log(4) + 4.5,
    ),
    "weighted tasks": (
        TwoHeads(4, 1),
        lambda z, y: 0.3 * F.cross_entropy(z[0], y) + F.binary_cross_entropy_with_logits(z[1], RARE),
        CLASSES,
        1.0,
        0.3 * math.log(4) + RARE_ENTROPY,
    ),
    "one axis": (linear(1, nn.Flatten(0)), lambda z, y: F.mse_loss(z, y[:, 0]), REAL, 1.0, 9.0),
}


@pytest.mark.parametrize("name", KNOWN)
def test_chance_level(name):
    model, loss_fn, targets, factor, expected = KNOWN[name]
    assert prior_of(model, loss_fn, targets, factor) == pytest.approx(expected, rel=0.02)


UNKNOWN = {
    "absolute error": (linear(1), F.l1_loss, REAL),
    "targets that broadcast": (linear(1), lambda z, y: (z - y[:, 0]).square().mean(), REAL),
    "label smoothing": (linear(4), lambda z, y: F.cross_entropy(z, y, label_smoothing=0.3), CLASSES),
    "policy gradient": (linear(4), lambda z, y: (z.log_softmax(1)[range(N), y] * RARE[:, 0]).mean(), CLASSES),
    "a penalty": (linear(1), lambda z, y: F.mse_loss(z, y) + z.pow(4).mean(), REAL),
    "two outputs that both fit": (Twins(), lambda z, y: sum(F.cross_entropy(h, y) for h in z) / 2, CLASSES),
    "two squared errors": (TwoHeads(1, 1), lambda z, y: F.mse_loss(z[0], y) + F.mse_loss(z[1], 2 * y), REAL),
    "a task and a penalty": (
        TwoHeads(4, 1),
        lambda z, y: F.cross_entropy(z[0], y) + z[1].pow(4).mean(),
        CLASSES,
    ),
    "a sum and a penalty of the weights": (
        TwoHeads(4, 1),
        lambda z, y: F.cross_entropy(z[0], y) + F.mse_loss(z[1], REAL) + 0.1,
        CLASSES,
    ),
    "some outputs": (linear(4), lambda z, y: (z[range(N), y] - REAL[:, 0]).square().mean(), CLASSES),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_other_losses_are_not_taken_for_one_of_them(name):
    assert prior_of(*UNKNOWN[name]) is None


def test_a_part_that_returns_what_the_whole_returns_counts_once():
    model = nn.Sequential(nn.Linear(3, 4))
    prior, x = PriorLoss([model, *model]), torch.randn(N, 3)
    for _ in range(4):
        prior.open()
        loss = F.cross_entropy(model(x), CLASSES)
        loss.backward()
        prior.see(loss)
    assert prior.value == pytest.approx(math.log(4), rel=0.02)


def test_no_hook_remains_and_evaluation_is_not_looked_at():
    model, x = linear(4), torch.randn(8, 3)
    prior = PriorLoss([model])
    prior.open()
    model.eval()
    model(x)
    model.train()
    F.cross_entropy(model(x), CLASSES[:8]).backward()
    prior.see(1.0)
    assert prior.value is None
    for _ in range(20):
        prior.open()
        loss = F.cross_entropy(model(x), CLASSES[:8])
        loss.backward()
        prior.see(loss)
    assert prior.is_done
    prior.open()
    assert not prior._hooks.is_open


@pytest.mark.parametrize(("batch", "attempts"), [(256, 10), (2048, 3)], ids=["few targets", "many targets"])
def test_it_looks_at_no_more_steps_than_it_needs(batch, attempts):
    model, y = linear(4), torch.arange(batch) % 4
    prior, num_open = PriorLoss([model]), 0
    for _ in range(12):
        num_open += not prior.is_done
        prior.open()
        loss = F.cross_entropy(model(torch.randn(batch, 3)), y)
        loss.backward()
        prior.see(loss)
    assert num_open == attempts
    assert prior.value == pytest.approx(math.log(4), abs=0.01)


def test_outputs_far_off_under_a_squared_error_are_no_logits():
    targets = 38 + 36 * torch.randn(N, 1, generator=torch.Generator().manual_seed(1))
    variance = pytest.approx(float(targets.var(correction=0)), rel=1e-2)
    for offset, expected in ((0.0, variance), (1e5, variance), (1e8, None)):
        model = linear(1)
        with torch.no_grad():
            model[0].weight.zero_()
            model[0].bias.fill_(offset)
        found = prior_of(model, F.mse_loss, targets)
        assert found == expected, "the targets are known, or lost in the rounding of the outputs"
