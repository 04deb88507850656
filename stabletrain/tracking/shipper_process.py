"""The shipper in a process of its own, beside the training process."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any


class ShipperProcess:
    """Runs `stabletrain sync RUN_DIR --follow` during training.

    Training does not wait for it until the end. If the training process ends for whatever reason, SIGKILL included,
    the pipe to the shipper's standard input closes: the shipper ships the rest and exits.

    Args:
        run_dir: The run's folder.
        on_event: Called from a thread with each event that the shipper reports.
    """

    def __init__(self, run_dir: Path, on_event: Callable[[dict[str, Any]], None]) -> None:
        self._on_event = on_event
        self._process = subprocess.Popen(
            [sys.executable, "-m", "stabletrain", "sync", str(run_dir), "--follow"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is meant for training; the shipper exits after it
        )
        self._listener = threading.Thread(target=self._listen, name="shipper", daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            self._on_event(event)

    def finish(self, timeout_s: float) -> bool:
        """Ask the shipper to ship the rest and exit; kill it after `timeout_s`. Return whether it exited in time."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("end\n")
            self._process.stdin.close()
        except (BrokenPipeError, ValueError):
            pass  # it has exited already
        try:
            self._process.wait(timeout_s)
            return True
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False
        finally:
            self._listener.join(timeout=5)
