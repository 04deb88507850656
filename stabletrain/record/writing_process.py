"""Tell from the name of an event file when it was begun, and whether the process that writes it is still alive."""

from __future__ import annotations

import re
import socket
import time

import psutil

from stabletrain.record.reader import event_files
from stabletrain.record.run_folder import RunFolder

STALE_S = 3600.0  # without growth for this long, a record of another machine counts as ended
_EVENT_FILE = re.compile(r"^events\.out\.tfevents\.(?P<time_s>\d+\.\d+)\.(?P<host>.+)\.(?P<pid>\d+)$")


def is_training(folder: RunFolder) -> bool:
    """Return whether the process that began the newest event file is alive.

    A process of another machine counts as alive while the file grows.
    """
    files = event_files(folder.events)
    if not files:
        return False
    match = _EVENT_FILE.match(files[-1].name)
    if match is None or match["host"] != socket.gethostname():
        return time.time() - files[-1].stat().st_mtime < STALE_S
    try:
        process = psutil.Process(int(match["pid"]))
        # A process that started after the file was begun has merely got the same id.
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= float(match["time_s"]) + 1
    except psutil.Error:
        return False


def start_time_s(folder: RunFolder) -> float | None:
    """Return when the record was begun, in seconds since the epoch; None if its files do not say so."""
    files = event_files(folder.events)
    match = _EVENT_FILE.match(files[0].name) if files else None
    return float(match["time_s"]) if match else None
