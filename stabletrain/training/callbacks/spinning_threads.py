"""A note when torch's threads wait for each other by spinning on a busy machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl

from stabletrain.torch_tools.thread_pool import PoolWatch, describe_spinning
from stabletrain.training.lightning_packages import Callback

REMEDY = (
    "threads=1 avoids the wait; so does OMP_WAIT_POLICY=PASSIVE, which the command sets unless the environment has "
    "another policy."
)


class SpinningThreads(Callback):
    """Says once during training that torch's threads spin while other processes need the cores. Observes only.

    Args:
        say: Prints a line; `print` by default.
    """

    def __init__(self, say: Callable[[str], None] = print) -> None:
        self._say = say
        self._watch: PoolWatch | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin, on the CPU and in the first process only."""
        is_watched = trainer.is_global_zero and pl_module.device.type == "cpu"
        self._watch = PoolWatch(self._tell) if is_watched else None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the clocks."""
        if self._watch is not None:
            self._watch.step()

    def _tell(self, num_threads: int, share: float) -> None:
        self._say(describe_spinning(num_threads, share, REMEDY))
