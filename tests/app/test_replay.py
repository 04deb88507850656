"""The step that stopped a run, replayed from its folder."""

from __future__ import annotations

import json

import pytest

from stabletrain.app.cli import main
from stabletrain.app.commands.replay import replay
from stabletrain.errors import RequestError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]


def test_a_run_that_overflowed_is_replayed_and_finds_the_same_offender(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["experiment=exploding_time", "logger=none", "output_dir=mine"]) == 3
    about = json.loads((tmp_path / "mine/offender/offender.json").read_text())
    found = replay("mine")
    assert found is not None
    fields = ("phase", "layer", "tensor", "clean", "num_nonfinite", "size")
    assert [getattr(found, name) for name in fields] == [about[name] for name in fields]
    assert about["samples_are"] == "dataset"
    assert len(found.samples) == len(about["samples"])


def test_a_run_that_was_not_stopped_has_nothing_to_replay(tmp_path):
    with pytest.raises(RequestError) as caught:
        replay(tmp_path)
    assert caught.value.key == "RUN_DIR"
