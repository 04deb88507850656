"""A table of numbers by step and name that keeps a bounded number of rows."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

MAX_ROWS = 4096  # as `diagnosis.history`, so that a replay of the kept rows equals what the doctor kept during the run


class StepTable:
    """Keeps rows of numbers by step: all of them up to `max_rows`, beyond that every 2nd, 4th, … one.

    Of the columns that are counts, the largest of the rows that were dropped is kept beside the row before them, and
    the first row with a count above 0 and the last row are kept in addition, so that no Inf or NaN is lost.

    A step that was recorded before (a resumed run) replaces the numbers that it has.

    Args:
        max_rows: Maximum number of rows kept; above 1.
    """

    def __init__(self, max_rows: int = MAX_ROWS) -> None:
        self.max_rows = max_rows
        self.stride = 1
        self.num_seen = 0
        self.columns: dict[str, int] = {}
        self.is_count = np.zeros(0, bool)
        self._steps: list[int] = []
        self._rows: list[np.ndarray] = []
        self._peaks: dict[int, np.ndarray] = {}  # by step: largest counts of the rows dropped after it
        self._first_bad: tuple[int, np.ndarray] | None = None
        self._last: tuple[int, np.ndarray] | None = None

    def places(self, names: list[str], is_count: bool) -> np.ndarray:
        """Return the columns of some names, which are appended if they are new."""
        num = len(self.columns)
        found = np.array([self.columns.setdefault(name, len(self.columns)) for name in names], np.intp)
        self.is_count = np.append(self.is_count, np.full(len(self.columns) - num, is_count))
        return found

    def new_row(self) -> np.ndarray:
        """Return a row without numbers."""
        return np.full(len(self.columns), np.nan, np.float32)

    def add(self, step: int, row: np.ndarray) -> None:
        """Add the numbers of a step, NaN where there is none. The array is kept."""
        if self._last is not None and step <= self._last[0]:
            self._put_back(step, row)
            return
        is_bad = self._has_counts(row)
        if is_bad and self._first_bad is None:
            self._first_bad = step, row
        if self.num_seen % self.stride == 0:
            self._steps.append(step)
            self._rows.append(row)
            if len(self._rows) > self.max_rows:
                self._thin()
        elif is_bad:
            self._merge_counts(self._steps[-1], row)
        self._last = step, row
        self.num_seen += 1

    def _put_back(self, step: int, row: np.ndarray) -> None:
        """Replace or insert the row of an earlier step. A step between rows that were thinned leaves its counts."""
        assert self._last is not None
        place = bisect_left(self._steps, step)
        is_bad = self._has_counts(row)
        if is_bad and (self._first_bad is None or step < self._first_bad[0]):
            self._first_bad = step, row
        if place < len(self._steps) and self._steps[place] == step:
            self._rows[place] = _joined(self._rows[place], row)
        elif self.stride == 1:
            self._steps.insert(place, step)
            self._rows.insert(place, row)
            self.num_seen += 1
            if len(self._rows) > self.max_rows:
                self._thin()
        elif is_bad and place:
            self._merge_counts(self._steps[place - 1], row)
        for name in ("_last", "_first_bad"):
            kept = getattr(self, name)
            if kept is not None and kept[0] == step:
                setattr(self, name, (step, _joined(kept[1], row)))

    def _has_counts(self, row: np.ndarray) -> bool:
        return bool((row[self.is_count[: len(row)]] > 0).any())

    def _merge_counts(self, step: int, row: np.ndarray) -> None:
        counts = np.where(self.is_count[: len(row)], row, np.nan).astype(np.float32)
        if step in self._peaks:
            counts = _largest(self._peaks[step], counts)
        self._peaks[step] = counts

    def _thin(self) -> None:
        for kept, dropped, row in zip(self._steps[::2], self._steps[1::2], self._rows[1::2], strict=False):
            if self._has_counts(row):
                self._merge_counts(kept, row)
            if dropped in self._peaks:
                self._merge_counts(kept, self._peaks.pop(dropped))
        self._steps, self._rows, self.stride = self._steps[::2], self._rows[::2], 2 * self.stride

    def sampled(self) -> tuple[np.ndarray, np.ndarray]:
        """Return steps (T,) and values (T, C), float32, of every `stride`-th row: at most `max_rows`."""
        return np.array(self._steps, np.int64), self._stacked(self._rows)

    def shown(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the same with the largest counts of the rows between, the first row with a count and the last row."""
        rows = dict(zip(self._steps, self._rows, strict=True))
        for step, counts in self._peaks.items():
            rows[step] = _largest(rows[step], counts)
        for extra in (self._first_bad, self._last):
            if extra is not None:
                rows.setdefault(*extra)
        steps = sorted(rows)
        return np.array(steps, np.int64), self._stacked([rows[step] for step in steps])

    @property
    def is_thinned(self) -> bool:
        """Whether rows were dropped."""
        return self.stride > 1

    def _stacked(self, rows: list[np.ndarray]) -> np.ndarray:
        values = np.full((len(rows), len(self.columns)), np.nan, np.float32)
        for place, row in enumerate(rows):
            values[place, : len(row)] = row
        return values


def _joined(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return the new numbers, and the old ones where there is no new one."""
    joined = np.full(max(len(old), len(new)), np.nan, np.float32)
    joined[: len(old)] = old
    known = ~np.isnan(new)
    joined[: len(new)][known] = new[known]
    return joined


def _largest(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the larger of two rows, whose lengths may differ; a number is larger than none."""
    length = max(len(one), len(other))
    padded = [np.append(x, np.full(length - len(x), np.nan, np.float32)) for x in (one, other)]
    return np.fmax(*padded)
