"""`train` in a terminal and in a pipe: the bar, `console=live`, and where neither belongs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from screen import Screen
from terminal import run_in_terminal

from stabletrain.app.composition.compose import compose
from stabletrain.app.console import Console
from stabletrain.errors import RequestError
from stabletrain.training.callbacks.live_table import LiveTable
from stabletrain.training.callbacks.progress_bar import ProgressBar
from stabletrain.training.callbacks.progress_line import LineProgress

ROOT = str(Path(__file__).parents[2])
LINE = ["experiment=vanishing_depth", "logger=none", "trainer.max_epochs=2", "console=live"]
LINE += ["doctor=default", "output_dir=mine", "model.depth=4"]


def run(folder, *, in_terminal):
    command = [sys.executable, "-m", "stabletrain", *LINE]
    environment = os.environ | {"PYTHONPATH": ROOT, "TERM": "xterm-256color", "OMP_NUM_THREADS": "1"}
    environment = {k: v for k, v in environment.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
    if in_terminal:
        return run_in_terminal(command, folder, environment)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_the_live_table_in_a_terminal(tmp_path):
    code, output = run(tmp_path, in_terminal=True)
    assert code == 0, output
    screen = Screen(output)
    lines = screen.text.splitlines()
    bars = [i for i, line in enumerate(lines) if line.startswith("epoch ")]
    assert len(bars) == 1, screen.text  # earlier frames are overwritten
    final = lines[bars[0] :]
    assert final[0].startswith("epoch 2/2  ━━━")
    assert "step 78/78" in final[0]
    assert final[1].startswith("loss ")
    assert "val/accuracy" in final[1]
    assert " grad " in final[1]
    assert [line[:3] for line in final[4:14]] == [f"L{i:02d}" for i in range(10)]
    assert any(line.startswith("verdict:") for line in final[14:])
    assert output.count("epoch 1/2") >= 1  # it moved
    assert screen.shows_cursor


def test_a_pipe_gets_lines_and_a_note(tmp_path):
    code, output = run(tmp_path, in_terminal=False)
    assert code == 0, output
    assert "\x1b" not in output
    assert "━" not in output.partition("verdict")[0]
    assert "note   console=live needs a terminal; progress is printed as lines instead." in output
    assert "epoch   2  step     78  " in output


@pytest.mark.parametrize(
    ("setting", "is_terminal", "term", "callback"),
    [
        ("default", True, "xterm", ProgressBar),
        ("live", True, "xterm", LiveTable),
        ("default", True, "dumb", LineProgress),
        ("default", False, "xterm", LineProgress),
        ("live", False, "xterm", LineProgress),
    ],
)
def test_which_callback_shows_progress(monkeypatch, setting, is_terminal, term, callback):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal, raising=False)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr("stabletrain.app.console.rich.get_console", lambda: rich_console(is_terminal))
    assert type(Console().progress(setting)) is callback


def rich_console(is_terminal):
    import rich.console

    return rich.console.Console(force_terminal=is_terminal)


def test_another_console_is_refused():
    assert compose([]).config["console"] == "default"
    with pytest.raises(RequestError) as caught:
        compose(["console=life"])
    assert (caught.value.key, caught.value.closest) == ("console", "live")
