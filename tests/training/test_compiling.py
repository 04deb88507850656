"""Compiling without a compiler: names stay, measured steps run eagerly, and a missing g++ is reported up front."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stabletrain.errors import RequestError
from stabletrain.training import TrainingModule
from stabletrain.training import compiling as compiling_module
from stabletrain.training.compiling import EagerMeasurement, compile_, require_compiler


@pytest.fixture
def compiled(monkeypatch):
    """What was compiled; functions are returned unchanged."""
    found = []
    monkeypatch.setattr(torch, "compile", lambda f: found.append(f.__self__) or f)
    return found


def make_module():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    return TrainingModule(network, "classification", 2, torch.optim.Adam)


def test_names_and_weights_stay(compiled):
    module = make_module()
    before = list(module.state_dict())
    compile_(module)
    assert compiled == [module.network]
    assert list(module.state_dict()) == before


def test_blocks_are_compiled_one_by_one(compiled):
    module = make_module()
    compile_(module, by_block=True)
    assert compiled == [module.network[0], module.network[2]]


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RequestError, match="no compiler") as error:
        require_compiler()
    assert error.value.found == "no-such-compiler not found"
    monkeypatch.setattr(compiling_module.shutil, "which", lambda name: "/usr/bin/c++")
    require_compiler()  # the control


def test_measured_steps_run_eagerly(monkeypatch):
    stances, watch = [], type("Watch", (), {"measures_outputs": False})()
    monkeypatch.setattr(torch.compiler, "set_stance", stances.append)
    eager = EagerMeasurement(watch)
    for measures_outputs in (False, False, True):
        watch.measures_outputs = measures_outputs
        eager.on_train_batch_start(None, None, None, 0)
    assert stances == ["force_eager", "default", "force_eager"]  # the first one for the order of the layers
