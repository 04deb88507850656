"""How a run stands, in words: it trains, has ended, or its process is gone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from stabletrain.live_page.run_files import modified_ns
from stabletrain.record.run_folder import RunFolder
from stabletrain.record.writing_process import is_training
from stabletrain.vocabulary import statuses

TRAINING, STARTING, KILLED = "training", "starting", "killed"
PATIENCE_S = 600.0  # from the folder's creation to the first event: data may be downloaded before

WORDS = {
    TRAINING: "Training now.",
    STARTING: "Starting: nothing has been recorded yet.",
    KILLED: "Killed: its process is gone, and it wrote no verdict. resume=auto continues it from its last checkpoint.",
    statuses.FINISHED: "The run finished.",
    statuses.FAILED: "The run failed before its end.",
    statuses.STOPPED: "Stopped by the stability policy.",
    statuses.TERMINATED: "Stopped on request, after saving; resume=auto continues it.",
}


def state_of(folder: RunFolder, summary: Mapping[str, Any]) -> str:
    """Return the status in the summary; for a run without a final one, `training`, `starting` or `killed`.

    Args:
        folder: The run's folder.
        summary: Content of its `summary.json`.
    """
    status = summary.get("status")
    if isinstance(status, str) and status != statuses.RUNNING:
        return status
    try:
        if is_training(folder):
            return TRAINING
    except OSError:  # deleted in between
        return KILLED
    age_s = time.time() - modified_ns(folder.path) / 1e9
    return STARTING if not modified_ns(folder.events) and age_s < PATIENCE_S else KILLED


def is_open(state: str) -> bool:
    """Return whether a run may go on by itself."""
    return state in (TRAINING, STARTING)
