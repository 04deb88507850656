"""Methods of a module are replaced, and hooks of an optimizer are switched off, only inside the block."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stabletrain.torch_tools.replacements import replaced_forward, replaced_method, without_step_hooks

X = torch.tensor([1.0, -2.0])


class Doubled(nn.ReLU):
    def forward(self, input):
        return 2 * super().forward(input)


@pytest.mark.parametrize(("kind", "factor"), [(nn.ReLU, 1), (Doubled, 2)])
def test_a_forward_pass_is_replaced_for_one_module_also_under_super(kind, factor):
    module, other = kind(), kind()
    with replaced_forward(module, nn.ReLU, torch.neg):
        assert isinstance(module, kind)
        assert module(X).tolist() == [-factor, 2 * factor]
        assert other(X).tolist() == [factor, 0]
    assert (type(module), "forward" in module.__dict__) == (kind, False)
    assert module(X).tolist() == [factor, 0]


@pytest.mark.parametrize("kind", [nn.ReLU, Doubled])
def test_an_exception_restores_the_module(kind):
    module = kind()
    before = dict(module.__dict__)
    with pytest.raises(ZeroDivisionError), replaced_forward(module, nn.ReLU, torch.neg):
        raise ZeroDivisionError
    assert (type(module), module.__dict__) == (kind, before)


def test_a_method_that_was_replaced_before_is_restored():
    module = nn.ReLU()
    module.forward = torch.abs
    with replaced_method(module, "forward", torch.neg):
        assert module(X).tolist() == [-1, 2]
    assert module(X).tolist() == [1, 2]


def test_step_hooks_are_called_outside_of_the_block_only():
    weight = nn.Parameter(torch.ones(1))
    weight.grad = torch.ones(1)
    optimizer, calls = torch.optim.SGD([weight], lr=0.25), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    with without_step_hooks(optimizer):
        optimizer.step()
    assert (weight.item(), calls) == (0.75, [])
    with pytest.raises(ZeroDivisionError), without_step_hooks(optimizer):
        raise ZeroDivisionError
    optimizer.step()
    assert (weight.item(), calls) == (0.5, ["before", "after"])
