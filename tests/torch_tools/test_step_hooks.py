"""Listeners of optimizer steps: told of every step, dropped at any time."""

from __future__ import annotations

import gc

import pytest
import torch

from stabletrain.torch_tools import step_hooks
from tests.helpers.left_hooks import remove_left_hooks


class Listener:
    def __init__(self):
        self.heard = []

    def begin(self, optimizer):
        self.heard.append("begin")

    def end(self, optimizer):
        self.heard.append("end")


def optimizer():
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    return torch.optim.SGD([weight], lr=0.1)


@pytest.fixture(autouse=True)
def _nobody_else_listens():
    remove_left_hooks()


def test_a_listener_hears_of_each_step_until_it_is_ignored():
    listener = Listener()
    step_hooks.listen(listener)
    assert len(step_hooks._handles) == 2
    optimizer().step()
    step_hooks.ignore(listener)
    optimizer().step()
    assert listener.heard == ["begin", "end"]
    assert step_hooks._handles == []


def test_a_listener_may_be_collected_during_a_step():
    class Drops(Listener):
        def begin(self, optimizer):
            dropped.clear()
            gc.collect()

    dropped, dropping = [Listener()], Drops()
    dropped[0].itself = dropped[0]  # a cycle: only the collector frees it
    step_hooks.listen(dropping)
    step_hooks.listen(dropped[0])
    optimizer().step()  # torch iterates over its hooks
    optimizer().step()
    assert dropping.heard == ["end", "end"]
    step_hooks.ignore(dropping)
    assert step_hooks._handles == []
