"""Kill a run at chosen steps, resume it, and compare it with a run that was left alone.

As a program it imports everything once and forks a process for each run: `kill_runs.py FOLDER STEPS WORD …`, where
STEPS is a list such as `1,5` or `all`. It prints one JSON object for each step.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from stabletrain.app.building import prepare
from stabletrain.app.cli import main
from stabletrain.record.reader import load_record

NOT_OF_THE_RUN = "system/"  # how busy the machine was


class Kill(pl.Callback):
    """Sends SIGKILL after the backward pass of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def run(words: list[str], kill_at: int | None = None) -> int:
    """Run a command line in a process of its own; return its exit code, or minus the signal that ended it."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if kill_at is not None:
        make = prepare.checkpoint_callbacks
        prepare.checkpoint_callbacks = lambda folder: [*make(folder), Kill(kill_at)]
    code = 99
    try:
        code = main(words)
    finally:
        os._exit(code)


def equal(a: Any, b: Any) -> bool:
    """Return whether nested values are equal bit for bit; a NaN equals itself."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b or (a != a and b != b)


def differences(found: Path, expected: Path) -> list[str]:
    """Return what a run has otherwise than another: weights, optimizer, clipping, metrics, findings, curves."""
    one, other = (torch.load(p / "checkpoints/last.ckpt", weights_only=True) for p in (found, expected))
    different = [key for key in ("state_dict", "optimizer_states", "lr_schedulers") if not equal(one[key], other[key])]
    different += [key for key in ("stabletrain_clip",) if not equal(one.get(key), other.get(key))]
    texts = [[(p / name).read_text() for p in (found, expected)] for name in ("findings.json", "summary.json")]
    different += ["findings"] * (texts[0][0] != texts[0][1])
    metrics = [json.loads(text)["metrics"] for text in texts[1]]
    different += ["metrics"] * (metrics[0] != metrics[1])
    records = load_record(found).scalars, load_record(expected).scalars
    names = {name for scalars in records for name in scalars if not name.startswith(NOT_OF_THE_RUN)}
    return different + sorted(name for name in names if not _same_series(*(r.get(name) for r in records)))


def _same_series(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return False
    return list(one.steps) == list(other.steps) and np.array_equal(one.values, other.values)


def compare(folder: Path, steps: str, words: list[str]) -> None:
    """Print one line for each step at which a run is killed."""
    os.chdir(folder)
    words = [*words, "logger=none", "trainer=cpu"]
    assert run([*words, "output_dir=whole"]) == 0
    last = torch.load("whole/checkpoints/last.ckpt", weights_only=True)["global_step"]
    for step in range(1, last) if steps == "all" else map(int, steps.split(",")):
        name = f"output_dir=killed_{step}"
        killed = run([*words, name], kill_at=step)
        path = Path(f"killed_{step}/checkpoints/last.ckpt")
        resumed_at = torch.load(path, weights_only=True)["global_step"] if path.is_file() else 0
        code = run([*words, name, "resume=auto"])
        found = {"step": step, "killed": killed, "resumed_at": resumed_at, "code": code}
        print(json.dumps(found | {"differences": differences(Path(f"killed_{step}"), Path("whole"))}), flush=True)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    compare(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
