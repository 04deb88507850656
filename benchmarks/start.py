"""Measure the time from Enter to the first line and to the first optimizer step, relative to importing Lightning.

    python benchmarks/start.py

Every round runs all commands in turn, in new processes, after one round that is not measured and fills the caches. A
line counts when it arrives at the other end of the pipe. The first step ends when `step` of the optimizer returns: the
run is given an Adam that says so. CPU seconds are those of the process; for a run, those of training up to its first
step, without the process that ships to MLflow.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
REFERENCE = "import pytorch_lightning"
FIRST_STEP = "first step"
OPTIMIZER = f'''
import time

import torch


class Adam(torch.optim.Adam):
    """Prints the CPU seconds of the process after its first step."""

    steps = 0

    def step(self, closure=None):
        loss = super().step(closure)
        self.steps += 1
        if self.steps == 1:
            print("{FIRST_STEP}", time.process_time(), flush=True)
        return loss
'''
PYTHON = (sys.executable,)
STABLETRAIN = (sys.executable, "-m", "stabletrain")
RUN = ("model=rnn", "clip=norm", "trainer.max_steps=1", "optimizer._target_=timed_adam.Adam")
PLAIN = {
    "import torch": (*PYTHON, "-c", "import torch"),
    REFERENCE: (*PYTHON, "-c", "import pytorch_lightning"),
    "--help": (*STABLETRAIN, "--help"),
    "--cfg job": (*STABLETRAIN, "model=rnn", "clip=norm", "--cfg", "job"),
}
RUNS = {f"logger={name}": (*STABLETRAIN, *RUN, f"logger={name}") for name in ("none", "tensorboard", "default")}


class Cost(NamedTuple):
    """What a command took, in seconds; `cpu` is None where it is not known."""

    wall: float
    cpu: float | None


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds (default: 5)")
    num_rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "timed_adam.py").write_text(OPTIMIZER)
        measure_round(Path(folder))
        rounds = [measure_round(Path(folder)) for _ in range(num_rounds)]
    print(f"{num_rounds} rounds, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; median (lowest to highest)\n")
    print(f"| from Enter to | seconds | CPU seconds | of `{REFERENCE}` | in CPU seconds |\n|---|---|---|---|---|")
    for name in rounds[0]:
        print(f"| {name} | {' | '.join(describe([r[name] for r in rounds], [r[REFERENCE] for r in rounds]))} |")


def measure_round(folder: Path) -> dict[str, Cost]:
    """Run every command once, in turn."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    costs = {f"end of `{name}`": measure_command(command, folder, environment) for name, command in PLAIN.items()}
    costs[REFERENCE] = costs[f"end of `{REFERENCE}`"]
    del costs[f"end of `{REFERENCE}`"]
    for name, command in RUNS.items():
        costs[f"first line, `{name}`"], costs[f"first step, `{name}`"] = measure_run(command, folder, environment)
    return costs


def measure_command(command: tuple[str, ...], folder: Path, environment: Mapping[str, str]) -> Cost:
    """Run a command to its end."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    return Cost(time.perf_counter() - start, usage.ru_utime + usage.ru_stime)


def measure_run(command: tuple[str, ...], folder: Path, environment: Mapping[str, str]) -> tuple[Cost, Cost]:
    """Return the time to the first line and to the end of the first step."""
    first_line = first_step = None
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            now = time.perf_counter() - start
            first_line = first_line or Cost(now, None)
            if line.startswith(FIRST_STEP):
                first_step = Cost(now, float(line.split()[-1]))
    assert process.returncode == 0, command
    assert first_line is not None
    assert first_step is not None
    return first_line, first_step


def describe(costs: list[Cost], references: list[Cost]) -> list[str]:
    """Return the columns of a row; a ratio is taken within its round."""
    cpu = [c.cpu for c in costs if c.cpu is not None]
    cpu_ratios = [c.cpu / r.cpu for c, r in zip(costs, references, strict=True) if c.cpu is not None and r.cpu]
    wall_ratios = [c.wall / r.wall for c, r in zip(costs, references, strict=True)]
    return [spread([c.wall for c in costs]), spread(cpu), spread(wall_ratios), spread(cpu_ratios)]


def spread(values: list[float]) -> str:
    """Return median, lowest and highest value as text."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else "–"


if __name__ == "__main__":
    main()
