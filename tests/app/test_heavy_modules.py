"""Which modules that take long to import each command imports: no others than it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stabletrain.record.writer import RecordWriter
from stabletrain.vocabulary import metric_names as names

ROOT = Path(__file__).parents[2]
HEAVY = (
    *("torch", "torch._dynamo", "torch._inductor", "sympy", "pytorch_lightning", "transformers", "numba"),
    *("torchmetrics", "torchmetrics.functional.text", "scipy.signal", "scipy.stats", "scipy.linalg", "sklearn"),
    *("pandas", "matplotlib", "PIL", "mlflow", "sqlalchemy", "jinja2", "tensorboard.backend", "optuna", "ray"),
    *("hydra", "rich", "numpy"),
)
COMPOSE = {"hydra"}
PRINT = {"rich", "numpy"}  # the table of findings
TRAIN = {*COMPOSE, *PRINT, "torch", "pytorch_lightning", "numba", "scipy.linalg"}  # the last for numba
REPORT = {*COMPOSE, "numpy", "matplotlib", "PIL", "jinja2", "numba"}
# command line, what it may import, and what it does import in any case: the check of the check
COMMANDS = {
    "--help": (set(), set()),
    "--version": (set(), set()),
    "--cfg job": (COMPOSE, COMPOSE),
    "train logger=tensorboard": (TRAIN, TRAIN),
    "train logger=default": (TRAIN, TRAIN),
    "check": ({*TRAIN}, TRAIN - {"numba", "scipy.linalg"}),
    "diagnose run": ({*COMPOSE, *PRINT, "numba"}, {*COMPOSE, *PRINT}),
    "report run": (REPORT, {"matplotlib", "jinja2"}),
    "sync run": ({*REPORT, *PRINT, "mlflow", "sqlalchemy", "pandas", "sklearn"}, {"mlflow", "sqlalchemy"}),
    "ui": ({*COMPOSE, "mlflow", "sqlalchemy"}, COMPOSE),
}
PROBE = f"""
import atexit, os, subprocess, sys

def show():
    from stabletrain.app.lean_start.deferred_modules import is_deferred
    print("IMPORTED", *(m for m in {HEAVY} if m in sys.modules and not is_deferred(m)), flush=True)

class Started:
    def __init__(self, *arguments): print("SHIPPER")
    def begin(self): pass

def stop(*arguments, **keywords): raise KeyboardInterrupt

if "train" in sys.argv:
    import stabletrain.tracking.shipper_process
    stabletrain.tracking.shipper_process.ShipperProcess = Started
if "ui" in sys.argv:
    subprocess.Popen = stop
atexit.register(show)
from stabletrain.__main__ import main
main()
"""
OPTIMIZER = """
import os
import torch
from __main__ import show

class Adam(torch.optim.Adam):
    def step(self, closure=None):
        loss = super().step(closure)
        show()
        os._exit(0)
"""


@pytest.fixture
def folder(runs):
    """A folder with the record of a run, and a store that is set up."""
    (runs / "probed_adam.py").write_text(OPTIMIZER)
    writer = RecordWriter(runs / "run" / "tensorboard")
    writer.write_info({"run_uid": "0", "training": {"num_steps": 20}})
    for step in range(20):
        writer.write_scalars(step, {names.TRAIN_LOSS: 2.0 - step / 20})
    writer.close()
    return runs


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_imports_only_what_it_needs(folder, line):
    allowed, expected = COMMANDS[line]
    words = line.split()
    if words[0] == "train":
        words += ["model=rnn", "clip=norm", "optimizer._target_=probed_adam.Adam"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROBE, *words]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    lines = [text.split()[1:] for text in result.stdout.splitlines() if text.startswith("IMPORTED")]
    assert lines, result.stderr
    assert set(lines[-1]) <= allowed, result.stdout + result.stderr
    assert set(lines[-1]) >= expected
    assert ("SHIPPER" in result.stdout) == (line == "train logger=default")
