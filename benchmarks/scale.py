"""Extrapolate the cost of watching to a run with a thousand layers, a thousand processes and a million steps.

One machine can measure the constants: the seconds of a snapshot per layer and element, its bytes in the record, the
time to diagnose it, and the time of a collective between two processes. The rest is multiplication, as
written out below.

    python benchmarks/scale.py          measure (a minute), print the tables of docs/scale.md
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.recorded_run import observe
from stabletrain.record.bounded_reader import load_bounded
from stabletrain.record.writer import RecordWriter
from stabletrain.signal.kernels.reduce import measure_tensors, prepare
from stabletrain.signal.snapshot import Snapshot

LAYERS, RANKS, STEPS, PARAMETERS = 1_000, 1_024, 1_000_000, 1_000_000_000
HOPS = 20  # up and down a tree of 1,024 processes; with two processes there are two
SIGNALS = 5  # gradient; on some steps also delta, activation, update, weight
# Number of measurements: of statistics only; with histograms of the gradient; with histograms of all signals.
CADENCES = {
    "every_step": (0, STEPS * 49 // 50, STEPS // 50),
    "default": (STEPS // 10 - STEPS // 50, 0, STEPS // 50),
    "norms": (STEPS, 0, 0),
    "log_spaced": (0, 0, 110),
}


@dataclass(frozen=True)
class Constants:
    """Seconds and bytes measured on this machine; those of a layer are per layer and measurement."""

    snapshot_s: float
    layer_s: float
    element_s: float
    norms_element_s: float
    write_s: float
    norms_bytes: float
    histogram_bytes: float
    diagnose_s: float
    collective_s: float
    collective_byte_s: float


def gradients(num: int, size: int) -> list[Tensor]:
    """Return normally distributed gradients whose scale varies over the layers as in a deep network."""
    torch.manual_seed(0)
    return [torch.randn(size) * 10.0 ** (-3 * i / num) for i in range(num)]


def names_of(num: int) -> list[str]:
    return [f"L{i:04d}.weight" for i in range(num)]


def seconds_of(function: Callable[[], object], times: int = 9) -> float:
    """Return the median seconds of a call, after a warm-up call."""
    found = []
    for _ in range(times + 1):
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


def measure_watching() -> tuple[float, float, float, float]:
    """Return the seconds of a snapshot: fixed, per layer, per element with and without histograms."""

    def snapshot_s(num: int, size: int, histograms: bool) -> float:
        tensors, names = gradients(num, size), names_of(num)
        return seconds_of(lambda: measure_tensors(names, tensors, histograms=histograms))

    fixed, thousand = snapshot_s(1, 16, True), snapshot_s(1_000, 16, True)
    layer = (thousand - fixed) / 999
    elements = [(snapshot_s(10, 2_000_000, h) - fixed - 9 * layer) / 20_000_000 for h in (True, False)]
    return fixed, layer, *elements


def measure_record(folder: Path) -> tuple[float, ...]:
    """Return seconds to write, bytes and seconds to diagnose, per layer and measurement."""
    names, tensors, looks = names_of(LAYERS), gradients(LAYERS, 1_000), 21
    write_s, num_bytes = {}, {}
    for histograms in (False, True):
        writer = RecordWriter(folder / str(histograms) / "tensorboard")
        snapshots = [Snapshot(i, measure_tensors(names, tensors, histograms=histograms)) for i in range(looks)]
        writer.write_snapshot(snapshots[0])  # also writes the layout
        writer.flush()
        size, start = writer.path.stat().st_size, time.perf_counter()
        for snapshot in snapshots[1:]:
            writer.write_snapshot(snapshot)
        writer.close()
        write_s[histograms] = (time.perf_counter() - start) / (looks - 1) / LAYERS
        num_bytes[histograms] = (writer.path.stat().st_size - size) / (looks - 1) / LAYERS
        record = load_bounded(folder / str(histograms))
    diagnose_s = seconds_of(lambda: diagnose(observe(record)), 3) / looks / LAYERS
    return write_s[True], num_bytes[False], num_bytes[True], diagnose_s


def time_collectives(rank: int, address: str, results: str) -> None:
    """Run as one of two processes that sum the numbers of a snapshot; the first one writes the seconds."""
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    found = []
    for num in (1, 517 * LAYERS):
        tensor = torch.zeros(num, dtype=torch.float64)
        found.append(seconds_of(lambda tensor=tensor: dist.all_reduce(tensor), 30))
    if rank == 0:
        Path(results).write_text(json.dumps(found))
    dist.destroy_process_group()


def measure_collectives(folder: Path) -> tuple[float, float]:
    """Return the seconds of a collective between two processes, and the seconds per byte."""
    arguments = (f"file://{folder / 'store'}", str(folder / "collectives.json"))
    torch.multiprocessing.spawn(time_collectives, arguments, nprocs=2)
    small, large = json.loads((folder / "collectives.json").read_text())
    return small, (large - small) / (8 * 517 * LAYERS)


def measure() -> Constants:
    prepare()
    with tempfile.TemporaryDirectory() as name:
        return Constants(*measure_watching(), *measure_record(Path(name)), *measure_collectives(Path(name)))


UNITS = {
    "s": [("days", 86400), ("h", 3600), ("min", 60), ("s", 1), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)],
    "B": [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1)],
}


def amount(value: float, unit: str) -> str:
    """Return the value with two significant digits in the largest unit that it reaches: 5.2 MB, 3.1 days."""
    name, size = next(((name, size) for name, size in UNITS[unit] if value >= size), UNITS[unit][-1])
    return f"{np.format_float_positional(float(f'{value / size:.2g}'), trim='-')} {name}"


def constants_table(c: Constants) -> list[tuple[str, ...]]:
    in_record = f"{amount(c.histogram_bytes, 'B')}; {amount(c.norms_bytes, 'B')}"
    return [
        ("constant", "measured"),
        ("a snapshot with histograms, fixed cost", amount(c.snapshot_s, "s")),
        ("… per layer", amount(c.layer_s, "s")),
        ("… per element; without histograms", f"{amount(c.element_s, 's')}; {amount(c.norms_element_s, 's')}"),
        ("writing a layer with its histogram", amount(c.write_s, "s")),
        ("size of a layer with its histogram in the record; without", in_record),
        ("diagnosing one layer of one measurement", amount(c.diagnose_s, "s")),
        ("a sum over two processes (gloo), fixed cost", amount(c.collective_s, "s")),
        ("… per byte", amount(c.collective_byte_s, "s")),
    ]  # fmt: skip


def paper_table(c: Constants) -> list[tuple[str, ...]]:
    """Return for each cadence the cost of a run with `LAYERS`, `RANKS` and `STEPS`."""
    head = "watch, measurements, watching (ddp), watching (fsdp), messages, bytes sent, record"
    rows = [tuple(head.split(", "))]
    for name, (plain, counted, further) in CADENCES.items():
        norms, histograms = plain, counted + SIGNALS * further  # tables with one number per layer, and with 517
        fixed = (norms + histograms) * (c.snapshot_s + LAYERS * c.layer_s) + histograms * LAYERS * c.write_s
        per_element = norms * c.norms_element_s + histograms * c.element_s
        messages = 2 * (plain + counted + (SIGNALS - 1) * further)  # activation and delta share one
        payload = LAYERS * 8 * (4 * norms + 518 * histograms)
        wire = messages * HOPS / 2 * c.collective_s + payload * c.collective_byte_s
        record = LAYERS * (norms * c.norms_bytes + histograms * c.histogram_bytes)
        rows.append(
            (f"`{name}`", f"{plain + counted + further:,}", amount(fixed + per_element * PARAMETERS, "s"),
             amount(fixed + per_element * PARAMETERS / RANKS + wire, "s"), f"{messages:,}", amount(payload, "B"),
             amount(record, "B"))
        )  # fmt: skip
    return rows


def markdown(rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


if __name__ == "__main__":
    constants = measure()
    print(json.dumps(asdict(constants), indent=2), file=sys.stderr)
    print(markdown(constants_table(constants)), markdown(paper_table(constants)), sep="\n\n")
