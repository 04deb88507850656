"""SIGKILL within a step: the resumed run ends as one that was left alone, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EVERY_STEP = "checkpoint.every_steps=1"
RUNS = {
    "dropout": "model=mlp model.dropout=0.2 data.batch_size=300 trainer.max_epochs=2",
    "accumulation": "model=lstm clip=zscore clip.warmup_steps=2 clip.z_threshold=0.5 schedule=warmup_cosine "
    "data.batch_size=120 trainer.accumulate_grad_batches=2 trainer.max_epochs=2",
    "attention": "model=transformer model.dropout=0.1 schedule=wsd clip=percentile optimizer=adamw "
    "data.batch_size=300 trainer.max_epochs=2",
    "batch norm": "model=resnet model.depth=8 norm=batch clip=adaptive schedule=plateau data.batch_size=400 "
    "trainer.max_epochs=2",
}


def kill(folder: Path, steps: str, words: str) -> list[dict]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests/helpers")])
    command = [sys.executable, str(ROOT / "tests/helpers/kill_runs.py"), str(folder), steps, *words.split()]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", RUNS)
def test_nothing_is_lost(name, tmp_path):
    found = kill(tmp_path, "2,5", f"{RUNS[name]} {EVERY_STEP}")
    assert [(x["killed"], x["code"]) for x in found] == [(-9, 0)] * 2
    assert [x["resumed_at"] for x in found] == [2, 5]
    assert [x["differences"] for x in found] == [[], []]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_nothing_is_lost_at_any_step(name, tmp_path):
    found = kill(tmp_path, "all", f"{RUNS[name]} {EVERY_STEP}".replace("max_epochs=2", "max_epochs=4"))
    assert len(found) > 10
    assert [x for x in found if x["differences"] or x["resumed_at"] != x["step"]] == []


def test_without_the_random_numbers_the_run_differs(tmp_path):
    """Negative control: from the weights alone, dropout draws other numbers."""
    words = f"{RUNS['dropout']} {EVERY_STEP}"
    program = ROOT / "tests/helpers/kill_runs.py"
    forget = "import stabletrain.training.resumable_loader as r; r.restore_random_states = lambda states: None; "
    start = f"import sys, runpy; {forget}sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests/helpers")])
    command = [sys.executable, "-c", start, str(program), str(tmp_path), "2", *words.split()]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "state_dict" in json.loads(done.stdout)["differences"]
