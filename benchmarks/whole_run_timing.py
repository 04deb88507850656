"""Time the training of a run from inside; `whole_run.py` reads what is written."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

TIMES = "WHOLE_RUN_TIMES"  # environment variable with the path of the file


@contextmanager
def timed() -> Iterator[dict[str, Any]]:
    """Write the seconds and CPU seconds of a block, and what it stores in the dictionary."""
    about: dict[str, Any] = {}
    start, cpu = time.perf_counter(), time.process_time()
    yield about
    about |= {"fit_s": time.perf_counter() - start, "fit_cpu_s": time.process_time() - cpu}
    Path(os.environ[TIMES]).write_text(json.dumps(about))


class TimedTrainer(pl.Trainer):
    """A trainer that times `fit`."""

    def fit(self, *args: Any, **kwargs: Any) -> None:
        """Fit; write the seconds and the last validation loss."""
        with timed() as about:
            super().fit(*args, **kwargs)
            about["loss"] = float(self.callback_metrics["val/loss"])
