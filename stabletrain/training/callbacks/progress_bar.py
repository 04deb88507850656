"""The progress bar of a run in a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import rich
from pytorch_lightning.trainer.states import TrainerFn
from rich.console import Console
from rich.live import Live

from stabletrain.training.display.lines import Line, Lines
from stabletrain.training.display.numbers import part_of
from stabletrain.training.display.readings import Readings
from stabletrain.training.display.run_reader import RunReader
from stabletrain.training.display.status_lines import status_lines
from stabletrain.training.display.throttle import Throttle
from stabletrain.training.lightning_packages import Callback

PAUSE_S = 0.2  # between two drawings
PATIENCE_S = 0.5  # before a validation is mentioned
NEVER = float("inf")
CLOSED = (OSError, SystemExit)  # the terminal is gone; rich exits where its pipe is broken


class ProgressBar(Callback):
    """Shows progress, loss, a validation metric, the range of the layers' gradients and the doctor's state.

    ```
    epoch 17/30  ━━━━━━━━━━━━━╸━━━━━━━━━━━━  step   625/1,170  24 steps/s  0:23 left
    loss 0.04921  val/accuracy 0.9704  grad 1e-2 … 3e-2  healthy
    ```

    Nothing is read between two drawings, which take at most one percent of the time, and there is no thread: a step
    costs a look at the clock. Lines that are printed meanwhile appear above the bar. Under several processes, only the
    first one draws.

    Args:
        console: Where to draw; rich's own console by default.
        clock: Returns seconds.

    Example:
        trainer = pl.Trainer(callbacks=[ProgressBar()], enable_progress_bar=False)
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.perf_counter) -> None:
        self._console = console
        self._clock = clock
        self._throttle = Throttle(PAUSE_S, clock)
        self._throttle.next_s = NEVER
        self._reader = RunReader(clock)
        self._readings = Readings()
        self._live: Live | None = None
        self._is_closed = False
        self._outputs: Any = None
        self._batch_idx = -1

    # Training

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show a long check of the validation, too."""
        self._throttle.wait(PATIENCE_S if trainer.is_global_zero else NEVER)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the bar for the first time."""
        self._throttle.next_s = NEVER
        self._outputs, self._batch_idx = None, -1
        if trainer.is_global_zero:
            self._reader.start(trainer, pl_module)
            self._draw(trainer, pl_module)
            self._throttle.next_s = 0.0  # again after the first step

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the number of the epoch."""
        self._reader.start_epoch(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw if it is time."""
        self._outputs, self._batch_idx = outputs, batch_idx
        if self._clock() >= self._throttle.next_s:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the last state, which stays on the screen."""
        self._finish(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Draw the last state: Ctrl-C, a stop by the doctor, or an error."""
        self._finish(trainer, pl_module)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the terminal back."""
        self._stop()

    # Validation and test

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock of the steps."""
        self._begin_aside(trainer)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Mention a validation that takes long."""
        if self._clock() >= self._throttle.next_s:
            counts = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
            self._mention(trainer, pl_module, f"validating {part_of(batch_idx, counts, dataloader_idx)}")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep a metric to show, and go on."""
        if not trainer.sanity_checking and trainer.is_global_zero:
            self._reader.validated(trainer)
        self._end_aside(trainer)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show nothing at first: most tests are short."""
        self._begin_aside(trainer)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Mention a test that takes long."""
        if self._clock() >= self._throttle.next_s:
            self._mention(trainer, pl_module, f"testing {part_of(batch_idx, trainer.num_test_batches, dataloader_idx)}")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove what was shown."""
        self._end_aside(trainer)

    def _begin_aside(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero:
            self._reader.pace.leave()
            self._throttle.wait(PATIENCE_S)

    def _end_aside(self, trainer: pl.Trainer) -> None:
        self._reader.pace.come_back()
        if not trainer.is_global_zero:
            return
        if trainer.state.fn == TrainerFn.FITTING:
            self._throttle.next_s = 0.0
        else:
            self._stop()

    def _mention(self, trainer: pl.Trainer, module: pl.LightningModule, activity: str) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._draw(trainer, module, activity)
            return
        start = self._clock()
        self._show(Lines(lambda width, height, ascii_only: [[(activity, "cyan")]]), is_transient=True)
        self._throttle.drawn(start)

    # Drawing

    def view(self, readings: Readings) -> Lines:
        """Return what to show of a moment."""

        def make(width: int, height: int, ascii_only: bool) -> Sequence[Line]:
            return status_lines(readings, width, ascii_only)

        return Lines(make)

    def _draw(self, trainer: pl.Trainer, module: pl.LightningModule, activity: str = "") -> None:
        self._readings = self._reader.read(trainer, module, self._outputs, self._batch_idx, activity)
        start = self._clock()
        self._show(self.view(self._readings))
        self._throttle.drawn(start)

    def _show(self, lines: Lines, is_transient: bool = False) -> None:
        if self._is_closed:
            return
        try:
            if self._live is not None and self._live.transient != is_transient:
                self._live.stop()  # the check of the validation, before training
                self._live = None
            if self._live is None:
                self._live = self._open(lines, is_transient)
            else:
                self._live.update(lines, refresh=True)
        except CLOSED:  # the run goes on without a bar
            self._is_closed = True
            self._stop()

    def _open(self, lines: Lines, is_transient: bool) -> Live:
        live = Live(
            lines,
            console=self._console or rich.get_console(),
            auto_refresh=False,
            transient=is_transient,
            redirect_stderr=sys.stderr.isatty(),
            vertical_overflow="crop",
        )
        live.start(refresh=True)
        return live

    def _finish(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Draw once more with the last values and leave it on the screen."""
        self._throttle.next_s = NEVER
        if self._live is None or self._live.transient:
            self._stop()
            return
        try:
            readings = self._reader.read(trainer, module, self._outputs, self._batch_idx, is_over=True)
        except RuntimeError:  # of a GPU that has failed: nothing can be read from it any more
            readings = replace(self._readings, is_over=True, activity="")
        self._show(self.view(readings))
        self._stop()

    def _stop(self) -> None:
        self._throttle.next_s = NEVER
        self._outputs = None
        live, self._live = self._live, None
        if live is not None:
            with contextlib.suppress(*CLOSED):
                live.stop()
