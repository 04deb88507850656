"""Compare the signals other than the gradient with values computed directly by autograd or the optimizer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stabletrain.errors import RequestError
from stabletrain.signal.watch import Watch
from stabletrain.torch_tools.module_hooks import is_hooked
from stabletrain.vocabulary.signals import ACTIVATION, CLIP, DELTA, MOMENT, SIGNALS, UPDATE, WEIGHT


class Network(nn.Module):
    """A network that calls one layer twice and has a recurrent layer, whose output is a tuple."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.activation = nn.ReLU()
        self.twice = nn.Linear(4, 4)
        self.rnn = nn.GRU(4, 5, batch_first=True)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        x = self.activation(self.first(x))
        x = self.twice(torch.tanh(self.twice(x)))
        return self.head(self.dropout(self.rnn(x)[0]))


def rms(x) -> float:
    return float(x.detach().double().square().mean().sqrt())


def by_path(measures) -> dict:
    return {m.layer.partition(".")[2]: m for m in measures}


def test_activations_and_deltas_are_what_autograd_says():
    model, x = Network(), torch.randn(6, 7, 3)
    outputs, gradients = {}, {}

    def keep(name):
        def hook(module, inputs, output):
            output = output[0] if isinstance(output, tuple) else output
            outputs.setdefault(name, []).append(output.detach().clone())
            output.register_hook(lambda g: gradients.setdefault(name, []).append(g.clone()))

        return hook

    for name, module in model.named_children():
        module.register_forward_hook(keep(name))
    watch = Watch(model, signals=[ACTIVATION, DELTA])
    model(x).square().sum().backward()
    snapshot = watch.step()
    for signal, expected in ((ACTIVATION, outputs), (DELTA, gradients)):
        found = by_path(snapshot.signals[signal])
        assert list(found) == [
            "first",
            "activation",
            "twice",
            "rnn",
            "head",
        ]  # forward order, without dropout, which passes its input on
        for name, statistics in found.items():
            whole = torch.cat([t.flatten() for t in expected[name]])
            assert statistics.size == whole.numel()
            assert statistics.rms == pytest.approx(rms(whole), rel=1e-5)
            assert statistics.histogram.size == whole.numel()
    assert by_path(snapshot.signals[ACTIVATION])["activation"].histogram.num_zero == int(
        (outputs["activation"][0] == 0).sum()
    )


def test_an_activation_that_works_in_place_hides_nothing_from_the_layer_before():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    watch, x = Watch(model, signals=[ACTIVATION, DELTA]), torch.randn(5, 3)
    model(x).square().sum().backward()
    signals = watch.step().signals
    assert signals[ACTIVATION][0].rms == pytest.approx(rms(model[0](x)), rel=1e-5)  # before the ReLU overwrote it
    back = 2 * model(x) @ model[2].weight
    assert signals[DELTA][1].rms == pytest.approx(rms(back), rel=1e-5)
    assert signals[DELTA][0].rms == pytest.approx(rms(back * (model[0](x) > 0)), rel=1e-5)


def test_micro_batches_add_up_and_evaluation_does_not_count():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    watch = Watch(model, signals=[ACTIVATION, DELTA])
    batches = torch.randn(3, 5, 3)
    for batch in batches:
        model(batch).sum().backward()
    model.eval()
    model(batches[0])
    model.train()
    with torch.no_grad():
        model(batches[0])
    snapshot = watch.step()
    whole = model(batches.flatten(0, 1))
    assert snapshot.signals[ACTIVATION][1].size == 3 * 5 * 4
    assert snapshot.signals[ACTIVATION][1].rms == pytest.approx(rms(whole), rel=1e-5)
    assert set(watch.step().signals) == {ACTIVATION}  # of the last pass, which had no backward pass


