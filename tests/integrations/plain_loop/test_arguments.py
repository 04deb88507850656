"""What `st.Doctor` does not accept is said at once, by name; it does not stop a training later."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

import stabletrain as st


def make() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"model": None}, "model"),
        ({"model": "resnet"}, "model"),
        ({"model": nn.Sequential(nn.LazyLinear(2))}, "model"),
        ({"optimizer": "adam"}, "optimizer"),
        ({"optimizer": [1]}, "optimizer"),
        ({"num_steps": 0}, "num_steps"),
        ({"num_steps": "100"}, "num_steps"),
        ({"num_steps": 10.5}, "num_steps"),
        ({"prior_loss": float("nan")}, "prior_loss"),
        ({"on_finding": "print"}, "on_finding"),
        ({"output_dir": 3}, "folder"),
    ],
)
def test_an_argument_is_refused_by_name(arguments, key):
    with pytest.raises(st.RequestError) as caught:
        st.Doctor(**{"model": make(), **arguments})
    assert caught.value.key == key


@pytest.mark.parametrize("loss", ["a", torch.ones(3), torch.ones(0), [1.0], 1j])
def test_a_loss_is_one_number(loss):
    doctor = st.Doctor(make())
    with pytest.raises(st.RequestError, match="not a scalar"):
        doctor.step(loss)
    assert doctor.verdict == "unknown"


@pytest.mark.parametrize("loss", [None, 1, 1.5, True, np.float32(2.0), torch.tensor(3), torch.ones(1, 1)])
def test_any_number_is_a_loss(loss):
    model = make()
    doctor = st.Doctor(model)
    model(torch.ones(1, 4)).sum().backward()
    assert doctor.step(loss)


@pytest.mark.parametrize("value", [None, "a", torch.ones(2)])
def test_a_metric_is_one_number(value):
    with pytest.raises(st.RequestError) as caught:
        st.Doctor(make()).validate(accuracy=value)
    assert caught.value.key == "accuracy"


def test_a_folder_that_holds_a_run_is_refused_before_the_training(tmp_path):
    st.Doctor(make()).save(tmp_path / "mine")
    with pytest.raises(st.RequestError, match="already holds a run"):
        st.Doctor(make(), output_dir=tmp_path / "mine")
    (tmp_path / "file").write_text("")
    with pytest.raises(st.RequestError, match="a file in place"):
        st.Doctor(make()).save(tmp_path / "file")


def test_it_may_be_saved_in_turn_to_two_folders(tmp_path):
    doctor = st.Doctor(make())
    for name in ("a", "b", "a"):
        doctor.save(tmp_path / name)
    assert len([*(tmp_path / "a" / "tensorboard").iterdir()]) == 1


def test_an_exception_of_the_users_is_not_hidden_by_a_folder_that_was_taken_since(tmp_path, caplog):
    folder = tmp_path / "mine"

    def train():
        st.Doctor(make()).save(folder)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), st.Doctor(make(), output_dir=folder):
        train()
    assert "the run was not saved" in caplog.text
    assert json.loads((folder / "summary.json").read_text())["status"] == "finished"
