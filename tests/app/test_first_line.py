"""The first line of a run: before the slow imports, once, and only where a run is composed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stabletrain.app.first_process import announce_composing

PROBE = """
import sys
from stabletrain.__main__ import main

class Stdout:
    imported = None
    def write(self, text):
        if self.imported is None:
            self.imported = sorted({"hydra", "yaml", "rich", "numpy", "torch"} & set(sys.modules))
        return sys.__stdout__.write(text)
    def flush(self): sys.__stdout__.flush()
    def isatty(self): return False
    def fileno(self): return sys.__stdout__.fileno()

sys.stdout = stdout = Stdout()
try:
    main()
finally:
    print("IMPORTED", stdout.imported, file=sys.__stdout__)
"""


def run(*words: str, folder: Path) -> tuple[int, list[str]]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", PROBE, *words]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return result.returncode, result.stdout.splitlines()


def test_it_comes_before_everything_that_is_slow(tmp_path):
    code, lines = run("model=rnn", "clip=nrom", folder=tmp_path)
    assert code == 2  # a wrong request is still refused
    assert lines == ["composing  model=rnn clip=nrom", "IMPORTED []"]


def test_a_composition_that_is_printed_is_nothing_else(tmp_path):
    code, lines = run("model=rnn", "--cfg", "job", folder=tmp_path)
    assert code == 0
    assert yaml.safe_load("\n".join(lines[:-1]))["model"]["_target_"].endswith("RNN")
    assert lines[-1] == "IMPORTED ['hydra', 'yaml']"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "composing  the defaults"),
        ([Path("runs/a b/config.yaml"), "seed=1"], "composing  'runs/a b/config.yaml' seed=1"),
        (["watch.signals=[gradient,delta]"], "composing  'watch.signals=[gradient,delta]'"),
    ],
)
def test_it_shows_what_was_typed(capsys, words, line):
    announce_composing(words)
    assert capsys.readouterr().out == f"{line}\n"


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_only_the_first_process_says_it(capsys, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    announce_composing(["seed=1"])
    assert capsys.readouterr().out == ""
