"""Compare dead and saturated units with a slow count; test where they are measured and when a measurement ends."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stabletrain.signal.sources.unit_activity import MIN_SAMPLES, UnitActivity, find_equal_units
from stabletrain.signal.watch import Watch
from stabletrain.torch_tools.module_hooks import is_hooked
from stabletrain.vocabulary.signals import SIGNALS


def count(model, *inputs):
    units = UnitActivity(model)
    units.open()
    for x in inputs:
        model(x)
    return units.take()


def by_path(shares):
    return {layer.partition(".")[2]: share for layer, share in shares.items()}


def slow_share(samples, is_marked, is_idle):
    """Return the fraction of idle units of `samples` (n, units), computed element by element."""
    idle = [is_idle(sum(is_marked(float(v)) for v in column) / len(column)) for column in samples.T]
    return sum(idle) / len(idle)


def dead(samples):
    return slow_share(samples, lambda v: v != 0, lambda share: share < 0.01)


@settings(max_examples=25)
@given(st.lists(st.sampled_from([-9.0, -2.5, -2.0, 0.0, 3.0]), min_size=1, max_size=6), st.integers(0, 2**31))
def test_dead_units_equal_a_slow_count(biases, seed):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, len(biases)), nn.ReLU(), nn.Linear(len(biases), 2))
    model[0].bias.data = torch.tensor(biases)
    x = torch.randn(600, 4, generator=generator)
    (share,) = count(model, x)["dead"].values()
    assert share == pytest.approx(dead(model[:2](x).detach()))


def test_functional_activations_are_seen_and_the_data_is_not():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.last(torch.relu(self.second(torch.relu(self.first(x)))))

    model = Functional()
    model.second.bias.data[:6] = -50.0
    x = torch.randn(512, 4)
    x[:, 0] = 0.0  # a constant pixel
    shares = by_path(count(model, x)["dead"])
    assert shares == {"second": 0.0, "last": 0.75}


def test_units_of_convolutions_lie_on_axis_one_and_positions_are_samples():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.ReLU(),
        nn.Conv2d(4, 3, 3),
        nn.Flatten(),
        nn.Linear(3 * 36, 2),
    )
    model[1].bias.data = torch.tensor([-50.0, 0.0, 50.0, 0.0])
    found = count(model, torch.randn(8, 1, 8, 8))
    assert by_path(found["dead"]) == {"1": 0.0, "4": 0.25}  # the last layer has seen only eight samples
    assert by_path(found["saturated"]) == {"2": 0.5}


@pytest.mark.parametrize(
    ("activation", "at_end", "within"),
    [
        (nn.Tanh(), 3.0, 2.0),
        (nn.Sigmoid(), 5.0, 4.0),
        (nn.Sigmoid(), -5.0, -4.0),
        (nn.Hardtanh(), 1.0, 0.98),
        (nn.Hardtanh(0.0, 10.0), 9.99, 9.9),
        (nn.Softsign(), 101.0, 50.0),
        (nn.Hardsigmoid(), 3.0, 2.9),
    ],
)
def test_bounded_activations(activation, at_end, within):
    model = nn.Sequential(nn.Linear(1, 2, bias=False), activation, nn.Linear(2, 1))
    model[0].weight.data = torch.tensor([[at_end], [within]])
    assert by_path(count(model, torch.ones(512, 1))["saturated"]) == {"1": 0.5}
    model[0].weight.data = torch.tensor([[within], [within]])
    assert by_path(count(model, torch.ones(512, 1))["saturated"]) == {"1": 0.0}


def test_a_unit_that_is_at_the_ends_half_of_the_time_is_not_saturated():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Tanh(), nn.Linear(1, 1))
    nn.init.constant_(model[0].weight, 9.0)
    x = torch.zeros(600, 1)
    x[:300] = 1.0
    assert by_path(count(model, x)["saturated"]) == {"1": 0.0}
    x[300] = -1.0
    assert by_path(count(model, x)["saturated"]) == {"1": 1.0}


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.GELU(), nn.ELU(), nn.Softplus()])
def test_other_activations_do_not_saturate(activation):
    model = nn.Sequential(nn.Linear(1, 4), activation, nn.Linear(4, 1))
    assert "saturated" not in count(model, torch.full((512, 1), 100.0))


class Reader(nn.Module):
    def __init__(self, rnn):
        super().__init__()
        self.rnn, self.head = rnn, nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def test_states_of_a_tanh_rnn_saturate_and_gates_never():
    x = torch.full((32, 20, 3), 50.0)
    for rnn, expected in (
        (nn.RNN(3, 6, batch_first=True), {"rnn": 1.0}),
        (nn.RNN(3, 6, batch_first=True, nonlinearity="relu"), {}),
        (nn.LSTM(3, 6, batch_first=True), {}),
        (nn.GRU(3, 6, batch_first=True), {}),
    ):
        for p in rnn.parameters():
            nn.init.constant_(p, 1.0)
        assert by_path(count(Reader(rnn), x).get("saturated", {})) == expected


def test_the_answer_of_a_network_may_reach_its_ends():
    model = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1), nn.Sigmoid())
    for p in model.parameters():
        nn.init.constant_(p, 50.0)
    assert by_path(count(model, torch.ones(512, 1))["saturated"]) == {"1": 1.0}


def test_layers_have_the_names_of_the_activation_signal():
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    watch = Watch(model, signals=SIGNALS[:3] + SIGNALS[-1:])
    model(torch.randn(512, 3)).sum().backward()
    snapshot = watch.step()
    names = {layer.layer for layer in snapshot.signals["activation"]}
    assert set(snapshot.units["dead"]) == {"L02.3", "L04.5"} < names
    assert set(snapshot.units["saturated"]) == {"L01.1"} < names


def test_a_look_goes_on_until_enough_samples_were_seen():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    watch = Watch(model, signals=["units"])
    looks, shares = [], []
    for step in range(20):
        watch.expect(step in (0, 15))
        looks.append(watch.looks_at_outputs)
        model(torch.randn(100, 3)).sum().backward()
        shares.append(watch.step().units)
    assert [step for step, there in enumerate(looks) if there] == [0, 1, 2, 3, 4, 5, 15, 16, 17, 18, 19]
    assert [step for step, found in enumerate(shares) if found] == [5]
    assert set(shares[5]) == {"dead"}


def test_counts_begin_anew_after_each_share():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    units = UnitActivity(model)
    units.open()
    for bias, expected in ((-99.0, 1.0), (99.0, 0.0)):
        nn.init.constant_(model[0].bias, bias)
        for _ in range(2):
            assert units.take() == {}
            model(torch.randn(MIN_SAMPLES // 2, 3))
        assert by_path(units.take()["dead"]) == {"2": expected}
    units.close()
    assert not any(map(is_hooked, model.modules()))


def test_what_does_not_count():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    x = torch.randn(600, 3)
    with torch.no_grad():
        assert count(model, x) == {}
    assert count(copy.deepcopy(model).eval(), x) == {}
    model[0].requires_grad_(False)  # then the input of the last layer requires no gradient
    assert count(model, x) == {}
    assert count(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)), torch.empty(0, 3)) == {}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types(dtype):
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 1)).to(dtype)
    model[0].bias.data[:2] = -99.0
    model[2].bias.data[:1] = 99.0
    found = count(model, torch.randn(2000, 3, dtype=dtype))
    assert by_path(found["dead"]) == {"2": 0.25, "4": 0.0}
    assert by_path(found["saturated"]) == {"3": 0.25}


def test_what_is_not_finite_is_neither():
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    found = count(model, torch.full((512, 3), float("nan")))
    assert by_path(found["dead"]) == {"2": 0.0}
    assert by_path(found["saturated"]) == {"1": 0.0}


def test_units_that_begin_as_copies_are_counted_by_layer():
    torch.manual_seed(0)
    half = torch.randn(4, 3)
    half[0] = half[3]
    three = half.clone()
    three[1] = half[3]
    most = torch.randn(4, 2, 3, 3)
    most[1:] = most[0]
    parameters = {
        "drawn": torch.randn(4, 3),
        "same": torch.full((4, 3), 0.1),
        "half": half,
        "most": most,
        "three": three,
    }
    parameters |= {"zero": torch.zeros(2, 5), "bias": torch.ones(4), "one": torch.ones(1, 3), "none": torch.ones(0, 3)}
    found = find_equal_units(list(parameters), list(parameters.values()))
    assert found == {"equal": {"same": 1.0, "most": 1.0, "three": 0.75, "zero": 1.0}}
    assert find_equal_units(["drawn"], [parameters["drawn"]]) == {}


def test_the_watch_says_on_its_first_step_alone_which_units_are_equal():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    nn.init.constant_(model[0].weight, 0.1)
    watch = Watch(model, signals=["gradient", "units"])
    seen = []
    for _ in range(2):
        model(torch.randn(8, 3)).sum().backward()
        seen.append(watch.step().units.get("equal"))
    assert seen == [{"L00.0.weight": 1.0}, None]
