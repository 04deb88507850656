"""Optimizers are recognized by their steps and parameters, and nothing is left behind."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.optim import optimizer as torch_hooks

from stabletrain.inspection.optimizers import ALTERNATIONS, Optimizers, unwrap


def with_gradients(*sizes: int) -> nn.Sequential:
    model = nn.Sequential(*(nn.Linear(n, 1) for n in sizes))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    return model


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.1)


def num_hooks() -> int:
    return len(torch_hooks._global_optimizer_pre_hooks) + len(torch_hooks._global_optimizer_post_hooks)


class Events(list):
    """Hooks as a watch registers them: they are removed after a step."""

    def expect(self, optimizers: Optimizers) -> None:
        handles = [
            optimizers.register_step_pre_hook(lambda _: self.append("before")),
            optimizers.register_step_post_hook(lambda _: [self.append("after"), *(h.remove() for h in handles)]),
        ]


def test_one_that_is_made_later_is_found_on_its_first_step_and_others_are_not():
    model, stranger = with_gradients(2), with_gradients(3)
    optimizers, found = Optimizers(model), []
    optimizers.on_first_step = found.append
    other, mine = sgd(stranger), sgd(model)
    other.step()
    assert (optimizers.known, list(optimizers.others)) == ((), [other])
    mine.step()
    mine.step()
    assert (optimizers.known, found) == ((mine,), [mine])


def test_a_group_that_is_added_later_counts():
    model, stranger = with_gradients(2), with_gradients(3)
    optimizers, optimizer = Optimizers(model), sgd(stranger)
    optimizer.step()
    assert not optimizers.steps(optimizer)
    optimizer.add_param_group({"params": [*model.parameters()]})
    assert optimizers.steps(optimizer)


def test_the_step_is_over_when_every_optimizer_has_taken_its_own():
    model, events = with_gradients(2, 3), Events()
    optimizers = Optimizers(model)
    first, second = sgd(model[0]), sgd(model[1])
    events.expect(optimizers)
    first.step()
    assert events == ["before"]
    second.step()
    assert events == ["before", "before", "after"]
    assert optimizers.unmoved == frozenset()


def test_parameters_that_no_optimizer_steps_are_known_once_the_step_is_settled():
    model, events = with_gradients(2, 3), Events()
    optimizers = Optimizers(model)
    optimizer = sgd(model[0])
    events.expect(optimizers)
    optimizer.step()
    optimizers.settle()
    assert events == ["before", "after"]
    assert optimizers.unmoved == frozenset(map(id, model[1].parameters()))
    events.clear()
    events.expect(optimizers)
    optimizers.settle()  # skipped, as by a gradient scaler: there is no step to measure
    assert events == []


def test_a_second_step_on_the_same_gradients_does_not_count():
    model, events = with_gradients(2, 3), Events()
    optimizers, optimizer = Optimizers(model), None
    optimizer = sgd(model[0])
    events.expect(optimizers)
    optimizer.step()
    optimizer.step()
    assert events == ["before", "after"]


def test_a_step_by_hand_is_settled_too():
    events = Events()
    optimizers = Optimizers(with_gradients(2))
    events.expect(optimizers)
    optimizers.settle()
    assert events == ["after"]
    assert not optimizers.was_seen


@pytest.mark.parametrize("turns", [1, ALTERNATIONS])
def test_taking_turns_is_told_from_training_one_after_another(turns):
    model, stranger = with_gradients(2), with_gradients(3)
    optimizers, mine, other = Optimizers(model), sgd(model), sgd(stranger)
    for _ in range(turns):
        for _ in range(10 // turns):
            other.step()
        mine.step()
    assert optimizers.takes_turns == (turns == ALTERNATIONS)


def test_nothing_is_kept_alive_and_no_hook_remains():
    gc.collect()
    Optimizers(with_gradients(2)).detach()  # removes what other tests have left
    before, model = num_hooks(), with_gradients(2)
    optimizers, several = Optimizers(model), [Optimizers(model) for _ in range(3)]
    optimizer = sgd(model)
    optimizer.step()
    assert num_hooks() <= 2
    assert all(x.known == (optimizer,) for x in [optimizers, *several])
    gone = weakref.ref(optimizer)
    del optimizer
    assert gone() is None
    assert optimizers.known == ()
    collected = [weakref.ref(x) for x in several]
    del several
    gc.collect()
    assert all(ref() is None for ref in collected)
    optimizers.detach()
    assert num_hooks() == before
    sgd(model).step()
    assert optimizers.known == ()


def test_one_that_is_collected_during_a_step_does_not_disturb_it():
    """Torch iterates over its hooks then, which must not change."""
    model = with_gradients(2)
    optimizers = [Optimizers(model)]
    optimizer = sgd(model)
    optimizer.register_step_pre_hook(lambda *_: optimizers.clear())
    optimizer.register_step_post_hook(lambda *_: gc.collect())
    optimizer.step()
    assert optimizers == []


def test_a_copy_looks_for_the_optimizers_of_the_copied_model():
    optimizers = Optimizers(with_gradients(2))
    model, other = copy.deepcopy((optimizers._model, optimizers))
    optimizer = sgd(model)
    optimizer.step()
    assert other.known == (optimizer,)
    assert optimizers.known == ()


def test_wrapped_optimizers_are_unwrapped():
    class Wrapper(torch.optim.Optimizer):
        """As accelerate's: an `Optimizer` whose constructor does not call that of the base class."""

        def __init__(self, optimizer):
            self.optimizer = optimizer

    optimizer = sgd(with_gradients(2))
    assert unwrap(Wrapper(Wrapper(optimizer))) is optimizer
    assert unwrap(optimizer) is optimizer


def test_the_state_is_that_of_all_optimizers():
    model = with_gradients(2, 3)
    optimizers = Optimizers(model)
    both = [torch.optim.Adam(module.parameters()) for module in model]
    for optimizer in both:
        optimizer.step()
    for parameter in model.parameters():
        assert "exp_avg_sq" in optimizers.state[parameter]
    assert len(optimizers.state) == 4
    assert optimizers.state.get(nn.Parameter(torch.ones(1)), {}) == {}
