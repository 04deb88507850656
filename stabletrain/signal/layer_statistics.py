"""One signal of all layers on one step, stored as arrays, which are cheap to create, to merge and to write."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from stabletrain.signal.histogram import NONFINITE_BIN, NUM_BINS, ZERO_BIN, Histogram


@dataclass(frozen=True)
class LayerStatistics:
    """Statistics of one layer's gradient or of another of its signals.

    Attributes:
        layer: `L<index in forward order>.<parameter path>`.
        size: Number of elements.
        rms: Root mean square over the finite elements, or None if none is finite.
        num_nonfinite: Number of Inf and NaN.
        histogram: Counts by binary exponent; None if only norms were requested.
    """

    layer: str
    size: int
    rms: float | None
    num_nonfinite: int
    histogram: Histogram | None = None


@dataclass(frozen=True)
class Arrays:
    """The measured statistics of L tensors.

    Attributes:
        rms: (L,) float64, over the finite elements; NaN where none is finite.
        num_nonfinite: (L,) int64.
        counts: (L, 512) int32 or int64, by bin sign·256 + exponent; None if only norms were requested.
        special: (L, 2) int64, number of subnormals and of NaN; None if `counts` is None.
    """

    rms: np.ndarray
    num_nonfinite: np.ndarray
    counts: np.ndarray | None = None
    special: np.ndarray | None = None


class Measures(Sequence[LayerStatistics]):
    """A sequence of `LayerStatistics` in forward order, which are created on access.

    Args:
        layers: Layer names, (L,).
        sizes: (L,) int64, numbers of elements.
        arrays: The statistics, or a function that returns them. It is called on first use, and may wait for a GPU.
        with_counts: Whether exponents were counted.
        on_device: Whether a GPU may still be computing the statistics.
    """

    __slots__ = ("_arrays", "layers", "on_device", "sizes", "with_counts")  # one is created on every step

    def __init__(
        self,
        layers: Sequence[str],
        sizes: np.ndarray,
        arrays: Arrays | Callable[[], Arrays],
        *,
        with_counts: bool,
        on_device: bool = False,
    ) -> None:
        self.layers = tuple(layers)
        self.sizes = sizes
        self.with_counts = with_counts
        self.on_device = on_device
        self._arrays = arrays

    @classmethod
    def of(cls, layers: Sequence[LayerStatistics]) -> Measures:
        """Return statistics as arrays; all or none of them have a histogram. Unknown signs count as positive."""
        if isinstance(layers, cls):
            return layers
        histograms = [x.histogram for x in layers if x.histogram is not None]
        assert len(histograms) in (0, len(layers)), "some layers have a histogram, some do not"
        counts = np.zeros((len(histograms), 2 * NUM_BINS), np.int64)
        special = np.zeros((len(histograms), 2), np.int64)
        for row, histogram in enumerate(histograms):
            negative = np.zeros(NUM_BINS, np.int64) if histogram.negative is None else histogram.negative
            counts[row] = np.concatenate([histogram.counts - negative, negative])
            special[row] = histogram.num_subnormal or 0, histogram.num_nan or 0
        arrays = Arrays(
            np.array([math.nan if x.rms is None else x.rms for x in layers], np.float64),
            np.array([x.num_nonfinite for x in layers], np.int64),
            counts if histograms else None,
            special if histograms else None,
        )
        sizes = np.array([x.size for x in layers], np.int64)
        return cls([x.layer for x in layers], sizes, arrays, with_counts=bool(histograms))

    @property
    def arrays(self) -> Arrays:
        """The statistics; the first access may wait for a GPU."""
        if callable(self._arrays):
            self._arrays = self._arrays()
        return self._arrays

    def __len__(self) -> int:
        return len(self.layers)

    @overload
    def __getitem__(self, index: int) -> LayerStatistics: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[LayerStatistics, ...]: ...
    def __getitem__(self, index: int | slice) -> LayerStatistics | tuple[LayerStatistics, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        arrays = self.arrays
        rms = float(arrays.rms[index])
        return LayerStatistics(
            self.layers[index],
            int(self.sizes[index]),
            None if math.isnan(rms) else rms,
            int(arrays.num_nonfinite[index]),
            self._histogram(index),
        )

    def quantiles(self, shares: Sequence[float]) -> np.ndarray:
        """Return quantiles of |x|, exact to their bin (a factor of 2).

        Args:
            shares: Fractions of the elements below each quantile, 0 to 1.

        Returns:
            (L, len(shares)) float64; NaN for layers without a finite element.
        """
        from stabletrain.signal.kernels.quantiles import find_quantiles_

        assert self.arrays.counts is not None
        found = np.empty((len(self), len(shares)))
        find_quantiles_(self.arrays.counts, np.array(shares, dtype=np.float64), found)
        return found

    def shifted(self, exponent: int) -> Measures:
        """Return the statistics of x · 2**exponent, for example to undo the factor of a loss scaler.

        Whole bins are moved. Elements that leave the normal range of float32 are counted with the zeros or in the last
        finite bin.
        """

        def shift() -> Arrays:
            arrays = self.arrays
            counts = None if arrays.counts is None else _shift_bins(arrays.counts, exponent)
            return Arrays(arrays.rms * 2.0**exponent, arrays.num_nonfinite, counts, arrays.special)

        return Measures(self.layers, self.sizes, shift, with_counts=self.with_counts, on_device=self.on_device)

    def _histogram(self, index: int) -> Histogram | None:
        counts, special = self.arrays.counts, self.arrays.special
        if counts is None or special is None:
            return None
        row = counts[index].astype(np.int64)
        magnitudes = row[:NUM_BINS] + row[NUM_BINS:]
        return Histogram(magnitudes, row[NUM_BINS:].copy(), int(special[index, 0]), int(special[index, 1]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Measures{tuple(self)}"


def merge(parts: Sequence[Arrays], part_sizes: Sequence[np.ndarray]) -> Arrays:
    """Return the statistics of whole tensors from those of their parts: micro-batches, or shards of several processes.

    Args:
        parts: The statistics of each part.
        part_sizes: For each part, its numbers of elements, (L,) int64.
    """
    num_nonfinite = np.sum([part.num_nonfinite for part in parts], axis=0)
    num_finite = [n - part.num_nonfinite for n, part in zip(part_sizes, parts, strict=True)]
    whole = np.sum(num_finite, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        roots = [
            np.where(n > 0, np.nan_to_num(part.rms) * np.sqrt(n / whole), 0.0)
            for n, part in zip(num_finite, parts, strict=True)
        ]
    rms = np.where(whole > 0, _hypot(roots), np.nan)
    if any(part.counts is None for part in parts):
        return Arrays(rms, num_nonfinite)
    add_up: Any = np.sum
    counts, special = (
        add_up([getattr(part, name) for part in parts], axis=0, dtype=np.int64) for name in ("counts", "special")
    )
    return Arrays(rms, num_nonfinite, counts, special)


def _hypot(columns: Sequence[np.ndarray]) -> np.ndarray:
    result = columns[0]
    for column in columns[1:]:
        result = np.hypot(result, column)
    return result


def _shift_bins(counts: np.ndarray, exponent: int) -> np.ndarray:
    """Move bins 1 to 254 of both signs by `exponent` bins."""
    places = np.clip(np.arange(NUM_BINS) + exponent, ZERO_BIN, NONFINITE_BIN - 1)
    places[[ZERO_BIN, NONFINITE_BIN]] = ZERO_BIN, NONFINITE_BIN
    shifted = np.zeros_like(counts)
    for sign in (0, NUM_BINS):
        for k in range(NUM_BINS):
            shifted[:, places[k] + sign] += counts[:, k + sign]
    return shifted
