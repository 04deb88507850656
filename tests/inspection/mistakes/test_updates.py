"""Gradients that add up, and parameters that no optimizer steps."""

from __future__ import annotations

import copy
import gc
import pickle
import warnings

import pytest
import torch
from torch import nn

from stabletrain.inspection.inspections import Inspections
from stabletrain.inspection.inspector import StepView
from tests.inspection.mistakes.training_loops import batch, cross_entropy, kinds, mlp, train

ACCUMULATE, NOT_OPTIMIZED = ("gradients_accumulate", "certain"), ("not_optimized", "certain")


def test_a_missing_zero_grad():
    found = train(mlp(), before=lambda optimizer: None)
    assert kinds(found) == [ACCUMULATE]
    notice = found[ACCUMULATE]
    assert (notice.first_step, notice.evidence["num_steps"]) == (1, 2)
    assert notice.evidence["parameters"] == ["0.weight", "0.bias", "2.weight", "2.bias"]


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_a_missing_zero_grad_with_any_optimizer(optimizer):
    model = mlp()
    found = train(model, optimizer=optimizer(model.parameters(), 1e-3), before=lambda _: None)
    assert kinds(found) == [ACCUMULATE]


class ByHand:
    """An update without an optimizer."""

    def __init__(self, model, resets):
        self.model, self.resets = model, resets

    def zero_grad(self):
        self.model.zero_grad()

    def step(self):
        for p in self.model.parameters():
            p.data -= 0.01 * p.grad
        if self.resets:
            self.model.zero_grad()


@pytest.mark.parametrize("resets", [False, True])
def test_updates_by_hand(resets):
    model = mlp()
    found = train(model, optimizer=ByHand(model, resets), before=lambda _: None, num_steps=30)
    assert kinds(found) == ([] if resets else [ACCUMULATE])


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("each", [1, 3])
def test_gradients_that_are_reset_or_collected_on_purpose(set_to_none, each):
    found = train(mlp(), before=lambda o: o.zero_grad(set_to_none=set_to_none), each=each, num_steps=40)
    assert found == {}


def test_gradients_that_are_reset_after_the_step():
    class ResettingSGD(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            self.zero_grad()

    model = mlp()
    assert train(model, optimizer=ResettingSGD(model.parameters(), 0.01), before=lambda _: None) == {}


def gan_step(generator, discriminator, optimizers, step):
    """A game in which the generator's loss leaves gradients in the discriminator until its own step resets them."""
    real, noise = batch(step)[0], torch.randn(8, 4)
    optimizers[1].zero_grad()
    loss = discriminator(generator(noise).detach()).exp().mean() - discriminator(real).mean()
    loss.backward()
    yield discriminator, loss
    optimizers[1].step()
    optimizers[0].zero_grad()
    loss = -discriminator(generator(noise)).mean()
    loss.backward()
    yield generator, loss
    optimizers[0].step()


@pytest.mark.parametrize("lr", [1e-3, 1e-2])
def test_a_game_of_two_networks(lr):
    torch.manual_seed(0)
    generator, discriminator = mlp(outputs=4), mlp(outputs=1)
    optimizers = [torch.optim.Adam(m.parameters(), lr) for m in (generator, discriminator)]
    inspections = {m: Inspections(m) for m in (generator, discriminator)}
    found = []
    for step in range(30):
        for model, loss in gan_step(generator, discriminator, optimizers, step):
            found += inspections[model].step(StepView(step, model, loss))
    assert [notice for notice in found if notice.evidence["certainty"] != "harmless"] == []


@pytest.mark.parametrize(("late", "max_norm", "expected"), [
    (True, 1e-3, [("clip_ineffective", "likely")]), (True, 1.0, []), (False, 1e-3, []),
])  # fmt: skip
def test_gradients_made_smaller_after_the_step_by_whatever_function(late, max_norm, expected):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)

    class Clipped:
        def zero_grad(self):
            optimizer.zero_grad()

        def step(self):
            if late:
                optimizer.step()
            for p in model.parameters():
                p.grad.mul_(max_norm)
            if not late:
                optimizer.step()

    assert kinds(train(model, optimizer=Clipped())) == expected


@pytest.mark.parametrize("first_without", [None, 10, 30, 70])
def test_gradients_that_are_no_longer_reset(first_without):
    counts = iter(range(200))

    def reset(optimizer):
        if first_without is None or next(counts) < first_without:
            optimizer.zero_grad()

    found = train(mlp(), before=reset, num_steps=106)
    assert kinds(found) == ([] if first_without is None else [ACCUMULATE])
    if first_without is not None:
        notice = found[ACCUMULATE]
        assert notice.first_step <= first_without + 1 < notice.last_step
        assert f"Until step {notice.first_step - 1} they were reset" in notice.evidence["detail"]


