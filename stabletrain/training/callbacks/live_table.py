"""`console=live`: the progress bar with a table of all layers below it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
from rich.console import Console

from stabletrain.signal.snapshot import Snapshot
from stabletrain.training.callbacks.progress_bar import ProgressBar
from stabletrain.training.display.layer_states import LayerHistory
from stabletrain.training.display.layer_table import live_lines
from stabletrain.training.display.lines import Line, Lines
from stabletrain.training.display.readings import Readings
from stabletrain.vocabulary.signals import UPDATE


class LiveTable(ProgressBar):
    """Shows a row for each layer: the size of its gradient, its update ratio, and what the doctor finds there.

    Where a terminal has fewer rows than the network has layers, the first, the last and the worst layers are shown,
    and a line tells how many are not. The table stays on the screen at the end.

    Args:
        console: Where to draw; rich's own console by default.
        clock: Returns seconds.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__(console, clock)
        self._history = LayerHistory()
        self._last: Snapshot | None = None
        self._with_updates: Snapshot | None = None  # its ratios are computed when they are drawn

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the last snapshot with update ratios; draw if it is time."""
        snapshot = self._reader.snapshot
        if snapshot is not self._last:
            self._last = snapshot
            if snapshot is not None and UPDATE in snapshot.signals:
                self._with_updates = snapshot
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def view(self, readings: Readings) -> Lines:
        """Return the bar and the table."""
        snapshot, table = self._reader.snapshot, None
        if self._with_updates is not None:
            self._history.add_updates(self._with_updates)
            self._with_updates = None
        if snapshot is not None and len(snapshot.layers):
            table = self._history.states(snapshot, readings.findings or (), self._reader.layers)

        def make(width: int, height: int, ascii_only: bool) -> Sequence[Line]:
            return live_lines(readings, table, width, height, ascii_only)

        return Lines(make)
