"""Time the training of a run from inside; `whole_run.py` reads what is written."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

TIMES = "WHOLE_RUN_TIMES"  # environment variable with the path of the file


def write_times(start: tuple[float, float], end: tuple[float, float], loss: float) -> None:
    """Write the seconds and the CPU seconds between two `now()`, and the last validation loss."""
    seconds = dict(zip(("train_s", "train_cpu_s"), (b - a for a, b in zip(start, end, strict=True)), strict=True))
    Path(os.environ[TIMES]).write_text(json.dumps(seconds | {"loss": loss}))


def now() -> tuple[float, float]:
    """Return the time, and the CPU time of all threads of this process, in seconds."""
    return time.perf_counter(), time.process_time()