def test_an_optimizer_of_another_model():
    model = mlp()
    found = train(model, optimizer=torch.optim.Adam(mlp().parameters(), 1e-3))
    assert kinds(found) == [NOT_OPTIMIZED]
    evidence = found[NOT_OPTIMIZED].evidence
    assert (evidence["num_parameters"], evidence["of"]) == (4, 4)
    assert evidence["detail"] == "No parameter of the model is in an optimizer that steps."


def test_no_optimizer_step_at_all():
    class Idle(torch.optim.SGD):
        def step(self, closure=None): ...

    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    steps = type("Nothing", (), {"zero_grad": lambda self: optimizer.zero_grad(), "step": lambda self: None})()
    found = train(model, optimizer=steps, num_steps=30)
    assert kinds(found) == [NOT_OPTIMIZED]
    assert found[NOT_OPTIMIZED].evidence["remedy"] == "call optimizer.step() after loss.backward()"


def test_gradients_reset_between_the_backward_pass_and_the_step():
    for set_to_none in (True, False):
        found = train(mlp(), before=lambda o: None, after=lambda o: o.zero_grad(set_to_none=set_to_none))  # noqa: B023
        assert kinds(found) == [NOT_OPTIMIZED]
        assert "between the backward pass and" in found[NOT_OPTIMIZED].evidence["mistake"]


def test_a_last_layer_that_the_optimizer_lacks():
    model = mlp()
    found = train(model, optimizer=torch.optim.SGD(model[0].parameters(), 0.1))
    assert kinds(found) == [NOT_OPTIMIZED]
    evidence = found[NOT_OPTIMIZED].evidence
    assert evidence["parameters"] == ["2.weight", "2.bias"]
    assert evidence["detail"] == "2.weight and 2.bias are in no optimizer that steps."


@pytest.mark.parametrize(("is_trained", "certainty"), [(True, "possible"), (False, "likely")])
def test_fine_tuning_of_the_last_layer_is_only_a_possibility(is_trained, certainty):
    model = mlp()
    if is_trained:
        nn.init.normal_(model[0].weight)
    found = train(model, optimizer=torch.optim.SGD(model[2].parameters(), 0.1))
    assert kinds(found) == [("not_optimized", certainty)]


def test_a_layer_that_was_replaced_after_the_optimizer_was_made():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model[2] = nn.Linear(20, 3)
    found = train(model, optimizer=optimizer)
    assert kinds(found) == [NOT_OPTIMIZED]
    assert "replaced" in found[NOT_OPTIMIZED].evidence["detail"]


def test_an_optimizer_that_steps_rarely_is_waited_for():
    model = mlp()
    first, second = (torch.optim.SGD(model[i].parameters(), 0.1) for i in (0, 2))

    class Both:
        count = 0

        def zero_grad(self):
            model.zero_grad()

        def step(self):
            self.count += 1
            first.step()
            if self.count % 25 == 0:
                second.step()

    assert train(model, optimizer=Both(), num_steps=60) == {}


@pytest.mark.parametrize("frozen", [0, 2])
def test_frozen_layers_and_tied_weights(frozen):
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 3))
    model[2].weight = model[0].weight
    model[frozen].requires_grad_(False)
    assert kinds(train(model, optimizer=torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1))) == []


def test_the_model_stays_as_it_is_and_can_be_copied_and_saved():
    model, twin = mlp(), mlp()
    inspections = Inspections(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            other(batch(0)[0]).sum().backward()
    assert all(account.num_added == 0 for account in inspections._inspectors[0]._ledger.accounts)
    inspections.detach()
    assert not any(p._backward_hooks for p in model.parameters())
    train(model)
    optimizer = torch.optim.SGD(twin.parameters(), 0.05)
    for step in range(16):
        optimizer.zero_grad()
        cross_entropy(twin, *batch(step)).backward()
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


def test_hooks_end_after_a_few_steps_and_with_the_inspections():
    model = mlp()
    inspections = Inspections(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for step in range(8):
        optimizer.zero_grad()
        loss = cross_entropy(model, *batch(step))
        loss.backward()
        inspections.step(StepView(step, model, loss))
        optimizer.step()
    assert not any(p._backward_hooks for p in model.parameters())
    again = Inspections(model)
    del again, inspections
    gc.collect()
    optimizer.step()
