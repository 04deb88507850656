"""A progress line per validation, where output is not a terminal."""

from __future__ import annotations

import contextlib

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from stabletrain.vocabulary import metric_names as names


class LineProgress(Callback):
    """Prints one line per validation, for logs and pipes in which a progress bar would be unreadable."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the epoch, the step and the validation metrics."""
        if trainer.is_global_zero and not trainer.sanity_checking:
            logged = {k: float(v) for k, v in trainer.callback_metrics.items()}
            shown = {k: v for k, v in logged.items() if not names.is_monitoring(k)}
            numbers = "  ".join(f"{name} {value:.4g}" for name, value in sorted(shown.items()))
            with contextlib.suppress(OSError):  # the reader of the pipe is gone; the run continues
                print(f"epoch {trainer.current_epoch + 1:>3}  step {trainer.global_step:>6}  {numbers}", flush=True)
