"""Under a real torchrun: a worker is killed, the group restarts, and the run resumes without an override."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

ROOT = str(Path(__file__).parents[2])
NUM_EPOCHS, STEPS_PER_EPOCH = 12, 39  # of digits in batches of 32


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1"]
    environment = {k: v for k, v in os.environ.items() if k != "STABLETRAIN_OUTPUT_DIR"} | {"PYTHONPATH": ROOT}
    return subprocess.Popen(
        [*command, "-m", "stabletrain", "trainer=cpu", "logger=none", *words],
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_checkpoint(folder: Path, torchrun: subprocess.Popen[str]) -> Path:
    for _ in range(1200):
        if found := list(folder.glob("runs/*/checkpoints/last.json")):
            return found[0].parents[1]
        assert torchrun.poll() is None, torchrun.stdout and torchrun.stdout.read()
        time.sleep(0.1)
    raise AssertionError("no checkpoint")


@pytest.mark.slow
def test_a_killed_worker_costs_an_epoch_at_most(tmp_path):
    torchrun = start(tmp_path, f"trainer.max_epochs={NUM_EPOCHS}")
    try:
        run = wait_for_checkpoint(tmp_path, torchrun)
        worker = next(p for p in psutil.Process(torchrun.pid).children() if p.environ().get("RANK") == "1")
        worker.send_signal(signal.SIGKILL)
        out, _ = torchrun.communicate(timeout=300)
    finally:
        torchrun.kill()
    assert torchrun.returncode == 0, out
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("finished", NUM_EPOCHS * STEPS_PER_EPOCH)
    assert summary["resumed_from"] == str(run)
    assert summary["launch"] == run.name
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["devices"] == 2
    assert [p.name for p in (tmp_path / "runs").iterdir()] == [run.name]


@pytest.mark.slow
def test_the_folder_of_another_run_stays_refused_after_a_restart(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.yaml").write_text("seed: 1\n")
    torchrun = start(tmp_path, "output_dir=mine")
    try:
        out, _ = torchrun.communicate(timeout=300)
    finally:
        torchrun.kill()
    assert torchrun.returncode != 0
    assert out.count("The folder already holds a run.") == 2  # the first time, and when torchrun tries again
    assert [p.name for p in folder.iterdir()] == ["config.yaml"]
