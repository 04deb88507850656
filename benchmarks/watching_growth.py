"""Measure how the cost of measuring and writing a snapshot grows with the number of layers and of elements."""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from stabletrain.record.writer import RecordWriter
from stabletrain.signal.watch import Watch

LAYERS, FIXED_ELEMENTS = (10, 30, 100, 300, 1000), 1_000_000
ELEMENTS, FIXED_LAYERS = (100_000, 1_000_000, 10_000_000, 100_000_000), 100


class Point:
    """A model that consists only of parameters with gradients."""

    def __init__(self, num_layers: int, num_elements: int, folder: Path, device: torch.device) -> None:
        self.num_layers, self.num_elements = num_layers, num_elements
        size = num_elements // num_layers
        model = nn.ParameterList(nn.Parameter(torch.empty(size, device=device)) for _ in range(num_layers))
        for parameter in model:
            parameter.grad = torch.randn(size, device=device)
        self.device, self.watch = device, Watch(model)
        self.writer = RecordWriter(folder / f"{num_layers}_{num_elements}")
        self.times: list[float] = []

    def measure(self) -> None:
        """Time a single snapshot until it is written to the file; on a GPU this includes waiting for the result."""
        start = time.perf_counter()
        self.writer.write_snapshot(self.watch.step())
        self.writer.flush()
        self.times.append(time.perf_counter() - start)


def grow(rounds: int, folder: Path, device: torch.device) -> dict[str, Any]:
    """Return milliseconds per snapshot along both axes, and the slopes of their logarithms."""
    along_layers = [Point(n, FIXED_ELEMENTS, folder, device) for n in LAYERS]
    along_elements = [Point(FIXED_LAYERS, n, folder, device) for n in ELEMENTS]
    points = along_layers + along_elements
    for point in points:  # the first makes what later ones only use
        point.measure()
        point.times.clear()
    for _ in range(rounds):
        for point in random.sample(points, len(points)):
            point.measure()
    return {
        "layers": _summary(along_layers, [p.num_layers for p in along_layers]),
        "elements": _summary(along_elements, [p.num_elements for p in along_elements]),
    }


def _summary(points: list[Point], sizes: list[int]) -> dict[str, Any]:
    medians = [1e3 * statistics.median(p.times) for p in points]
    quartiles = [[1e3 * float(q) for q in np.quantile(p.times, [0.25, 0.75])] for p in points]
    logarithms = np.log10(sizes), np.log10(medians)
    return {
        "sizes": sizes,
        "ms": medians,
        "quartiles_ms": quartiles,
        "slope": float(np.polyfit(*logarithms, 1)[0]),  # 1: proportional
        "last_slope": float(np.diff(logarithms[1])[-1] / np.diff(logarithms[0])[-1]),
    }
