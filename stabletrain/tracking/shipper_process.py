"""The shipper in a process of its own, beside the training process."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stabletrain.tracking.training_pipe import BEGIN, END

PROGRAM = "stabletrain.app.shipping_program"
# Libraries start a thread for each core when they are imported. What the process computes is too little for that.
ENVIRONMENT = {
    name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
}
IMPORTED = "imported"  # the event that says that the program has imported MLflow, and ships from now on
IMPORT_TIMEOUT_S = 60.0  # on a busy machine; 4 s of CPU time
Export = Callable[[Path], None]


class ShipperProcess:
    """Ships the record of a run during training, in passes of low priority.

    Training does not wait for it until the end. If the training process ends for whatever reason, SIGKILL included,
    the pipe to the shipper's standard input closes: the shipper ships the rest and exits. Start it as early as
    possible: it imports MLflow, which takes seconds, and waits for `begin`.

    Args:
        run_dir: The run's folder; it need not exist yet.
        on_event: Called from a thread with each event that the shipper reports.
        export: Called by `finish` with a folder, to export the best network there; without it, or if it raises an
            exception, the shipper builds the network anew.
    """

    def __init__(self, run_dir: Path, on_event: Callable[[dict[str, Any]], None], export: Export | None = None) -> None:
        self._on_event = on_event
        self._export = export
        self._exported = Path(tempfile.mkdtemp(prefix="stabletrain-model-"))  # which the shipper deletes
        self._process = subprocess.Popen(
            [sys.executable, "-m", PROGRAM, str(run_dir), str(self._exported)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | ENVIRONMENT,
            # Ctrl-C is meant for training; the shipper exits after it. Not a session of its own: with autogroups, Linux
            # gives every session the same share of the cores, whatever the niceness of its threads.
            process_group=0,
        )
        self._has_imported = threading.Event()
        self._listener = threading.Thread(target=self._listen, name="shipper", daemon=True)
        self._listener.start()

    def begin(self) -> None:
        """Tell the shipper that the record exists."""
        self._say(BEGIN)

    def finish(self, timeout_s: float) -> bool:
        """Ask the shipper to ship the rest and exit; kill it after `timeout_s`. Return whether it exited in time.

        In a short run it may still be importing; that time is not counted.
        """
        assert self._process.stdin is not None
        self._say(END)
        if self._export is not None and self._process.poll() is None:
            exporting = threading.Thread(target=self._try_to_export, args=(self._export,), daemon=True)
            exporting.start()
            exporting.join(timeout_s)
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._process.stdin.close()
        self._has_imported.wait(IMPORT_TIMEOUT_S)
        try:
            self._process.wait(timeout_s)
            return True
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            shutil.rmtree(self._exported, ignore_errors=True)
            return False
        finally:
            self._listener.join(timeout=5)

    def _try_to_export(self, export: Export) -> None:
        with contextlib.suppress(Exception):
            export(self._exported)

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # it has exited already
            self._process.stdin.write(f"{word}\n")
            self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if event.get("event") == IMPORTED:
                    self._has_imported.set()
                else:
                    self._on_event(event)
        self._has_imported.set()  # or it has exited
