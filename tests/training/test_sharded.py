"""Which modules are sharded as blocks. tests/app/test_strategies.py tests sharding in whole runs."""

from __future__ import annotations

import torch
from torch import nn

from stabletrain.training.sharded import find_blocks, gather, match_layout


def test_blocks_are_the_outermost_of_lists():
    inner = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    model = nn.ModuleDict({"body": nn.ModuleList([inner, nn.Tanh(), nn.Linear(2, 2)]), "head": nn.Linear(2, 1)})
    assert find_blocks(model) == [inner, model["body"][2]]


def test_a_list_of_lists_is_searched():
    model = nn.ModuleList([nn.ModuleList([nn.Linear(1, 1)])])
    assert find_blocks(model) == [model[0][0]]


def test_shared_weights_stay_with_the_root():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    model = nn.Sequential(first, second, nn.Linear(2, 2))
    assert find_blocks(model) == [model[2]]


def test_plain_tensors_pass():
    state = {"w": torch.ones(2), "groups": [{"lr": 0.1, "params": [0]}], "t": (torch.zeros(1), 3)}
    found = gather(state)
    assert torch.equal(found["w"], state["w"])
    assert found["groups"] == state["groups"]
    assert found["t"][1] == 3
    assert match_layout(state["w"], torch.zeros(2)) is state["w"]
