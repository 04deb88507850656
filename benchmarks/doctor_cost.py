"""Measure what the doctor adds to a watched training step in Lightning, relative to the steps without it.

    python benchmarks/doctor_cost.py
    python benchmarks/doctor_cost.py --bare

With `--bare`, `st.Doctor(model)` in a plain loop is compared with the same loop without it, in CPU time on one thread:
two equal models take a step each in turn, from the first step on, which is the most expensive one.

Otherwise the time includes everything done for the doctor: storing snapshots and scalars, recording, and the rules,
which run as often as in a real run. Writing snapshots that were already waiting, which an evaluation of the rules
triggers a little early, is attributed to the watch. The steps are those of `benchmarks/watching.py`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from watching_lightning import OPTIONS, fit
from watching_workloads import ON_CPU, ON_CUDA, WORKLOADS, Stepper

import stabletrain as st
from stabletrain.training.callbacks import Doctor, GradientWatch

SKIPPED = 20  # the first steps, when the caches are cold


class Timed(Doctor):
    """A doctor that times everything it does; `spent` has the seconds of each step."""

    def __init__(self) -> None:
        super().__init__(say=lambda line: None)
        self.spent: list[float] = []
        self._now = self._of_the_watch = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        assert self._writer is not None
        self._writer.listeners = [_Clock(listener, self) for listener in self._writer.listeners]
        flush = self._writer.flush

        def timed() -> None:
            start, before = time.perf_counter(), self._now
            flush()
            self._of_the_watch += time.perf_counter() - start - (self._now - before)  # excluding the listeners

        self._writer.flush = timed

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        start, before = time.perf_counter(), self._now
        super().on_train_batch_end(*args, **kwargs)
        taken = time.perf_counter() - start  # includes the listeners that it calls
        self.spent.append(before + taken - self._of_the_watch)
        self._now = self._of_the_watch = 0.0

    def add(self, seconds: float) -> None:
        """Add time spent outside of the callback."""
        self._now += seconds


class _Clock:
    """Times a listener of the record."""

    def __init__(self, listener: Any, doctor: Timed) -> None:
        self._listener, self._doctor = listener, doctor

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._listener, name)

        def timed(*args: Any) -> None:
            start = time.perf_counter()
            method(*args)
            self._doctor.add(time.perf_counter() - start)

        return timed


class Steps(pl.Callback):
    """Times every step, including the callbacks."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        now = time.perf_counter()
        if index:
            self.seconds.append(now - self._start)
        self._start = now


def measure(stepper: Stepper, option: str, num_steps: int, folder: Path) -> tuple[float, list[float]]:
    """Return the median milliseconds of a step, and the doctor's share in percent for each tenth of the run."""
    doctor, steps = Timed(), Steps()
    fit(stepper, num_steps, [steps, GradientWatch(**OPTIONS[option][0]), doctor], folder)
    spent, taken = (np.array(x)[SKIPPED : num_steps - 1] for x in (doctor.spent, steps.seconds))
    shares = [
        100 * float(a.sum() / (b.sum() - a.sum()))
        for a, b in zip(np.array_split(spent, 10), np.array_split(taken, 10), strict=True)
    ]
    return 1e3 * statistics.median(taken - spent), shares


def take_step(stepper: Stepper, doctor: st.Doctor | None) -> float:
    """Take a step in a plain loop; return the CPU seconds that it took."""
    start = time.process_time()
    stepper.optimizer.zero_grad()
    loss = stepper.loss()
    loss.backward()
    if doctor is not None:
        doctor.step(loss)
    stepper.optimizer.step()
    return time.process_time() - start


def measure_bare(name: str, num_steps: int) -> tuple[float, float]:
    """Return the mean milliseconds of a plain step, and what `st.Doctor(model)` adds in percent."""
    plain, watched = (Stepper(WORKLOADS[name], torch.device("cpu")) for _ in range(2))
    for _ in range(3):  # warm up; the weights of both stay equal
        take_step(plain, None)
        take_step(watched, None)
    doctor = st.Doctor(watched.model)
    pairs = np.array([(take_step(plain, None), take_step(watched, doctor)) for _ in range(num_steps)])
    without, with_doctor = pairs.sum(axis=0)
    doctor.detach()
    return 1e3 * float(without) / num_steps, 100 * float(with_doctor / without - 1)


def print_bare(num_steps: int, rounds: int) -> None:
    """Print the table of a plain loop."""
    torch.set_num_threads(1)
    print(f"| workload | ms per step | `st.Doctor(model)` adds, over {num_steps} steps (min … max of {rounds}) |")
    print("|---|---|---|")
    for name in ON_CPU:
        measure_bare(name, 3)  # compiles the kernels
        found = [measure_bare(name, num_steps) for _ in range(rounds)]
        shares = [share for _, share in found]
        ms = statistics.median(ms for ms, _ in found)
        added = f"+{statistics.median(shares):.1f}% ({min(shares):.1f} … {max(shares):.1f})"
        print(f"| {WORKLOADS[name].title} | {ms:.1f} | {added} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="of each run (1000)")
    parser.add_argument("--bare", action="store_true", help="st.Doctor(model) in a plain loop")
    parser.add_argument("--rounds", type=int, default=5, help="with --bare (5)")
    options = parser.parse_args()
    if options.bare:
        print_bare(options.steps, options.rounds)
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    print("| workload | ms per step | watch | the doctor adds (min … max over ten parts) |\n|---|---|---|---|")
    for name in ON_CUDA if device.type == "cuda" else ON_CPU:
        stepper = Stepper(WORKLOADS[name], device)
        for option in ("`watch=default`", "`watch=every_step`"):
            with tempfile.TemporaryDirectory() as folder:
                ms, shares = measure(stepper, option, options.steps, Path(folder))
            row = [WORKLOADS[name].title, f"{ms:.1f}", option]
            row += [f"+{np.mean(shares):.2f}% ({min(shares):.2f} … {max(shares):.2f})"]
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
