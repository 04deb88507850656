"""Listeners of optimizer steps: told of every step, dropped at any time."""

from __future__ import annotations

import gc

import torch
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from stabletrain.torch_tools import step_hooks


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


def num_hooks():
    return len(_global_optimizer_pre_hooks) + len(_global_optimizer_post_hooks)


def test_a_listener_hears_of_each_step_until_it_is_ignored():
    before, listener = num_hooks(), Listener()
    step_hooks.listen(listener)
    optimizer().step()
    step_hooks.ignore(listener)
    optimizer().step()
    assert listener.heard == ["begin", "end"]
    assert num_hooks() == before


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
    assert num_hooks() == 0
