"""What a run of a thousand layers, a thousand processes and a million steps would cost, from what is measured here.

Nobody here has a thousand processes. What can be measured on one machine is: the seconds of a snapshot by layer and
element, the bytes that it leaves in the record, what diagnosing and reading take, what a collective between two
processes takes. The rest is multiplication, written out below.

    python benchmarks/scale.py          measure (a minute), print the tables of docs/scale.md
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.recorded_run import observe
from stabletrain.record.reader import load_record
from stabletrain.record.writer import RecordWriter
from stabletrain.signal.kernels.reduce import measure_tensors, prepare
from stabletrain.signal.snapshot import Snapshot

LAYERS, RANKS, STEPS, PARAMETERS = 1_000, 1_024, 1_000_000, 1_000_000_000
HOPS = 20  # up and down a tree of 1,024 processes; two processes are one up, one down
SIGNALS = 5  # gradient, and on further looks delta, activation, update, weight
MEMORY = 64e9  # bytes of the machine that reads the record
# Looks of a run: at statistics alone; with the gradient's histograms; with those of all signals.
CADENCES = {
    "every_step": (0, STEPS * 49 // 50, STEPS // 50),
    "default": (STEPS // 10 - STEPS // 50, 0, STEPS // 50),
    "norms": (STEPS, 0, 0),
    "log_spaced": (0, 0, 110),
}


@dataclass(frozen=True)
class Constants:
    """Seconds and bytes, measured on this machine; what is of a layer is of one layer on one look."""

    snapshot_s: float
    layer_s: float
    element_s: float
    norms_element_s: float
    write_s: float
    norms_bytes: float
    histogram_bytes: float
    read_s: float
    norms_read_s: float
    read_bytes: float
    norms_read_bytes: float
    diagnose_s: float
    collective_s: float
    collective_byte_s: float


def gradients(num: int, size: int) -> list[Tensor]:
    """Normal gradients whose scale spreads over the layers as in a network of depth."""
    torch.manual_seed(0)
    return [torch.randn(size) * 10.0 ** (-3 * i / num) for i in range(num)]


def names_of(num: int) -> list[str]:
    return [f"L{i:04d}.weight" for i in range(num)]


def seconds_of(function: Callable[[], object], times: int = 9) -> float:
    """Return the median after one call to warm up."""
    found = []
    for _ in range(times + 1):
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


def measure_watching() -> tuple[float, float, float, float]:
    """Return the seconds of a snapshot: fixed, per layer, per element with histograms and without."""

    def snapshot_s(num: int, size: int, histograms: bool) -> float:
        tensors, names = gradients(num, size), names_of(num)
        return seconds_of(lambda: measure_tensors(names, tensors, histograms=histograms))

    fixed, thousand = snapshot_s(1, 16, True), snapshot_s(1_000, 16, True)
    layer = (thousand - fixed) / 999
    elements = [(snapshot_s(10, 2_000_000, h) - fixed - 9 * layer) / 20_000_000 for h in (True, False)]
    return fixed, layer, *elements


def measure_record(folder: Path) -> tuple[float, ...]:
    """Return, for a layer and look, seconds to write, bytes without and with a histogram, seconds and bytes to read."""
    names, tensors, looks = names_of(LAYERS), gradients(LAYERS, 1_000), 21
    write_s, num_bytes, read_s, memory = {}, {}, {}, {}
    for histograms in (False, True):
        writer = RecordWriter(folder / str(histograms) / "tensorboard")
        snapshots = [Snapshot(i, measure_tensors(names, tensors, histograms=histograms)) for i in range(looks)]
        writer.write_snapshot(snapshots[0])  # with it the layout
        writer.flush()
        size, start = writer.path.stat().st_size, time.perf_counter()
        for snapshot in snapshots[1:]:
            writer.write_snapshot(snapshot)
        writer.close()
        write_s[histograms] = (time.perf_counter() - start) / (looks - 1) / LAYERS
        num_bytes[histograms] = (writer.path.stat().st_size - size) / (looks - 1) / LAYERS
        read_s[histograms] = seconds_of(lambda h=histograms: load_record(folder / str(h)), 3) / looks / LAYERS
        tracemalloc.start()
        record = load_record(folder / str(histograms))
        memory[histograms] = tracemalloc.get_traced_memory()[0] / looks / LAYERS
        tracemalloc.stop()
    diagnose_s = seconds_of(lambda: diagnose(observe(record)), 3) / looks / LAYERS
    return (write_s[True], num_bytes[False], num_bytes[True], read_s[True], read_s[False], memory[True], memory[False],
            diagnose_s)  # fmt: skip


def time_collectives(rank: int, address: str, results: str) -> None:
    """Be one of two processes that add up a snapshot's numbers; the first writes the seconds."""
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    found = []
    for num in (1, 517 * LAYERS):
        tensor = torch.zeros(num, dtype=torch.float64)
        found.append(seconds_of(lambda tensor=tensor: dist.all_reduce(tensor), 30))
    if rank == 0:
        Path(results).write_text(json.dumps(found))
    dist.destroy_process_group()


