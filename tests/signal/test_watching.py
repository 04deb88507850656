"""Test which layers a watch measures, in which order, and that it changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from stabletrain.signal.cadence import is_due
from stabletrain.signal.layer_names import layer_name
from stabletrain.signal.watch import Watch
from stabletrain.torch_tools.module_hooks import is_hooked


class Backwards(nn.Module):
    """Defines its layers in a different order than it calls them; one is unused, one frozen, one called twice."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 1)
        self.unused = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.ones(4))
        self.first = nn.Linear(3, 4)
        self.twice = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)

    def forward(self, x):
        h = self.twice(self.twice(self.first(x)).relu())
        return self.last(self.frozen(h) * self.scale)


def paths(snapshot) -> list[str]:
    return [layer.layer.partition(".")[2] for layer in snapshot.layers]


def test_layers_come_in_the_order_of_the_forward_pass():
    model = Backwards()
    watch = Watch(model)
    model(torch.ones(2, 3)).sum().backward()
    snapshot = watch.step()
    assert paths(snapshot) == [
        "scale",
        "first.weight",
        "first.bias",
        "twice.weight",
        "twice.bias",
        "last.weight",
        "last.bias",
    ]
    unused, frozen = (next(n for n in watch.layers if word in n) for word in ("unused", "frozen"))
    assert unused > frozen  # layers that the pass did not reach come last
    assert sorted(watch.layers) == watch.layers


def test_a_shared_weight_counts_once_where_it_is_first_used():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    watch = Watch(model)
    model(torch.ones(2, 3)).sum().backward()
    assert paths(watch.step()) == ["0.weight", "0.bias", "2.bias"]


def test_the_hooks_are_gone_after_one_pass():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    watch = Watch(model)
    assert all(map(is_hooked, model.modules()))
    model(torch.ones(1, 3))
    assert not any(map(is_hooked, model.modules()))
    assert len(watch.layers) == 4


def test_a_watch_made_after_the_forward_pass_falls_back_to_the_definition():
    model = Backwards()
    loss = model(torch.ones(2, 3)).sum()
    watch = Watch(model)
    loss.backward()
    assert paths(watch.step())[0] == "scale"
    assert paths(watch.step())[1:3] == ["last.weight", "last.bias"]
    assert not any(map(is_hooked, model.modules()))


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrized_weights_are_watched(wrap):
    model = nn.Sequential(wrap(nn.Linear(3, 4)), nn.Linear(4, 1))
    watch = Watch(model)
    model(torch.randn(2, 3)).sum().backward()
    names = paths(watch.step())
    assert any("parametrizations.weight.original" in name for name in names)
    assert names[-1] == "1.bias"


def test_sparse_gradients_are_measured_on_their_values():
    model = nn.Embedding(10, 2, sparse=True)
    watch = Watch(model)
    model(torch.tensor([1, 1, 4])).sum().backward()
    (layer,) = watch.step().layers
    assert (layer.size, layer.rms) == (4, pytest.approx((10 / 4) ** 0.5))


def test_numbers_of_a_known_gradient():
    model = nn.Linear(2, 1, bias=False)
    watch = Watch(model)
    model(torch.tensor([[3.0, 4.0]])).sum().backward()
    (layer,) = watch.step().layers
    assert layer.rms == pytest.approx(12.5**0.5)
    assert (layer.size, layer.num_nonfinite, layer.histogram.size) == (2, 0, 2)
    assert watch.step(histograms=False).layers[0].histogram is None
    assert [watch.step().step, watch.step(step=40).step, watch.step().step] == [2, 40, 41]
    with pytest.raises(KeyError):
        watch.step()["L09.nothing"]


def test_nonfinite_gradients_are_counted_with_and_without_histograms():
    model = nn.Linear(2, 1, bias=False)
    watch = Watch(model)
    model(torch.tensor([[float("nan"), 4.0]])).sum().backward()
    for histograms in (True, False):
        (layer,) = watch.step(histograms=histograms).layers
        assert (layer.num_nonfinite, layer.rms) == (1, 4.0)


