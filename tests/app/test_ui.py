"""`ui` takes a folder of runs, one run, or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stabletrain.app.cli import main
from stabletrain.record.writer import RecordWriter


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Receives what is served; the folder contains a run and a sweep with one child."""
    calls: list[dict[str, Any]] = []

    def serve(uri: str, logdir: Path, **options: Any) -> None:
        calls.append({"uri": uri, "logdir": logdir, **options})

    monkeypatch.setattr("stabletrain.tracking.page_servers.serve", serve)
    monkeypatch.chdir(tmp_path)
    for name in ("runs/mine", "runs/sweep/0"):
        RecordWriter(tmp_path / name / "tensorboard").close()
    (tmp_path / "runs/sweep/sweep.json").write_text("{}")
    return calls


@pytest.mark.parametrize(
    ("words", "logdir", "only", "store"),
    [
        ([], "runs", None, "runs"),
        (["runs"], "runs", None, "runs"),
        (["runs/"], "runs", None, "runs"),
        (["runs/mine"], "runs", "mine", "runs"),
        (["runs/sweep"], "runs/sweep", None, "runs"),
        (["runs/sweep/0"], "runs/sweep", "0", "runs"),
        (["output_dir=other/mine"], "other", None, "other"),
    ],
)
def test_folder(served: list[dict[str, Any]], tmp_path: Path, words: list[str], logdir: str, only: str, store: str):
    assert main(["ui", *words, "ui.live_port=6107"]) == 0
    assert served == [
        {
            "uri": f"sqlite:///{tmp_path / store / 'mlflow.db'}",
            "logdir": tmp_path / logdir,
            "only": only,
            "mlflow_port": 5000,
            "tensorboard_port": 6006,
            "live_port": 6107,
        }
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["runs/none"], "There is no such folder."),
        (["runs/sweep/sweep.json"], "There is no such folder."),
        (["runs/mine", "runs/sweep"], "ui takes one folder."),
        (["ui.live_port=0"], "ui.live_port"),
    ],
)
def test_what_cannot_be_served_is_told(
    served: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], words: list[str], said: str
):
    assert main(["ui", *words]) == 2
    assert said in capsys.readouterr().err
    assert served == []
