"""Compare the gradient through time with finite differences and with theory on linear networks; test edge cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from stabletrain.errors import RequestError
from stabletrain.network import GRU, LSTM, RNN, Parts
from stabletrain.network.activation import ACTIVATIONS
from stabletrain.network.normalization import NORMS
from stabletrain.signal.through_time import gradient_through_time
from stabletrain.signal.time_gradient import TimeGradient
from stabletrain.signal.unfused_rnn import replay

STEPS, BATCH, INPUTS, WIDTH = 5, 2, 3, 4
FUSED = [nn.RNN, nn.LSTM, nn.GRU]


def weigh(outputs):
    """A loss that weights every output differently."""
    y = outputs[0] if isinstance(outputs, tuple) else outputs
    return (y * torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype).reshape(y.shape)).square().sum()


def finite_differences(model, inputs, loss_fn, spy, cell, step, size, h=1e-5):
    """Return the norm of the loss's central differences with respect to one state, whose elements `spy` shifts."""
    found = []
    for place in range(math.prod(size)):
        losses = []
        for sign in (1, -1):
            shift = torch.zeros(size, dtype=torch.float64)
            shift.view(-1)[place] = sign * h
            with spy(model, cell, step, shift), torch.no_grad():
                losses.append(float(loss_fn(model(inputs))))
        found.append((losses[0] - losses[1]) / (2 * h))
    return float(np.linalg.norm(found))


class ShiftedReplay:
    """Runs a fused layer step by step, with one state of one cell shifted."""

    def __init__(self, model, cell, step, shift):
        self.model, self.cell, self.step, self.shift, self.seen = model, cell, step, shift, 0

    def note(self, key, state):
        if key == self.cell:
            state = state + self.shift if self.seen == self.step else state
            self.seen += 1
        return state

    def __enter__(self):
        self.model.forward = lambda *args: replay(self.model, self.note, *args)

    def __exit__(self, *_):
        del self.model.forward


class ShiftedStep(ShiftedReplay):
    """The same for the recurrent layers of `stabletrain.network`, whose `step` returns the state."""

    def __enter__(self):
        step = self.model.rnn.step
        self.model.rnn.step = lambda key, *args: (self.note(key, (state := step(key, *args))[0]), *state[1:])

    def __exit__(self, *_):
        del self.model.rnn.step


@pytest.mark.parametrize("kind", FUSED)
@pytest.mark.parametrize(
    "settings", [{}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True, "bias": False}]
)
def test_equals_finite_differences(kind, settings):
    model = kind(INPUTS, WIDTH, **settings).double()
    first_two = (BATCH, STEPS) if settings.get("batch_first") else (STEPS, BATCH)
    inputs = torch.randn(*first_two, INPUTS, dtype=torch.float64)
    found = gradient_through_time(model, inputs, weigh)
    keys = [f"l{i}{s}" for i in range(model.num_layers) for s in (("", "_reverse") if model.bidirectional else ("",))]
    assert [x.layer for x in found] == keys
    for gradient in found:
        for t in (0, 2, STEPS - 1):
            step = STEPS - 1 - t if gradient.layer.endswith("_reverse") else t
            expected = finite_differences(model, inputs, weigh, ShiftedReplay, gradient.layer, step, (BATCH, WIDTH))
            assert gradient.norms[t] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", FUSED)
def test_equals_the_kernel_cut_after_each_step(kind):
    """Reference without the replay: torch's kernel runs up to t and from t on, with h_t as a leaf tensor in between."""
    model, inputs = kind(INPUTS, WIDTH).double(), torch.randn(STEPS, BATCH, INPUTS, dtype=torch.float64)
    (found,) = gradient_through_time(model, inputs, weigh)
    for t in range(STEPS):
        before, final = model(inputs[: t + 1])
        hidden = (final[0] if kind is nn.LSTM else final).detach().requires_grad_()  # (1, batch, H)
        outputs = [before[:-1].detach(), hidden]
        if t + 1 < STEPS:
            outputs.append(model(inputs[t + 1 :], (hidden, final[1].detach()) if kind is nn.LSTM else hidden)[0])
        (total,) = torch.autograd.grad(weigh(torch.cat(outputs)), hidden)
        assert found.norms[t] == pytest.approx(float(total.norm()), rel=1e-12)


