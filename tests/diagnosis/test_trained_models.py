"""Real small trainings: the healthy ones get no alarm, the sick ones get the right one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import stabletrain as st

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU, "sigmoid": nn.Sigmoid}
RECURRENT = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class Pick(nn.Module):
    """The last step of a recurrent layer, or the mean over the steps."""

    def __init__(self, core: nn.Module, head: nn.Module):
        super().__init__()
        self.core, self.head = core, head

    def forward(self, x):
        h = self.core(x)
        return self.head(h[0][:, -1] if isinstance(h, tuple) else h.mean(1))


def mlp(depth: int, activation: str, width: int = 16) -> nn.Sequential:
    layers = [m for i in range(depth) for m in (nn.Linear(width if i else 8, width), ACTIVATIONS[activation]())]
    return nn.Sequential(*layers, nn.Linear(width, 2))


def recurrent(family: str) -> nn.Module:
    return Pick(RECURRENT[family](4, 16, batch_first=True), nn.Linear(16, 2))


def convolutional() -> nn.Module:
    blocks = [m for i in range(2) for m in (nn.Conv2d(8 if i else 1, 8, 3), nn.BatchNorm2d(8), nn.ReLU())]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(128, 2))


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(nn.Embedding(50, 16), Pick(encoder, nn.Linear(16, 2)))


def vectors() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(32, 8)
    return x, (x[:, 0] > 0).long()


def sequences() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(32, 10, 4)
    return x, (x[:, 0, 0] > 0).long()


def images() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(16, 1, 8, 8)
    return x, (x.mean((1, 2, 3)) > 0).long()


def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randint(0, 50, (16, 12))
    return x, (x[:, 0] > 25).long()


def train(model: nn.Module, batch, num_steps: int = 120, optimizer=torch.optim.Adam, lr: float = 1e-3) -> st.Doctor:
    doctor, optimizer = st.Doctor(model), optimizer(model.parameters(), lr=lr)
    for _ in range(num_steps):
        x, y = batch()
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        doctor.step(loss)
        optimizer.step()
    return doctor


HEALTHY = {
    **{f"mlp {name}": (lambda name=name: mlp(3 if name != "sigmoid" else 1, name), vectors) for name in ACTIVATIONS},
    **{name: (lambda name=name: recurrent(name), sequences) for name in RECURRENT},
    "cnn": (convolutional, images),
    "transformer": (transformer, tokens),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_model_gets_no_alarm(name):
    make, batch = HEALTHY[name]
    doctor = train(make(), batch)
    assert [f for f in doctor.findings if f.severity != "info"] == []
    assert doctor.verdict == "healthy"


@pytest.mark.parametrize("seed", range(3))
def test_training_to_the_end_is_no_illness(seed):
    torch.manual_seed(seed)
    x, y = torch.randn(32, 8), torch.arange(32) % 2  # learned by heart: the gradient falls by decades
    doctor = train(mlp(2, "relu", width=32), lambda: (x, y), num_steps=600, lr=1e-2)
    assert doctor.verdict == "healthy"


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_twenty_sigmoid_layers_vanish(optimizer):
    (finding,) = [f for f in train(mlp(20, "sigmoid"), vectors, 30, optimizer).findings if f.alarms]
    assert (finding.kind, finding.severity, finding.layer) == ("vanishing", "critical", "L00.0.weight")
    assert (finding.first_step, finding.last_step) == (0, 29)
    assert finding.evidence["log10_ratio_first_to_last"] < -10


def test_twenty_tanh_layers_with_large_weights_explode():
    model = mlp(20, "tanh", width=32)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=6 / parameter.shape[1] ** 0.5)  # chaotic: mean-field χ₁ above 1
    finding = next(f for f in train(model, vectors, 30).findings if f.kind == "exploding")
    assert finding.layer == "L00.0.weight"
    assert finding.evidence["log10_ratio_first_to_last"] > 3


def test_normalized_the_same_twenty_layers_are_healthy():
    layers = [m for i in range(20) for m in (nn.Linear(16 if i else 8, 16), nn.LayerNorm(16), nn.ReLU())]
    assert train(nn.Sequential(*layers, nn.Linear(16, 2)), vectors, 30).verdict == "healthy"


def test_one_nan_in_the_input_is_found_in_the_first_layer():
    def poisoned():
        x, y = vectors()
        x[3, 2] = float("nan")
        return x, y

    findings = train(mlp(2, "relu"), poisoned, 1).findings
    assert [(f.kind, f.severity, f.layer) for f in findings] == [("nonfinite", "critical", None)]  # no layer's fault
    evidence = findings[0].evidence
    assert (evidence["origin"], evidence["samples"], evidence["layers"][0]) == ("input", [3], "L00.0")


def test_a_loss_that_jumps_for_good_is_an_explosion():
    generator = iter([1.0] * 80 + [1e3] * 10)

    def batch():
        x, y = vectors()
        return x * next(generator), y

    model = nn.Linear(8, 2)
    findings = train(model, batch, 90, torch.optim.SGD, lr=1e-6).findings
    found = [(f.kind, f.layer, f.first_step, f.last_step) for f in findings if f.first_step == 80]
    assert found == [("exploding", None, 80, 89), ("loss_spike", None, 80, 89)]
    assert findings[1].evidence["because_of"] == "exploding"
