"""Listeners of PyTorch's gradient clipping hear of each call, however the function was imported."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad, clip_grad_norm_

from stabletrain.torch_tools.clip_calls import ignore_clipping, listen_to_clipping
from tests.helpers.left_hooks import remove_left_hooks


class Listener:
    def __init__(self):
        self.heard = []

    def note(self, parameters, limit):
        self.heard.append((len(parameters), limit))


def layer():
    torch.manual_seed(0)
    made = nn.Linear(3, 2)
    made(torch.ones(4, 3)).square().sum().backward()
    return made


@pytest.fixture(autouse=True)
def _nobody_else_listens():
    remove_left_hooks()


@pytest.mark.parametrize(
    "clip",
    [
        lambda p: clip_grad_norm_(p, 0.1),
        lambda p: clip_grad_norm_(parameters=[*p], max_norm=0.1, norm_type=1.0),
        lambda p: nn.utils.clip_grad_norm_(p, 0.1, foreach=False),
        lambda p: nn.utils.clip_grad_value_(p, 0.1),
        lambda p: clip_grad.clip_grad_value_(p, clip_value=0.1),
    ],
)
def test_a_listener_hears_of_each_call_and_changes_nothing(clip):
    plain, watched, listener = layer(), layer(), Listener()
    clip(plain.parameters())
    listen_to_clipping(listener.note)
    clip(watched.parameters())
    ignore_clipping(listener.note)
    assert listener.heard == [(2, 0.1)]
    for a, b in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    clip(watched.parameters())
    assert len(listener.heard) == 1


def test_the_functions_are_put_back_with_the_last_listener():
    before = clip_grad._clip_grads_with_norm_, nn.utils.clip_grad_value_
    one, other = Listener(), Listener()
    listen_to_clipping(one.note)
    listen_to_clipping(other.note)
    ignore_clipping(one.note)
    assert clip_grad._clip_grads_with_norm_ is not before[0]
    ignore_clipping(other.note)
    assert (clip_grad._clip_grads_with_norm_, nn.utils.clip_grad_value_) == before


def test_a_listener_that_is_gone_hears_nothing():
    listener = Listener()
    listen_to_clipping(listener.note)
    del listener
    gc.collect()
    assert float(clip_grad_norm_(layer().parameters(), 0.1)) > 0.1
    other = Listener()
    ignore_clipping(other.note)