def test_taps_are_on_the_model_only_when_expected():
    model = nn.Linear(3, 3)
    watch = Watch(model, signals=[ACTIVATION])
    assert is_hooked(model)
    watch.expect(taps=False)
    model(torch.randn(2, 3)).sum().backward()
    assert not is_hooked(model)
    assert ACTIVATION not in watch.step().signals
    watch.expect(taps=True, histograms=False)
    model(torch.randn(2, 3)).sum().backward()
    assert watch.step().signals[ACTIVATION][0].histogram is None
    watch.detach()
    assert not is_hooked(model)


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad])
def test_the_optimizers_step_from_both_sides(make):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = make(model.parameters(), lr=0.01)
    watch = Watch(model, optimizer=optimizer, signals=[WEIGHT, UPDATE, MOMENT, CLIP])
    key = {torch.optim.Adam: "exp_avg_sq", torch.optim.RMSprop: "square_avg", torch.optim.Adagrad: "sum"}[make]
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 3)).square().mean().backward()
        before = [p.detach().clone() for p in model.parameters()]
        snapshot = watch.step()
        assert set(snapshot.signals) == {WEIGHT}
        nn.utils.clip_grad_value_(model.parameters(), 1e-3)
        optimizer.step()
        for place, (parameter, old) in enumerate(zip(model.parameters(), before, strict=True)):
            found = {signal: snapshot.signals[signal][place] for signal in (WEIGHT, UPDATE, MOMENT, CLIP)}
            assert found[WEIGHT].rms == pytest.approx(rms(old), rel=1e-5)
            assert found[UPDATE].rms == pytest.approx(rms(parameter.detach() - old), rel=1e-5)
            assert found[MOMENT].rms == pytest.approx(rms(optimizer.state[parameter][key]), rel=1e-5)
            assert found[CLIP].rms == pytest.approx(rms(parameter.grad), rel=1e-5)
            assert found[CLIP].rms <= 1.0001e-3 < max(x.rms for x in snapshot.layers)
            ratio = float((parameter.detach() - old).norm() / old.norm())
            assert snapshot.update_ratios[found[UPDATE].layer] == pytest.approx(ratio, rel=1e-4)


def test_plain_sgd_has_no_second_moment():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = Watch(model, optimizer=optimizer, signals=[MOMENT])
    model(torch.randn(4, 3)).sum().backward()
    snapshot = watch.step()
    optimizer.step()
    assert len(snapshot.signals[MOMENT]) == 0


def test_a_step_that_never_comes_leaves_no_hook():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch = Watch(model, optimizer=optimizer, signals=[UPDATE])
    for _ in range(3):
        model(torch.randn(4, 3)).sum().backward()
        watch.step()
    assert (len(optimizer._optimizer_step_pre_hooks), len(optimizer._optimizer_step_post_hooks)) == (1, 1)
    optimizer.step()
    assert (len(optimizer._optimizer_step_pre_hooks), len(optimizer._optimizer_step_post_hooks)) == (0, 0)


def test_a_signal_that_does_not_exist_or_needs_the_optimizer_is_refused():
    with pytest.raises(RequestError) as caught:
        Watch(nn.Linear(1, 1), signals=["gradients"])
    assert (caught.value.key, caught.value.closest) == ("signals", "gradient")
    with pytest.raises(RequestError) as caught:
        Watch(nn.Linear(1, 1), signals=["gradient", "update"])
    assert (caught.value.found, "optimizer" in str(caught.value.allowed)) == ("update", True)


@pytest.mark.parametrize("kind", ["mlp", "recurrent"])
def test_two_hundred_steps_are_bit_identical_with_all_signals_on_and_off(kind):
    def train(watched):
        torch.manual_seed(0)
        model = Network() if kind == "recurrent" else nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.2), nn.Linear(16, 2))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=0.1)
        watch = Watch(model, optimizer=optimizer, signals=SIGNALS) if watched else None
        for _ in range(200):
            optimizer.zero_grad()
            x = torch.randn(4, 5, 3)
            (model(x) - x[..., :2]).square().mean().backward()
            if watch is not None:
                watch.step()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
        return [p.detach() for p in model.parameters()]

    for watched, alone in zip(train(True), train(False), strict=True):
        assert torch.equal(watched, alone)
