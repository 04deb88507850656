"""Measure how much longer a command takes on a machine that others use: beside four busy processes, and alone.

The busy processes are started and stopped by the script. Quiet and loaded runs of every variant take turns in random
order; the table shows the median of the whole command and of the training alone, with the smallest and the largest, and
the ratio of loaded to quiet, which docs/configuration.md#threads quotes. Run it on an idle machine:

    python benchmarks/busy_machine.py                                    # five minutes on two cores
    python benchmarks/busy_machine.py --rounds 1 --variants threads=auto
    python benchmarks/busy_machine.py --command 'model=transformer data=text trainer.max_steps=100'

The variant `spinning` is torch's default: one thread per core, which spins while it waits. It can take minutes beside a
load, and is stopped after `--limit` seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from busy_load import busy_processes, stop

ROOT = Path(__file__).parents[1]
VARIANTS = {
    "threads=auto": (["threads=auto"], {}),
    "threads=2": (["threads=2"], {}),
    "spinning": (["threads=2"], {"OMP_WAIT_POLICY": "", "GOMP_SPINCOUNT": "300000"}),
}
NOT_OURS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "MLFLOW_TRACKING_URI")


@dataclass
class Times:
    """Seconds of several runs: the whole command, and the training alone."""

    whole: list[float] = field(default_factory=list)
    training: list[float] = field(default_factory=list)


def run_once(variant: str, words: list[str], limit_s: float) -> tuple[float, float]:
    """Run the command once in a new folder; return the seconds of the whole command and of the training."""
    overrides, extra = VARIANTS[variant]
    environment = {k: v for k, v in os.environ.items() if k not in NOT_OURS} | {k: v for k, v in extra.items() if v}
    environment["PYTHONPATH"] = str(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "stabletrain", *words, *overrides, "output_dir=run"]
        start = time.perf_counter()
        process = subprocess.Popen(line, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return float("inf"), float("inf")
        finally:
            stop(process)
        seconds = time.perf_counter() - start
        if code:
            raise SystemExit(f"{shlex.join(line)} failed with exit code {code}")
        return seconds, json.loads((Path(folder) / "run/summary.json").read_text())["seconds"]


def measure(variants: list[str], words: list[str], rounds: int, num_busy: int, limit_s: float) -> dict:
    """Return `Times` by variant and load."""
    found = {(variant, load): Times() for variant in variants for load in ("quiet", "busy")}
    for _ in range(rounds):
        for variant, load in random.sample(list(found), len(found)):
            with busy_processes(num_busy if load == "busy" else 0):
                whole, training = run_once(variant, words, limit_s)
            found[variant, load].whole.append(whole)
            found[variant, load].training.append(training)
            print(f"  {variant:14} {load:6} whole {whole:6.1f} s, training {training:6.1f} s", flush=True)
    return found


def show(found: dict, variants: list[str]) -> None:
    """Print the table."""
    print("\n| variant | quiet: command, s | training, s | busy: command, s | training, s | command | training |")
    print("|---|---|---|---|---|---|---|")
    for variant in variants:
        quiet, busy = found[variant, "quiet"], found[variant, "busy"]
        ratios = [statistics.median(b) / statistics.median(a) for a, b in zip(_both(quiet), _both(busy), strict=True)]
        cells = [spread(values) for times in (quiet, busy) for values in _both(times)]
        print(f"| {variant} | {' | '.join(cells)} | {' | '.join(f'{r:.1f}×' for r in ratios)} |")


def _both(times: Times) -> tuple[list[float], list[float]]:
    return times.whole, times.training


def spread(values: list[float]) -> str:
    """Return the median with the smallest and the largest."""
    return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", default="model=rnn clip=norm", help="overrides of the command")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--busy", type=int, default=4, help="busy processes")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds after which a run is stopped (shown as inf)")
    given = parser.parse_args()
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"{os.cpu_count()} cores, load {load} before the first run; {given.busy} busy processes")
    show(measure(given.variants, shlex.split(given.command), given.rounds, given.busy, given.limit), given.variants)


if __name__ == "__main__":
    main()