def measure_collectives(folder: Path) -> tuple[float, float]:
    """Return seconds of a collective of two processes, and seconds per byte."""
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
    """Return a number of two digits in the largest unit that it reaches: 5.2 MB, 3.1 days."""
    name, size = next(((name, size) for name, size in UNITS[unit] if value >= size), UNITS[unit][-1])
    return f"{np.format_float_positional(float(f'{value / size:.2g}'), trim='-')} {name}"


def constants_table(c: Constants) -> list[tuple[str, ...]]:
    in_record = f"{amount(c.histogram_bytes, 'B')}; {amount(c.norms_bytes, 'B')}"
    return [
        ("constant", "measured"),
        ("a snapshot with histograms, whatever its size", amount(c.snapshot_s, "s")),
        ("each layer of it", amount(c.layer_s, "s")),
        ("each element of it; without histograms", f"{amount(c.element_s, 's')}; {amount(c.norms_element_s, 's')}"),
        ("writing a layer with its histogram", amount(c.write_s, "s")),
        ("a layer with its histogram in the record; without", in_record),
        ("reading it back; without", f"{amount(c.read_s, 's')}; {amount(c.norms_read_s, 's')}"),
        ("its memory once read; without", f"{amount(c.read_bytes, 'B')}; {amount(c.norms_read_bytes, 'B')}"),
        ("diagnosing a layer of a look", amount(c.diagnose_s, "s")),
        ("adding up between two processes (gloo), however little", amount(c.collective_s, "s")),
        ("each byte of it", amount(c.collective_byte_s, "s")),
    ]  # fmt: skip


def paper_table(c: Constants) -> list[tuple[str, ...]]:
    """Return, for each cadence, what the run of `LAYERS`, `RANKS` and `STEPS` costs."""
    head = "watch, looks, watching (ddp), watching (fsdp), messages, their bytes, record, reading it, its memory"
    rows = [(*head.split(", "), "64 GB are full at step")]
    for name, (plain, counted, further) in CADENCES.items():
        norms, histograms = plain, counted + SIGNALS * further  # tables of one number a layer, and of 517
        fixed = (norms + histograms) * (c.snapshot_s + LAYERS * c.layer_s) + histograms * LAYERS * c.write_s
        per_element = norms * c.norms_element_s + histograms * c.element_s
        messages = 2 * (plain + counted + (SIGNALS - 1) * further)  # activation and delta go together
        payload = LAYERS * 8 * (4 * norms + 518 * histograms)
        wire = messages * HOPS / 2 * c.collective_s + payload * c.collective_byte_s
        record = LAYERS * (norms * c.norms_bytes + histograms * c.histogram_bytes)
        reading = LAYERS * (norms * c.norms_read_s + histograms * c.read_s + (norms + histograms) * c.diagnose_s)
        memory = LAYERS * (norms * c.norms_read_bytes + histograms * c.read_bytes)
        full = "never" if memory <= MEMORY else f"{int(float(f'{STEPS * MEMORY / memory:.2g}')):,}"
        rows.append(
            (f"`{name}`", f"{plain + counted + further:,}", amount(fixed + per_element * PARAMETERS, "s"),
             amount(fixed + per_element * PARAMETERS / RANKS + wire, "s"), f"{messages:,}", amount(payload, "B"),
             amount(record, "B"), amount(reading, "s"), amount(memory, "B"), full)
        )  # fmt: skip
    return rows


def markdown(rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


if __name__ == "__main__":
    constants = measure()
    print(json.dumps(asdict(constants), indent=2), file=sys.stderr)
    print(markdown(constants_table(constants)), markdown(paper_table(constants)), sep="\n\n")
