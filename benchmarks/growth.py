"""Measure what reading a long run costs: time, peak memory and sizes by number of steps.

Makes synthetic records with the real writer, and reads each of them in a process of its own.

    python benchmarks/growth.py                                    1,000 layers; 1,000, 3,000 and 10,000 steps
    python benchmarks/growth.py --steps 100000 --folder /data/g    the table of docs/scale.md; 5.7 GB
    python benchmarks/growth.py --steps 2000 --watch every_step    histograms on every step
    python benchmarks/growth.py --layers 20 --steps 300 --num-runs 100 --tasks compare
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from stabletrain.record.run_folder import RunFolder
from stabletrain.record.writer import RecordWriter
from stabletrain.signal.layer_statistics import Arrays, Measures
from stabletrain.signal.snapshot import Snapshot
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.signals import ACTIVATION, DEAD, DELTA, UPDATE, WEIGHT
from stabletrain.vocabulary.statuses import FINISHED

SIZE = 100_000  # elements of a layer
SPREAD = 1.6  # standard deviation of log2|g| within a layer, as measured in an MLP of 20 layers
VARIANTS = 16  # of the histograms: steps repeat them
# Every how many steps: statistics, histograms of the gradient, histograms of all signals.
WATCHES = {"default": (10, 50, 50), "every_step": (1, 1, 50), "norms": (1, 0, 0)}
TASKS = ("read", "report", "diagnose", "pictures", "sync")
COLUMNS = ("steps", "record", "task", "CPU", "wall", "peak memory", "result")


class Run:
    """Makes the snapshots of a run whose gradient slowly shrinks, more so in the first layers.

    Args:
        num_layers: Number of layers.
        num_steps: Number of steps.
        watch: A key of `WATCHES`.
    """

    def __init__(self, num_layers: int, num_steps: int, watch: str) -> None:
        self.layers = [f"L{k:04d}.layers.{k}.weight" for k in range(num_layers)]
        self.num_steps = num_steps
        self.every = WATCHES[watch]
        self._random = np.random.default_rng(0)
        self._sizes = np.full(num_layers, SIZE)
        self._depth = np.linspace(1.0, 0.0, num_layers)
        self._counts = [self._variant() for _ in range(VARIANTS)]
        self._shares = dict(zip(self.layers, self._random.uniform(0, 0.1, num_layers).tolist(), strict=True))

    def _variant(self) -> np.ndarray:
        """Return counts (L, 512) of numbers whose log2 is normally distributed, by sign and exponent."""
        bins = np.arange(256)
        centers = 118 - 6 * self._depth + self._random.normal(0, 0.5, len(self.layers))
        density = np.exp(-(((bins - centers[:, None]) / SPREAD) ** 2) / 2)
        half = np.rint(density / density.sum(axis=1, keepdims=True) * SIZE / 2).astype(np.int32)
        return np.concatenate([half, half], axis=1)

    def _measures(self, step: int, scale: float, with_counts: bool) -> Measures:
        rms = scale * 10.0 ** (-2 - 2 * self._depth - step / self.num_steps)
        rms *= self._random.lognormal(0, 0.2, len(rms))
        counts = self._counts[step % VARIANTS] if with_counts else None
        special = None if counts is None else np.zeros((len(rms), 2), np.int64)
        arrays = Arrays(rms, np.zeros(len(rms), np.int64), counts, special)
        return Measures(self.layers, self._sizes, arrays, with_counts=with_counts)

    def snapshots(self) -> Iterator[tuple[int, Snapshot | None]]:
        """Yield each step and its snapshot, None on steps that are not watched."""
        statistics, histograms, signals = self.every
        for step in range(self.num_steps):
            if step % statistics:
                yield step, None
                continue
            counted = bool(histograms) and step % histograms == 0
            snapshot = Snapshot(step, self._measures(step, 1.0, counted))
            if signals and step % signals == 0:
                scales = {DELTA: 0.3, ACTIVATION: 50.0, WEIGHT: 10.0, UPDATE: 0.01}
                snapshot.signals |= {name: self._measures(step, scale, True) for name, scale in scales.items()}
                snapshot.units = {DEAD: self._shares}
            yield step, snapshot


def write_run(folder: RunFolder, num_layers: int, num_steps: int, watch: str) -> None:
    """Write the record and the summary of a synthetic run."""
    writer, run = RecordWriter(folder.events), Run(num_layers, num_steps, watch)
    about = {"training": {"num_steps": num_steps, "steps_per_epoch": 100}, "choices": {"model": "mlp"}}
    writer.write_info({"run_uid": f"growth-{num_layers}-{num_steps}", "experiment_name": "growth", **about})
    noise = np.random.default_rng(1).lognormal(0, 0.1, num_steps)
    waiting = []
    for step, snapshot in run.snapshots():
        loss = float((0.1 + 2.2 * np.exp(-3 * step / num_steps)) * noise[step])
        norm = float(10 * loss * noise[-step])
        waiting.append((step, {names.TRAIN_LOSS: loss, names.NORM_TOTAL: norm, names.NORM_AFTER: min(norm, 10.0)}))
        if snapshot is not None:
            writer.write_snapshot(snapshot)
        if len(waiting) == 100:
            waiting[-1][1][names.VAL_LOSS] = 1.1 * loss
            writer.write_steps(waiting)
            waiting = []
    writer.write_steps(waiting)
    writer.close()
    folder.update_summary(status=FINISHED, verdict="healthy", steps=num_steps, seconds=num_steps * 0.05)
    folder.write_findings([])


def read(folder: RunFolder) -> str:
    """Read the record as the report and the doctor do."""
    try:
        from stabletrain.record.bounded_reader import load_bounded as load
    except ImportError:  # a version before there was one
        from stabletrain.record.reader import load_record as load
    record = load(folder.path)
    num_steps = len({step for by_step in record.histograms.values() for step in by_step})
    num_rows = max((len(series.steps) for series in record.of_layers(names.GRADIENT_RMS).values()), default=0)
    return f"{num_rows:,} rows, histograms of {num_steps} steps"


def read_all(folder: RunFolder) -> str:
    """Read the record with `load_record`, which keeps every number."""
    from stabletrain.record.reader import load_record

    record = load_record(folder.path)
    return f"{sum(map(len, record.histograms.values())):,} histograms"


def report(folder: RunFolder) -> str:
    """Write the page."""
    from stabletrain.report.page import write_report

    return f"page of {write_report(folder).stat().st_size / 1e6:.1f} MB"


def diagnose(folder: RunFolder) -> str:
    """Read the record and apply the rules."""
    from stabletrain.app.commands.diagnose import examine

    return f"{len(examine(folder))} findings"


def pictures(folder: RunFolder) -> str:
    """Read the record and draw the pictures for MLflow, as the shipping process does."""
    from stabletrain.tracking.contents.picture_plan import PicturePlan
    from stabletrain.tracking.metrics import read_events

    plan = PicturePlan(set())
    for entries, _ in read_events(folder.events):
        plan.take(entries)
    plan.plan_last()
    sizes = [len(picture.draw()) for picture in plan.pending()]
    return f"{len(sizes)} pictures, {sum(sizes) / 1e6:.1f} MB"


def sync(folder: RunFolder) -> str:
    """Ship the record to an empty SQLite store."""
    from stabletrain.tracking.shipper import Shipper

    with tempfile.TemporaryDirectory() as store:
        os.chdir(store)
        result = Shipper(folder, f"sqlite:///{store}/mlflow.db").ship(ended=True)
    return f"{result.points:,} points, {result.images} images"


def compare(folder: RunFolder) -> str:
    """Write the page that compares all runs beside the folder."""
    from stabletrain.report.compare import write_comparison

    runs = [RunFolder(path) for path in sorted(folder.path.parent.iterdir()) if path.is_dir()]
    page = write_comparison(runs, folder.path.parent / "compare.html")
    return f"{len(runs)} runs, page of {page.stat().st_size / 1e6:.1f} MB"


FUNCTIONS: dict[str, Callable[[RunFolder], str]] = {
    function.__name__: function for function in (read, read_all, report, diagnose, pictures, sync, compare)
}


def measure(task: str, folder: Path) -> None:
    """Print what a task costs this process; its memory includes the imports."""
    start, cpu = time.perf_counter(), time.process_time()
    result = FUNCTIONS[task](RunFolder(folder))
    cost = {"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu, "result": result}
    print(json.dumps(cost | {"memory": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))


def measure_in_process(task: str, folder: Path, memory: int) -> dict:
    """Measure a task in a process of its own, of which more memory than `memory` bytes is refused."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    command = [sys.executable, __file__, "--measure", task, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=limit)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if "MemoryError" in done.stderr or "bad_alloc" in done.stderr:
        return {"cpu": float("nan"), "wall": float("nan"), "memory": float("nan"), "result": "out of memory"}
    raise SystemExit(f"{task}: exit code {done.returncode}\n{done.stderr[-4000:]}")