@pytest.mark.parametrize("family", [RNN, LSTM, GRU])
def test_ours_with_norm_and_another_activation(family):
    parts = Parts(activation=ACTIVATIONS["softplus"], norm=NORMS["layer"])
    model = family(INPUTS, 2, parts, width=WIDTH, depth=2).double().eval()
    inputs = torch.randn(BATCH, STEPS, INPUTS, dtype=torch.float64)
    found = gradient_through_time(model, inputs, weigh)
    assert [x.layer for x in found] == ["rnn.l0", "rnn.l1"]
    for gradient in found:
        for t in (0, STEPS - 1):
            cell = gradient.layer.partition(".")[2]
            expected = finite_differences(model, inputs, weigh, ShiftedStep, cell, t, (BATCH, WIDTH))
            assert gradient.norms[t] == pytest.approx(expected, rel=1e-6)


def linear_rnn(weight):
    """h_t = W h_{t−1} + U x_t, with torch's own names."""
    parts = Parts(activation=nn.Identity)
    model = RNN(1, 1, parts, width=len(weight)).double()
    with torch.no_grad():
        model.rnn.weight_hh_l0.copy_(weight)
    return model


@pytest.mark.parametrize("scale", [0.5, 0.9, 1.0, 1.1])
def test_a_scaled_rotation_changes_the_norm_by_its_singular_value_at_each_step(scale):
    weight = scale * torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]
    (found,) = gradient_through_time(linear_rnn(weight), torch.randn(3, 40, 1, dtype=torch.float64), torch.sum)
    assert float(torch.linalg.matrix_norm(weight, 2)) == pytest.approx(scale)
    assert found.backwards[1:] / found.backwards[:-1] == pytest.approx(np.full(39, scale), rel=1e-9)
    assert found.decades_per_step == pytest.approx(math.log10(scale), abs=1e-9)
    assert found.ratio == pytest.approx(scale**39, rel=1e-6)


def test_a_symmetric_matrix_decays_at_the_rate_of_its_largest_singular_value():
    basis = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    values = torch.tensor([0.8, -0.5, 0.4, 0.3, -0.2, 0.1], dtype=torch.float64)
    weight = basis @ values.diag() @ basis.T
    (found,) = gradient_through_time(linear_rnn(weight), torch.randn(3, 60, 1, dtype=torch.float64), torch.sum)
    rates = found.backwards[1:] / found.backwards[:-1]
    assert rates[20:] == pytest.approx(np.full(39, 0.8), rel=1e-4)
    assert (rates <= 0.8 + 1e-9).all()  # bounded by the largest singular value


def test_of_other_matrices_the_rate_is_the_spectral_radius_in_the_long_run():
    """Negative control: for a non-normal matrix, the largest singular value bounds each step, but is not the rate."""
    weight = torch.tensor([[0.9, 2.0], [0.0, 0.5]], dtype=torch.float64)
    (found,) = gradient_through_time(linear_rnn(weight), torch.randn(1, 80, 1, dtype=torch.float64), torch.sum)
    rates = found.backwards[1:] / found.backwards[:-1]
    largest = float(torch.linalg.matrix_norm(weight, 2))
    assert rates[60:] == pytest.approx(np.full(19, 0.9), rel=1e-9)
    assert largest > 2  # far from the rate
    assert (found.backwards <= found.backwards[0] * largest ** np.arange(80.0)).all()
    assert rates.max() > 1.2  # it grows at first


def test_no_matrix_lets_it_grow_faster_than_its_largest_singular_value():
    weight = torch.randn(6, 6, dtype=torch.float64)
    (found,) = gradient_through_time(linear_rnn(weight), torch.randn(3, 30, 1, dtype=torch.float64), torch.sum)
    largest = float(torch.linalg.matrix_norm(weight, 2))
    assert (found.backwards[1:] <= largest * found.backwards[:-1] * (1 + 1e-9)).all()


