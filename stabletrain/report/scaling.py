"""Throughput of a run, and scaling efficiency over several processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from stabletrain.record.reader import Record
from stabletrain.vocabulary import metric_names as names


@dataclass(frozen=True)
class Speed:
    """Throughput of a run.

    Attributes:
        world_size: Number of processes.
        samples_per_second: Training examples per second over all processes; None if unknown.
    """

    world_size: int
    samples_per_second: float | None


def speed_of(record: Record, steps: Any, seconds: Any) -> Speed:
    """Return the median of the recorded throughput; if none was recorded, steps times batch size over total time."""
    parameters = record.info.get("parameters") or {}
    world_size = _whole(record.info.get("world_size")) or (
        _whole(parameters.get("trainer.devices")) * max(_whole(parameters.get("trainer.num_nodes")), 1) or 1
    )
    series = record.scalars.get(names.SAMPLES_PER_SECOND)
    if series is not None and series.values:
        return Speed(world_size, float(median(series.values)))
    batch = _whole(parameters.get("data.batch_size"))
    known = batch and isinstance(steps, int) and isinstance(seconds, int | float) and seconds > 0
    return Speed(world_size, steps * batch / seconds if known else None)


def efficiencies(speeds: Sequence[Speed]) -> list[float | None]:
    r"""Return each run's scaling efficiency.

    .. math:: E_n = \frac{S_n / n}{S_m / m}

    with S the examples per second and m the smallest number of processes among the runs; of several such runs, the
    fastest counts. This is the usual definition of parallel efficiency (Amdahl 1967) with m in place of 1.
    """
    known = [s for s in speeds if s.samples_per_second]
    if not known:
        return [None] * len(speeds)
    smallest = min(s.world_size for s in known)
    base = max((s.samples_per_second or 0.0) / s.world_size for s in known if s.world_size == smallest)
    return [s.samples_per_second / s.world_size / base if s.samples_per_second else None for s in speeds]


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
