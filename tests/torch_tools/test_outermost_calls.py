"""Calls of a model that a loop makes itself, and the moment before a backward pass."""

from __future__ import annotations

import copy
import io
import sys

import pytest
import torch
from torch import nn

from stabletrain.torch_tools import outermost_calls
from stabletrain.torch_tools.backward_calls import ignore_backward, observe_backward
from stabletrain.torch_tools.eager import is_compiled
from stabletrain.torch_tools.outermost_calls import OutermostCalls

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.trace"),
    pytest.mark.filterwarnings("ignore:Using .torch.compile"),
]


class Seen(list):
    def before_call(self, module, args, kwargs):
        self.append([type(module).__name__, len(args)])
        return self[-1]

    def after_call(self, noted, output):
        noted.append(tuple(output.shape))

    def note(self, loss):
        self.append(loss.grad_fn.name())


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Linear(4, 2)

    def forward(self, x):
        return self.decoder(self.encoder(x))


def test_calls_of_the_model_and_none_of_its_parts():
    model, seen = Parts(), Seen()
    calls = OutermostCalls(model, seen)
    for _ in range(2):
        model(torch.ones(5, 3))
        calls.settle()
    assert seen == [["Parts", 1, (5, 2)]] * 2
    assert [path for path, m in model.named_modules() if "_compiled_call_impl" in vars(m)] == [""]
    with torch.no_grad():
        model(torch.ones(5, 3))
    assert len(seen) == 2
    calls.close()
    assert "_compiled_call_impl" not in vars(model)


def test_parts_that_the_loop_calls_itself():
    model, seen = Parts(), Seen()
    calls = OutermostCalls(model, seen)
    for _ in range(2):
        model.decoder(model.encoder(torch.ones(5, 3)))
        calls.settle()
    assert seen == [["Sequential", 1, (5, 4)], ["Linear", 1, (5, 2)]] * 2


def test_copies_and_scripts_are_not_followed():
    model, seen = Parts(), Seen()
    calls = OutermostCalls(model, seen)
    copy.deepcopy(model)(torch.ones(5, 3))
    torch.save(model, io.BytesIO())
    torch.jit.trace(model, torch.ones(5, 3))
    assert seen == []
    calls.close()


def test_a_compiled_model_is_still_compiled():
    model, seen = Parts(), Seen()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    calls = OutermostCalls(model, seen)
    assert not is_compiled(model)
    for _ in range(3):
        compiled(torch.ones(5, 3))
        calls.settle()
    assert seen == [["OptimizedModule", 1, (5, 2)]] * 3
    calls.close()
    model.compile(backend="eager")
    calls = OutermostCalls(model, seen)
    assert is_compiled(model)
    calls.close()
    assert is_compiled(model)


def test_an_exception_leaves_the_next_call_outermost():
    model, seen = Parts(), Seen()
    calls = OutermostCalls(model, seen)
    for width in (7, 3):
        try:
            model(torch.ones(5, width))
        except RuntimeError:
            continue
    assert seen == [["Parts", 1], ["Parts", 1, (5, 2)]]
    calls.close()


def test_backward_is_observed_until_nobody_does():
    backward, seen, others = torch.autograd.backward, Seen(), Seen()
    observe_backward(seen.note)
    observe_backward(others.note)
    x = torch.ones(2, requires_grad=True)
    x.sum().backward()
    torch.autograd.backward([x.prod(), x.sum()])
    ignore_backward(seen.note)
    x.mean().backward()
    assert seen == ["SumBackward0", "ProdBackward0", "SumBackward0"]
    assert others == [*seen, "MeanBackward0"]
    del others
    x.sum().backward()
    x.sum().backward()
    assert torch.autograd.backward is backward
    assert x.grad.tolist() == [5.5, 5.5]


def test_wrappers_are_searched_for_only_if_something_may_have_been_compiled(monkeypatch):
    torch.compile(nn.Linear(2, 2), backend="eager")
    dynamo, searches = sys.modules["torch._dynamo"], []

    def get_objects():
        searches.append(1)
        return []

    monkeypatch.setattr(outermost_calls.gc, "get_objects", get_objects)
    for backends, num_searches in (({1: None}, 0), ({1: None, 2: print}, 1), ({}, 2)):
        monkeypatch.setattr(dynamo.eval_frame, "cached_backends", backends)
        OutermostCalls(nn.Linear(2, 2), Seen()).close()
        assert len(searches) == num_searches