def test_the_outputs_own_gradient_is_another():
    """Negative control: the gradient of a fused kernel's outputs lacks the path through later states."""
    model, inputs = nn.RNN(INPUTS, WIDTH), torch.randn(STEPS, BATCH, INPUTS)
    outputs = model(inputs)[0]
    (direct,) = torch.autograd.grad(weigh(outputs), outputs)
    (found,) = gradient_through_time(model, inputs, weigh)
    direct = direct.flatten(1).norm(dim=1).numpy()
    assert found.norms[-1] == pytest.approx(direct[-1], rel=1e-5)  # after the last step there is no other path
    assert abs(found.norms[0] / direct[0] - 1) > 0.01


@pytest.mark.parametrize("kind", FUSED)
@pytest.mark.parametrize(
    "settings",
    [{}, {"num_layers": 2, "bidirectional": True, "dropout": 0.5}, {"batch_first": True}, {"bias": False}, {"proj": 2}],
)
@pytest.mark.parametrize("batched", [True, False])
def test_the_replay_computes_what_the_kernel_computes(kind, settings, batched):
    settings = dict(settings)
    if "proj" in settings:
        if kind is not nn.LSTM:
            return
        settings = {"proj_size": settings["proj"], "num_layers": 2}
    model = kind(INPUTS, WIDTH, **settings).double().eval()
    x = torch.randn(*((STEPS, BATCH) if batched else (STEPS,)), INPUTS, dtype=torch.float64)
    hidden = model.num_layers * (2 if model.bidirectional else 1)
    batch = (x.size(0) if model.batch_first else x.size(1),) if batched else ()
    h = torch.randn(hidden, *batch, getattr(model, "proj_size", 0) or WIDTH, dtype=torch.float64)
    hx = (h, torch.randn(hidden, *batch, WIDTH, dtype=torch.float64)) if kind is nn.LSTM else h
    for state in (None, hx):
        torch.testing.assert_close(replay(model, lambda _, s: s, x, state), model(x, state), rtol=1e-9, atol=1e-12)


def test_cells_in_a_loop_and_layers_called_step_by_step():
    class Loop(nn.Module):
        def __init__(self, cell):
            super().__init__()
            self.cell = cell

        def forward(self, x):
            state, outputs = None, []
            for t in range(x.size(0)):
                if isinstance(self.cell, nn.LSTM):
                    state = self.cell(x[t : t + 1], state)[1]
                    outputs.append(state[0][0])
                else:
                    state = self.cell(x[t], state)
                    outputs.append(state[0])
            return torch.stack(outputs)

    layer, x = nn.LSTM(INPUTS, WIDTH), torch.randn(STEPS, BATCH, INPUTS)
    cell = nn.LSTMCell(INPUTS, WIDTH)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
    (whole,) = gradient_through_time(layer, x, weigh)
    for model, name in ((Loop(cell), "cell"), (Loop(layer), "cell.l0")):
        (found,) = gradient_through_time(model, x, weigh)
        assert found.layer == name
        assert found.norms == pytest.approx(whole.norms, rel=1e-5)


def test_frozen_weights_and_one_step():
    model = nn.RNN(INPUTS, WIDTH).requires_grad_(False)
    (found,) = gradient_through_time(model, torch.randn(1, BATCH, INPUTS), lambda outputs: outputs[0].sum())
    assert found.norms == pytest.approx([math.sqrt(BATCH * WIDTH)])
    assert (found.decades_per_step, found.ratio) == (None, 1.0)


@pytest.mark.parametrize("steps", [slice(0, 1), slice(0, 4), slice(0, 0)])
def test_sizes_that_do_not_fit_are_refused_as_the_kernel_refuses_them(steps):
    model, x = nn.GRU(INPUTS, WIDTH), torch.randn(STEPS, 3, INPUTS)
    state = torch.randn(1, 4, WIDTH)[:, steps]
    for call in (lambda: model(x, state), lambda: gradient_through_time(model, (x, state), weigh)):
        with pytest.raises(RuntimeError, match="Expected hidden size"):
            call()
    with pytest.raises(RuntimeError, match="must have 3 dimensions"):
        gradient_through_time(model, x[None], weigh)


