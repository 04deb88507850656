"""Layer-sequential unit variance against the algorithm of the paper, and what it leaves unchanged."""

import pytest
import torch
from torch import nn

from stabletrain.errors import RequestError
from stabletrain.network import GRU, LSTM, RNN, initialize_
from stabletrain.network.initialization import LSUV


def lsuv_by_the_algorithm(layers, x, tolerance=0.1, max_tries=10):
    """Algorithm 1 of the paper, with one forward pass per try and layer."""
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)
    for last, layer in enumerate(layers):
        if not isinstance(layer, nn.Linear):
            continue
        for _ in range(max_tries):
            variance = float(layers[: last + 1](x).detach().var(correction=0))
            if abs(variance - 1) < tolerance:
                break
            layer.weight.data /= variance**0.5
    return layers


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid])
def test_lsuv_is_the_algorithm(activation):
    def make():
        return nn.Sequential(
            nn.Linear(20, 30), activation(), nn.Linear(30, 10), activation(), nn.Linear(10, 40), activation()
        )

    x = 5 * torch.randn(64, 20) + 1
    torch.manual_seed(1)
    expected = lsuv_by_the_algorithm(make(), x)
    torch.manual_seed(1)
    found = initialize_(make(), "lsuv", inputs=x)
    for name, parameter in found.named_parameters():
        torch.testing.assert_close(parameter, expected.get_parameter(name), rtol=1e-4, atol=1e-6)


def test_lsuv_on_convolutions_of_every_kind():
    model = nn.Sequential(
        nn.Conv1d(4, 8, 3), nn.ReLU(), nn.Conv1d(8, 8, 3, groups=8), nn.ReLU(), nn.ConvTranspose1d(8, 6, 4, 2)
    )
    x = torch.randn(32, 4, 20) * 7
    initialize_(model, "lsuv", inputs=(x,))
    for layer in model:
        x = layer(x).detach()
        if not isinstance(layer, nn.ReLU):
            assert float(x.var(correction=0)) == pytest.approx(1, abs=1e-3)


def test_lsuv_needs_inputs_and_tries_as_often_as_it_may():
    with pytest.raises(RequestError) as caught:
        initialize_(nn.Linear(2, 2), "lsuv")
    assert caught.value.key == "inputs"
    for make in (lambda: LSUV(tolerance=0.0), lambda: LSUV(max_tries=0)):
        with pytest.raises(RequestError):
            make()

    class Cubic(nn.Linear):  # not linear in its weight: one step overshoots
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x) ** 3

    model = Cubic(8, 8)
    initialize_(model, LSUV(max_tries=4), inputs=torch.randn(512, 8))
    assert model.calls == 4
    settled = nn.Sequential(Cubic(8, 8))
    initialize_(settled, LSUV(tolerance=1e9), inputs=torch.randn(512, 8))
    assert settled[0].calls == 1


def test_lsuv_leaves_what_it_cannot_scale():
    class Broken(nn.Module):
        def forward(self, x):
            return x / 0

    for x, model in (
        (torch.zeros(4, 3), nn.Linear(3, 2)),
        (torch.randn(4, 3), nn.Sequential(Broken(), nn.Linear(3, 2))),
        (torch.randn(0, 3), nn.Linear(3, 2)),
        (torch.randn(1, 1), nn.Linear(1, 1)),  # one element has no variance
    ):
        initialize_(model, "lsuv", inputs=x)
        for weight in (p for p in model.parameters() if p.dim() > 1):
            gram = weight @ weight.T
            torch.testing.assert_close(gram, torch.eye(len(gram)))


def test_lsuv_scales_a_shared_layer_by_its_first_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            return self.layer(self.layer(x) * 3)

    model, x = Twice(), 4 * torch.randn(256, 8)
    initialize_(model, "lsuv", inputs=x)
    assert float(model.layer(x).detach().var(correction=0)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("family", [RNN, LSTM, GRU])
def test_lsuv_leaves_recurrent_layers_orthonormal(family):
    model, x = family(6, 3, depth=2, width=16), torch.randn(32, 7, 6)
    initialize_(model, "lsuv", inputs=x)
    for name, weight in model.rnn.named_parameters():
        if "weight_hh" in name:
            for gate in weight.detach().split(16):
                torch.testing.assert_close(gate @ gate.T, torch.eye(16))
    assert float(model(x).detach().var(correction=0)) == pytest.approx(1, abs=1e-3)


def test_lsuv_takes_half_precision_and_restores_what_a_forward_changes():
    class Counting(nn.Linear):
        def __init__(self):
            super().__init__(8, 8)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls = self.calls + 1
            return super().forward(x + torch.rand_like(x))

    model = nn.Sequential(Counting(), nn.BatchNorm1d(8), nn.Dropout(0.5))
    model[2].eval()
    buffer = model[0].calls
    torch.manual_seed(1)
    initialize_(model, "orthogonal")
    drawn = torch.get_rng_state()
    torch.manual_seed(1)
    initialize_(model, "lsuv", inputs=torch.randn(64, 8, generator=torch.Generator().manual_seed(2)))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert model[0].calls is buffer
    assert buffer == 0
    assert [m.training for m in model] == [True, True, False]
    assert model[1].num_batches_tracked == 0
    half = initialize_(nn.Linear(8, 8).bfloat16(), "lsuv", inputs=10 * torch.randn(64, 8).bfloat16())
    assert half.weight.dtype == torch.bfloat16
    assert float(half(torch.randn(512, 8).bfloat16()).detach().float().var()) == pytest.approx(0.01, rel=0.3)
