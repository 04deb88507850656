"""Test the first offender: one case per phase, with neighboring layers as negative controls, and no side effects."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stabletrain.errors import RequestError
from stabletrain.signal.offender import PHASES, Offender, find_offender
from stabletrain.signal.splitting import find_samples, length_of, select
from stabletrain.torch_tools.module_hooks import is_hooked

BAD = math.nan


class Log(nn.Module):
    def forward(self, x):
        return x.relu().log()


class Root(nn.Module):
    """The derivative of √x at 0 is infinite, and 0 · ∞ is NaN."""

    def forward(self, x):
        return x.square().sqrt()


def network(*middle: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), *middle, nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)
    )


def batch(num: int = 8):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num, 3, generator=generator), torch.randint(0, 2, (num,), generator=generator)


def cross_entropy(model):
    return lambda pair: F.cross_entropy(model(pair[0]), pair[1])


def find(model, pair=None, loss=None, **settings):
    """Return the offender without what `test_the_operation…` is about."""
    found = find_offender(model, loss or cross_entropy(model), pair or batch(), **settings)
    return found and replace(found, origin=None, operation=None, module=None, line=None, why=None)


def test_nothing_is_wrong():
    model = network()
    assert find(model, optimizer=torch.optim.Adam(model.parameters())) is None


def test_inf_in_the_data():
    model, (x, y) = network(), batch()
    x[2, 1], x[5, 0] = math.inf, BAD
    assert find(model, (x, y)) == Offender("data", None, "batch[0]", None, 2, 24, (2, 5))
    named = {"x": x, "y": y}
    found = find_offender(model, lambda b: F.cross_entropy(model(b["x"]), b["y"]), named)
    assert (found.tensor, found.samples) == ("batch['x']", (2, 5))


def test_data_that_does_no_harm_is_not_blamed():
    model, (x, y) = network(), batch()
    unused = torch.full((8,), BAD)
    assert find_offender(model, lambda b: F.cross_entropy(model(b[0]), b[1]), (x, y, unused)) is None


def test_a_weight_that_is_nan():
    model = network()
    model[2].weight.data[1, 1] = BAD
    found = find(model, optimizer=torch.optim.Adam(model.parameters()))
    assert found == Offender("parameter", "L02.2.weight", "parameter", None, 1, 16)


def test_a_buffer_that_is_nan():
    model = network(nn.BatchNorm1d(4)).eval()
    model[3].running_var[0] = BAD
    assert find(model) == Offender("parameter", "L03.3", "running_var", "L02.2", 1, 4)


def test_log_of_zero_in_the_forward_pass():
    model, (x, y) = network(Log()), batch()
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].weight[:, 0] = 1.0
        model[2].bias.fill_(2.0)  # positive for all
        model[0].weight.mul_(0.1)
    x[6] = -1e6 * model[0].weight[0].detach()  # the first tanh is −1
    assert find(model, (x, y)) is None
    model[2].bias.data.fill_(0.9)  # −0.1 for sample 6 only
    found = find(model, (x, y))
    assert found == Offender("forward", "L03.3", "output", "L02.2", 4, 32, (6,))


def test_functions_between_layers_are_found_by_their_neighbours():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.last((self.second(self.first(x).tanh()) * 0).log())

    model = Functional()
    found = find(model)
    assert (found.phase, found.layer, found.tensor, found.clean) == ("forward", "L02.last", "input", "L01.second")


def test_masked_scores_are_mended_by_the_softmax():
    class Mask(nn.Module):
        def forward(self, x):
            return torch.cat([x[:, :1], torch.full_like(x[:, 1:], -math.inf)], dim=1)

    model = network(Mask(), nn.Softmax(dim=1), nn.Linear(4, 4), Log())
    model[5].weight.data.zero_()
    model[5].bias.data.fill_(-1.0)
    found = find(model)
    assert (found.phase, found.layer, found.clean) == ("forward", "L06.6", "L05.5")


def test_overflow_in_the_loss():
    model = network()
    found = find(model, loss=lambda pair: (model(pair[0]) * 1e30).square().mean())
    assert found == Offender("loss", None, "loss", "L05.5", 1, 1, tuple(range(8)))


def test_the_loss_of_one_sample():
    model = network()

    def loss(pair):
        x, _ = pair
        return torch.where(x[:, 0] > 1.2, torch.inf, model(x).square().mean(dim=1)).mean()

    x, _ = batch()
    expected = tuple((x[:, 0] > 1.2).nonzero().flatten().tolist())
    assert 0 < len(expected) < 8
    assert find(model, loss=loss).samples == expected


def test_root_of_zero_in_the_backward_pass():
    model, (x, y) = network(Root()), batch()
    with torch.no_grad():
        model[2].bias.fill_(10.0)
    assert find(model, (x, y)) is None
    with torch.no_grad():
        model[0].weight.mul_(0.1)
        model[2].weight.zero_()
        model[2].weight[:, 0] = 1.0
        model[2].bias.fill_(1.0)
        x[3] = -1e6 * model[0].weight[0]  # the first tanh is −1
    found = find(model, (x, y))
    assert (found.phase, found.layer, found.tensor) == ("backward", "L03.3", "gradient of the input")
    assert (found.clean, found.samples, found.size) == ("L04.4", (3,), 32)
    assert find(model, (x[:3], y[:3])) is None


def test_functions_in_the_backward_pass_are_found_by_their_neighbours():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.last((self.second(self.first(x).tanh()) * 0).sqrt())

    found = find(Functional())
    assert (found.phase, found.layer, found.tensor, found.clean) == (
        "backward",
        "L01.second",
        "gradient of the output",
        "L02.last",
    )


def test_the_gradient_of_the_loss_itself():
    model = network()
    found = find(model, loss=lambda pair: (model(pair[0]) * 0).square().sum(dim=1).sqrt().mean())
    assert (found.phase, found.layer, found.tensor) == ("backward", None, "gradient of the output")


def test_two_branches_share_a_tensor_and_one_of_them_is_to_blame():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.bad, self.good, self.head = nn.Linear(3, 4), Root(), nn.Tanh(), nn.Linear(4, 2)

        def forward(self, x):
            h = self.stem(x) * 0
            return self.head(self.bad(h) + self.good(h))  # `good` runs later

    found = find(Fork())
    assert (found.phase, found.layer, found.tensor) == ("backward", "L01.bad", "gradient of the input")


def test_corrupted_state_of_adam_before_and_after_it_struck():
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    cross_entropy(model)(batch()).backward()
    optimizer.step()
    assert find(model, optimizer=optimizer) is None
    optimizer.state[model[2].weight]["exp_avg_sq"][0, 0] = BAD
    expected = Offender("optimizer", "L02.2.weight", "exp_avg_sq", None, 1, 16)
    assert find(model, optimizer=optimizer) == expected
    optimizer.step()
    assert not model[2].weight.isfinite().all()
    assert find(model, optimizer=optimizer) == expected
    assert find(model).phase == "parameter"


def test_a_step_that_overflows():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e38)
    found = find(model, loss=lambda pair: (model(pair[0]) * 1e3).square().mean(), optimizer=optimizer)
    assert (found.phase, found.tensor) == ("optimizer", "parameter after the step")


def everything(model, optimizer):
    return copy.deepcopy(
        (
            model.state_dict(),
            [p.grad for p in model.parameters()],
            optimizer.state_dict(),
            torch.get_rng_state(),
            [m.training for m in model.modules()],
        )
    )


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(
            a.nan_to_num(7.0) if a.is_floating_point() else a, b.nan_to_num(7.0) if b.is_floating_point() else b
        )
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.SGD, torch.optim.RMSprop])
@pytest.mark.parametrize("spoil", [None, "data", "parameter", "optimizer", "step"])
def test_everything_is_restored_to_the_bit(make, spoil):
    model = network(nn.BatchNorm1d(4), nn.Dropout(0.5))
    optimizer = make(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    x, y = batch(16)
    if spoil != "step":  # the first step creates the state
        cross_entropy(model)((x, y)).backward()
        optimizer.step()
    if spoil == "data":
        x[0] = BAD
    elif spoil == "parameter":
        model[2].weight.data[0] = BAD
    elif spoil == "optimizer" and optimizer.state and make is not torch.optim.SGD:
        next(v for k, v in optimizer.state[model[2].weight].items() if k != "step").fill_(BAD)
    before, hooks = (
        everything(model, optimizer),
        [(is_hooked(m), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
    )
    count = schedule._step_count
    gradients = [p.grad for p in model.parameters()]
    find(model, (x, y), optimizer=optimizer)
    assert equal(everything(model, optimizer), before)
    assert [(is_hooked(m), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == hooks
    assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))
    assert schedule._step_count == count


def test_batch_norm_that_cannot_take_one_sample():
    model, (x, y) = network(nn.BatchNorm1d(4), Log()), batch()
    found = find(model, (x, y))
    assert (found.phase, found.layer) == ("forward", "L04.4")
    assert set(found.samples) <= set(range(8))


def test_layers_that_hold_others_and_recurrent_ones():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.rnn = nn.GRU(3, 4, batch_first=True)
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.log, self.head = Log(), nn.Linear(4, 2)

        def forward(self, x):
            h = self.rnn(x)[0]
            return self.head(self.log(-self.attention(h, h, h)[0].square())[:, -1]) * self.scale

    x, y = torch.randn(8, 5, 3), batch()[1]
    found = find(Reader(), (x, y))
    assert (found.phase, found.layer, found.clean) == ("forward", "L02.log", "L01.attention")
    assert found.samples == tuple(range(8))


def test_checkpointed_layers_run_twice():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.body, self.last = nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 4), Root()), nn.Linear(4, 2)
            nn.init.zeros_(self.body[0].weight)
            nn.init.zeros_(self.body[0].bias)

        def forward(self, x):
            return self.last(torch.utils.checkpoint.checkpoint(self.body, self.first(x), use_reentrant=False))

    found = find(Checkpointed())
    assert (found.phase, found.layer, found.clean) == ("backward", "L02.body.1", "L03.last")


def test_a_loss_that_is_not_one_number_is_refused():
    model = network()
    with pytest.raises(RequestError) as caught:
        find(model, loss=lambda pair: model(pair[0]))
    assert caught.value.key == "loss_fn"


@pytest.mark.parametrize("bad", [(), (0,), (31,), (3, 4, 30), tuple(range(32))])
def test_samples_are_found_by_halves(bad):
    calls = []

    def goes_wrong(part):
        calls.append(part)
        return bool(set(part[0].tolist()) & set(bad))

    batch = (torch.arange(32), torch.tensor(3.0), [f"name {i}" for i in range(32)])
    found = find_samples(batch, 32, goes_wrong, max_num=5)
    assert found == bad[:5]
    assert all(part[2] == [f"name {i}" for i in part[0]] and part[1] == 3.0 for part in calls)
    if len(bad) == 1:
        assert len(calls) == 2 * 5


def test_parts_keep_the_form_of_the_batch():
    pair = {"x": torch.arange(4), "more": (torch.arange(8).view(4, 2), None, "word")}
    part = select(pair, [1, 3], length_of(pair))
    assert part["x"].tolist() == [1, 3]
    assert part["more"][0].tolist() == [[2, 3], [6, 7]]
    assert part["more"][1:] == (None, "word")


def test_words_and_phases():
    found = Offender("backward", "L03.3", "gradient of the input", "L04.4", 4, 32, (6,))
    assert str(found) == "backward: gradient of the input of L03.3, 4 of 32 not finite, L04.4 is clean, samples 6"
    assert found.to_dict()["samples"] == [6]
    assert found.phase in PHASES


def test_what_cannot_be_checked_is_refused():
    model, x = nn.Linear(2, 2), torch.ones(3, 2)
    cases = {
        "model": lambda: find_offender(lambda x: x, lambda x: x.sum(), x),
        "optimizer": lambda: find_offender(model, lambda x: model(x).sum(), x, optimizer="adam"),
        "loss_fn": lambda: find_offender(model, lambda x: model(x).sum().detach(), x),
    }
    for key, call in cases.items():
        with pytest.raises(RequestError) as caught:
            call()
        assert caught.value.key == key


def test_a_loss_function_that_calls_backward_changes_no_gradient():
    model, x = nn.Linear(2, 2), torch.ones(3, 2)
    model(x).sum().backward()
    kept = {name: (p.grad, p.grad.clone()) for name, p in model.named_parameters()}

    def loss_of(x):
        loss = (model(x) * 0).log().sum()
        loss.backward(retain_graph=True)
        return loss

    assert find_offender(model, loss_of, x).operation == "LogBackward0"
    for name, p in model.named_parameters():
        assert p.grad is kept[name][0]
        assert torch.equal(p.grad, kept[name][1])


def test_a_number_in_the_code_is_no_operation():
    model, x = nn.Linear(2, 2), torch.ones(3, 2)
    found = find_offender(model, lambda x: model(x).sum() + torch.tensor(torch.inf), x)
    assert (found.operation, found.why) == ("AddBackward0", "a tensor that it was given is not finite")


def test_the_reason_of_a_derivative_is_in_the_words_of_its_operation():
    model, x = nn.Linear(2, 2), torch.ones(3, 2)
    found = find_offender(model, lambda x: (model(x) * 0).sqrt().sum(), x)
    assert found.why == "the derivative of the square root at 0 is Inf"