@pytest.mark.parametrize("found", [lambda y: y[0], lambda _: 1.0])
def test_a_loss_that_is_not_one_number_is_refused(found):
    with pytest.raises(RequestError) as caught:
        gradient_through_time(nn.GRU(INPUTS, WIDTH), torch.randn(STEPS, BATCH, INPUTS), found)
    assert caught.value.key == "loss_fn"


def test_no_gradient_at_all_is_zero_at_every_step():
    for model in (nn.GRU(INPUTS, WIDTH), nn.GRU(INPUTS, WIDTH).requires_grad_(False)):
        for loss_fn in (lambda _: torch.tensor(1.0), lambda y: 0 * y[0].sum(), lambda y: y[0].detach().sum()):
            (found,) = gradient_through_time(model, torch.randn(STEPS, BATCH, INPUTS), loss_fn)
            assert (found.norms.tolist(), found.decades_per_step, found.ratio) == ([0.0] * STEPS, None, None)


@pytest.mark.parametrize("kind", FUSED)
def test_one_example_without_a_batch(kind):
    model, x = kind(INPUTS, WIDTH, batch_first=True).double(), torch.randn(STEPS, INPUTS, dtype=torch.float64)
    (alone,), (batch,) = gradient_through_time(model, x, weigh), gradient_through_time(model, x[None], weigh)
    assert alone.norms == pytest.approx(batch.norms, rel=1e-12)


def test_of_a_mean_loss_the_norms_are_those_of_the_sum_over_the_number_of_examples():
    model, x = nn.GRU(INPUTS, WIDTH), torch.randn(STEPS, BATCH, INPUTS)
    (total,), (mean,) = (gradient_through_time(model, x, lambda y, n=n: y[0].sum() / n) for n in (1, BATCH))
    assert mean.norms == pytest.approx(total.norms / BATCH, rel=1e-5)


def test_no_recurrent_layer_and_no_path_to_the_loss():
    assert gradient_through_time(nn.Linear(3, 1), torch.randn(2, 3), torch.sum) == ()
    found = gradient_through_time(nn.RNN(INPUTS, WIDTH), torch.randn(STEPS, BATCH, INPUTS), lambda y: y[0][0].sum())
    assert (found[0].norms[0] > 0, set(found[0].norms[1:])) == (True, {0.0})  # the loss uses the first output only


def test_packed_sequences_are_refused():
    packed = pack_sequence([torch.randn(3, INPUTS), torch.randn(2, INPUTS)])
    with pytest.raises(RequestError) as caught:
        gradient_through_time(nn.RNN(INPUTS, WIDTH), (packed,), lambda y: y[0].data.sum())
    assert caught.value.found == "PackedSequence"


def test_half_precision_and_what_is_not_finite():
    model = nn.GRU(INPUTS, WIDTH).bfloat16()
    x = torch.randn(STEPS, BATCH, INPUTS).bfloat16()
    assert np.isfinite(gradient_through_time(model, x, weigh)[0].norms).all()
    x[2] = math.nan
    found = gradient_through_time(model, x, weigh)[0]
    assert not np.isfinite(found.norms).all()
    assert found.ratio is None


def test_slope_and_ratio_of_known_norms():
    norms = 10.0 ** -np.arange(6.0)[::-1]  # a factor of 0.1 per step back in time
    forwards, backwards = TimeGradient("rnn.l0", norms), TimeGradient("rnn.l0_reverse", norms)
    assert (forwards.decades_per_step, forwards.ratio) == (pytest.approx(-1.0), pytest.approx(1e-5))
    assert (backwards.decades_per_step, backwards.ratio) == (pytest.approx(1.0), pytest.approx(1e5))
    norms[2] = 0.0
    assert TimeGradient("l0", norms).decades_per_step == pytest.approx(-1.0)
    assert TimeGradient("l0", np.zeros(3)).decades_per_step is None
    assert TimeGradient("l0", np.array([1.0, 0.0])).ratio is None