def row_of(num_steps: int, num_bytes: int, task: str, cost: dict) -> str:
    """Return a row of the table."""
    memory = f"{cost['memory'] / 1e6:,.0f} MB"
    cells = (f"{num_steps:,}", f"{num_bytes / 1e6:,.0f} MB", task, f"{cost['cpu']:.1f} s", f"{cost['wall']:.1f} s")
    return "| " + " | ".join((*cells, memory, cost["result"])) + " |"


def main() -> None:
    """Write the records and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=1000, help="number of layers")
    parser.add_argument("--steps", type=int, nargs="+", default=[1000, 3000, 10000], help="numbers of steps")
    parser.add_argument("--watch", choices=WATCHES, default="default", help="how often is measured")
    parser.add_argument("--num-runs", type=int, default=1, help="runs of each size; `compare` reads all of them")
    parser.add_argument("--tasks", nargs="+", choices=FUNCTIONS, default=TASKS, help="what is measured")
    parser.add_argument("--memory", type=float, default=16.0, help="GB of address space of each process")
    parser.add_argument("--folder", type=Path, help="where the records are written and kept; a temporary folder if not")
    parser.add_argument("--measure", choices=FUNCTIONS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        above = options.folder or Path(temporary)
        print("| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|", sep="\n")
        for num_steps in options.steps:
            for k in range(options.num_runs):
                folder = RunFolder(above / f"{options.watch}-{options.layers}-{num_steps}" / f"{k:03d}")
                if not folder.summary.is_file():
                    write_run(folder, options.layers, num_steps, options.watch)
            num_bytes = sum(path.stat().st_size for path in folder.events.iterdir())
            for task in options.tasks:
                cost = measure_in_process(task, folder.path, int(options.memory * 1e9))
                print(row_of(num_steps, num_bytes, task, cost), flush=True)


if __name__ == "__main__":
    main()
