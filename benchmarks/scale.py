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
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.history import History
from stabletrain.record.reader import load_record
from stabletrain.record.writer import RecordWriter
from stabletrain.signal.measure import measure_tensors, prepare
from stabletrain.signal.snapshot import Snapshot

LAYERS, RANKS, STEPS, PARAMETERS = 1_000, 1_024, 1_000_000, 1_000_000_000
HOPS = 2 * 10  # of a tree over 1,024 processes: up and down
# Looks in a run of a million steps: (statistics, of them with histograms, histograms of further signals at these).
CADENCES = {"every_step": (STEPS, STEPS, 4 * STEPS // 50), "default": (STEPS // 10, STEPS // 50, 4 * STEPS // 50),
            "norms": (STEPS, 0, 0), "log_spaced": (110, 110, 4 * 110)}  # fmt: skip


@dataclass(frozen=True)
class Constants:
    """Seconds and bytes, measured on this machine."""

    snapshot_s: float
    layer_s: float
    element_s: float
    write_layer_s: float
    norms_bytes: float
    histogram_bytes: float
    diagnose_s: float
    read_layer_s: float
    collective_s: float
    collective_byte_s: float


def gradients(num: int, size: int) -> list[Tensor]:
    """Normal gradients whose scale spreads over the layers as in a network of depth."""
    torch.manual_seed(0)
    return [torch.randn(size) * 10.0 ** (-3 * i / num) for i in range(num)]


def seconds_of(function: Callable[[], object], times: int = 9) -> float:
    """Return the median after one call to warm up."""
    found = []
    for _ in range(times + 1):
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


def measure_watching() -> tuple[float, float, float]:
    """Return the seconds of a snapshot with histograms: fixed, per layer, per element."""

    def snapshot_s(num: int, size: int) -> float:
        tensors, names = gradients(num, size), [f"L{i:04d}.weight" for i in range(num)]
        return seconds_of(lambda: measure_tensors(names, tensors, histograms=True))

    fixed, thousand = snapshot_s(1, 16), snapshot_s(1_000, 16)
    large = snapshot_s(10, 2_000_000)
    layer = (thousand - fixed) / 999
    return fixed, layer, (large - fixed - 9 * layer) / 20_000_000


def measure_record(folder: Path) -> tuple[float, float, float, float, float]:
    """Return seconds to write, bytes of norms, bytes with a histogram, seconds to diagnose and to read: per layer."""
    names, tensors = [f"L{i:04d}.weight" for i in range(LAYERS)], gradients(LAYERS, 1_000)
    found = {}
    for histograms in (False, True):
        writer = RecordWriter(folder / str(histograms) / "tensorboard")
        snapshots = [Snapshot(i, measure_tensors(names, tensors, histograms=histograms)) for i in range(21)]
        writer.write_snapshot(snapshots[0])  # the layout too
        writer.flush()
        size, start = writer.path.stat().st_size, time.perf_counter()
        for snapshot in snapshots[1:]:
            writer.write_snapshot(snapshot)
        writer.close()
        seconds = time.perf_counter() - start
        found[histograms] = seconds / 20 / LAYERS, (writer.path.stat().st_size - size) / 20 / LAYERS
    history = History()
    for snapshot in snapshots:
        history.add_snapshot(snapshot)
    diagnose_s = seconds_of(lambda: diagnose(history.observations()), 3) / 21 / LAYERS
    read_s = seconds_of(lambda: load_record(folder / "True"), 3) / 21 / LAYERS
    return found[True][0], found[False][1], found[True][1], diagnose_s, read_s


def time_collectives(rank: int, address: str, results: str) -> None:
    """Be one of two processes that add up a snapshot's numbers; the first writes the seconds."""
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    found = []
    for size in (8, 8 * 515 * LAYERS):
        tensor = torch.zeros(size // 8, dtype=torch.float64)
        found.append(seconds_of(lambda tensor=tensor: dist.all_reduce(tensor), 30))
    if rank == 0:
        Path(results).write_text(json.dumps(found))
    dist.destroy_process_group()


def measure_collectives(folder: Path) -> tuple[float, float]:
    """Return seconds of a collective of two processes, and seconds per byte."""
    arguments = (f"file://{folder / 'store'}", str(folder / "collectives.json"))
    torch.multiprocessing.spawn(time_collectives, arguments, nprocs=2)
    small, large = json.loads((folder / "collectives.json").read_text())
    return small, (large - small) / (8 * 515 * LAYERS)


def measure() -> Constants:
    prepare()
    with tempfile.TemporaryDirectory() as name:
        return Constants(*measure_watching(), *measure_record(Path(name)), *measure_collectives(Path(name)))


def amount(value: float, unit: str) -> str:
    """Return a number with two digits and the prefix that keeps it short: 5.2 MB, 3.1 days."""
    if unit == "s":
        for name, size in (
            ("days", 86400),
            ("h", 3600),
            ("min", 60),
            ("s", 1),
            ("ms", 1e-3),
            ("µs", 1e-6),
            ("ns", 1e-9),
        ):
            if value >= size:
                return f"{np.format_float_positional(float(f'{value / size:.2g}'), trim='-')} {name}"
    for name, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{np.format_float_positional(float(f'{value / size:.2g}'), trim='-')} {name}{unit}"
    return f"{value:.2g} {unit}"


def constants_table(c: Constants) -> list[tuple[str, str]]:
    return [
        ("one snapshot with histograms, whatever its size", amount(c.snapshot_s, "s")),
        ("for each layer", amount(c.layer_s, "s")),
        ("for each element", amount(c.element_s, "s")),
        ("writing a layer with its histogram", amount(c.write_layer_s, "s")),
        ("a layer's statistics in the record", amount(c.norms_bytes, "B")),
        ("the same with its histogram", amount(c.histogram_bytes, "B")),
        ("diagnosing, for each layer of each snapshot", amount(c.diagnose_s, "s")),
        ("reading the record back (report, diagnose), the same", amount(c.read_layer_s, "s")),
        ("one collective of two processes on this machine (gloo)", amount(c.collective_s, "s")),
        ("for each byte of it", amount(c.collective_byte_s, "s")),
    ]


def paper_table(c: Constants) -> list[tuple[str, ...]]:
    """Return, for each cadence, what a run costs: seconds of watching, messages, bytes, memory, reading."""
    rows = []
    for name, (looks, histograms, further) in CADENCES.items():
        everywhere = histograms + further
        elements_ddp, elements_fsdp = PARAMETERS, PARAMETERS / RANKS
        fixed = looks * (c.snapshot_s + LAYERS * c.layer_s) + everywhere * LAYERS * c.write_layer_s
        ddp = fixed + (looks + further) * elements_ddp * c.element_s
        # Two collectives: the largest rms (8 bytes a layer), then the sums, 24 bytes and with counts 4,112 more.
        messages = 2 * (looks + further)
        payload = (looks + further) * LAYERS * (8 + 24) + everywhere * LAYERS * 8 * 514
        wire = messages * HOPS / 2 * c.collective_s + payload * c.collective_byte_s
        fsdp = fixed + (looks + further) * elements_fsdp * c.element_s + wire
        record = LAYERS * (looks * c.norms_bytes + everywhere * (c.histogram_bytes - c.norms_bytes))
        memory = LAYERS * (looks * 16 + everywhere * 4 * 514)
        reading = LAYERS * everywhere * c.read_layer_s
        rows.append(
            (f"`{name}`", f"{looks:,}", amount(ddp, "s"), amount(fsdp, "s"), f"{messages:,}", amount(payload, "B"),
             amount(record, "B"), amount(memory, "B"), amount(reading, "s"))
        )  # fmt: skip
    return rows


if __name__ == "__main__":
    constants = measure()
    print(json.dumps(asdict(constants), indent=2), file=sys.stderr)
    for row in constants_table(constants):
        print("| " + " | ".join(row) + " |")
    print()
    for row in paper_table(constants):
        print("| " + " | ".join(row) + " |")