def test_watching_changes_nothing():
    def train(watched: bool):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        watch = Watch(model, signals=["gradient", "units"]) if watched else None
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(50):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            if watch:
                watch.step()
            optimizer.step()
        return list(model.parameters())

    assert all(a.equal(b) for a, b in zip(train(True), train(False), strict=True))


@pytest.mark.parametrize(
    ("index", "path", "total", "expected"),
    [
        (0, "w", 1, "L00.w"),
        (3, "rnn.weight_hh_l0", 6, "L03.rnn.weight_hh_l0"),
        (7, "w", 100, "L07.w"),
        (7, "w", 101, "L007.w"),
        (1, "a b[0]/é", 2, "L01.a_b_0___"),
    ],
)
def test_layer_names(index, path, total, expected):
    assert layer_name(index, path, total) == expected


@pytest.mark.parametrize(
    ("every", "due"),
    [(0, []), (1, list(range(12))), (5, [0, 4, 9]), (10, [0, 9]), (100, [0])],
)
def test_cadence(every, due):
    assert [step for step in range(12) if is_due(step, every)] == due


def test_a_layer_frozen_later_is_left_out_though_its_gradient_lingers():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    watch = Watch(model)
    model(torch.ones(2, 3)).sum().backward()
    assert len(watch.step().layers) == 4
    model[0].requires_grad_(False)
    assert model[0].weight.grad is not None
    assert paths(watch.step()) == ["1.weight", "1.bias"]


def test_complex_gradients_are_measured_by_their_absolute_value():
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(2, dtype=torch.cfloat))
    model.weight.grad = torch.tensor([3 + 4j, complex(0, float("nan"))])
    (layer,) = Watch(model).step().layers
    assert (layer.size, layer.rms, layer.num_nonfinite) == (2, pytest.approx(5.0), 1)
    assert layer.histogram.counts[129] == 1  # 4 <= |3 + 4i| < 8


def test_a_sparse_gradient_without_entries():
    model = nn.Embedding(10, 2, sparse=True)
    watch = Watch(model)
    model(torch.empty(0, dtype=torch.long)).sum().backward()
    (layer,) = watch.step().layers
    assert (layer.size, layer.rms, layer.num_nonfinite, layer.histogram.size) == (0, None, 0, 0)


def test_accumulated_gradients_are_measured_as_they_stand():
    model = nn.Linear(2, 1, bias=False)
    watch = Watch(model)
    for _ in range(3):
        model(torch.ones(1, 2)).sum().backward()
    assert watch.step().layers[0].rms == pytest.approx(3.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_gradients_of_other_dtypes(dtype):
    model = nn.Linear(2, 1, bias=False).to(dtype)
    watch = Watch(model)
    model(torch.tensor([[3.0, 4.0]], dtype=dtype)).sum().backward()
    (layer,) = watch.step().layers
    assert layer.rms == pytest.approx(12.5**0.5)
    assert [layer.histogram.counts[k] for k in (128, 129)] == [1, 1]


def test_a_model_without_parameters():
    model = nn.ReLU()
    watch = Watch(model)
    model(torch.ones(1))
    assert watch.step().layers == ()
    assert watch.layers == []


def test_statistics_equal_plain_torch_on_a_real_model():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    watch = Watch(model)
    nn.functional.cross_entropy(model(torch.randn(5, 1, 8, 8)), torch.tensor([0, 1, 2, 0, 1])).backward()
    snapshot = watch.step()
    assert paths(snapshot) == [name for name, _ in model.named_parameters()]
    for layer, p in zip(snapshot.layers, model.parameters(), strict=True):
        assert layer.rms == pytest.approx(float(p.grad.double().square().mean().sqrt()), rel=1e-5)
        assert layer.histogram.size == layer.size == p.numel()
