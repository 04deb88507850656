"""Ship a record during training, until the training process ends."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from stabletrain.tracking.ship_result import ShipResult
from stabletrain.tracking.shipper import Shipper
from stabletrain.tracking.store import Unreachable

END = "end"  # the line sent when training has ended and its summary is written
MAX_BACKOFF_S = 60.0
PARENT_CHECK_S = 1.0
Emit = Callable[[dict[str, Any]], None]


def follow(shipper: Shipper, lines_in: Iterable[str], emit: Emit, interval_s: float = 2.0) -> ShipResult | None:
    """Ship every `interval_s` until training has ended, then once more.

    Training has ended when `lines_in` yields `end` or is exhausted: a pipe closes when the process at its other end
    exits, also by SIGKILL. If the server cannot be reached, the shipper tries again at growing intervals, and a last
    time at the end.

    | event | fields | when |
    |---|---|---|
    | `ready` | `run_id` `url` `view_url` `tracking_uri` | once, when the MLflow run is known |
    | `unreachable` | `reason` | the server stops answering, or refuses; again at the end if it still does |
    | `note` | `text` | something the user should know |
    | `done` | `points` `images` | last, if everything was shipped |
    | `failed` | `reason` | last, if the shipper itself failed |

    Args:
        shipper: The shipper of one run.
        lines_in: Lines from the training process.
        emit: Called with each event of the table.
        interval_s: Time between two passes.

    Returns:
        The totals over all passes, or None if the last pass failed.
    """
    session = _Session(shipper, emit)
    ended = threading.Event()
    threading.Thread(target=_listen, args=(lines_in, ended), daemon=True, name="shipper-input").start()
    parent = os.getppid()
    with _ignored_signals():
        wait_s = 0.0
        while not _wait(ended, wait_s, parent):
            wait_s = interval_s if session.attempt(ended=False) else min(max(2 * wait_s, interval_s), MAX_BACKOFF_S)
        return session.finish()


class _Session:
    def __init__(self, shipper: Shipper, emit: Emit) -> None:
        self.shipper = shipper
        self.total = ShipResult()
        self.failure: tuple[str, str] | None = None  # event and reason of the last attempt
        self._emit = emit
        self._is_ready = False
        self._current: ShipResult | None = None

    def attempt(self, *, ended: bool) -> bool:
        """Make one pass; return whether it succeeded."""
        before = self.failure
        try:
            self.shipper.ship(ended=ended, on_run=self._begin)
        except Unreachable as error:
            self.failure = ("unreachable", str(error))
        except Exception as error:
            self.failure = ("failed", str(error) or type(error).__name__)
        else:
            self.failure = None
        self._add()
        if self.failure is None:
            return True
        if before is None and not ended:
            self.emit({"event": "unreachable", "reason": self.failure[1]})
        return False

    def finish(self) -> ShipResult | None:
        """Make the last pass and report its outcome."""
        if self.attempt(ended=True):
            self.emit({"event": "done", "points": self.total.points, "images": self.total.images})
            return self.total
        assert self.failure is not None
        self.emit({"event": self.failure[0], "reason": self.failure[1]})
        return None

    def emit(self, event: dict[str, Any]) -> None:
        with contextlib.suppress(OSError, ValueError):  # the training process is gone
            self._emit(event)

    def _begin(self, result: ShipResult) -> None:
        self._current = result
        if not self._is_ready:
            self._is_ready = True
            fields = {name: getattr(result, name) for name in ("run_id", "url", "view_url", "tracking_uri")}
            self.emit({"event": "ready", **fields})

    def _add(self) -> None:
        """Add the pass to the totals; a failed one may have shipped something too."""
        result, self._current = self._current, None
        if result is not None:
            for note in result.notes:
                self.emit({"event": "note", "text": note})
            result.points += self.total.points
            result.images += self.total.images
            self.total = result


def _listen(lines: Iterable[str], ended: threading.Event) -> None:
    with contextlib.suppress(OSError, ValueError):
        for line in lines:
            if line.strip() == END:
                break
    ended.set()


def _wait(ended: threading.Event, wait_s: float, parent: int) -> bool:
    """Wait; return whether training has ended: `end` was received, the pipe closed, or the process is gone."""
    while wait_s > 0 and not ended.wait(min(wait_s, PARENT_CHECK_S)):
        if os.getppid() != parent:
            return True
        wait_s -= PARENT_CHECK_S
    return ended.is_set()


@contextlib.contextmanager
def _ignored_signals() -> Iterator[None]:
    """Ignore Ctrl-C and SIGTERM: they are meant for training, which first saves and then sends `end`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
