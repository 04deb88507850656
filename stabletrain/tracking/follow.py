"""Ship a record during training, until the training process ends."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from stabletrain.tracking.priority import run_with_low_priority
from stabletrain.tracking.ship_result import ShipResult
from stabletrain.tracking.shipper import Shipper
from stabletrain.tracking.store import Unreachable
from stabletrain.tracking.training_pipe import TrainingPipe

MAX_BACKOFF_S = 60.0
CPU_SHARE = 0.02  # of one core, for the passes during training
MAX_INTERVAL_S = 20.0
Emit = Callable[[dict[str, Any]], None]


def follow(shipper: Shipper, lines_in: Iterable[str], emit: Emit, interval_s: float = 2.0) -> ShipResult | None:
    """Ship a record that has begun; see `follow_run`, of which this is the short form.

    Args:
        shipper: The shipper of one run.
        lines_in: Lines from the training process.
        emit: Called with each event.
        interval_s: Shortest time between two passes.

    Returns:
        The totals over all passes, or None if the last pass failed.
    """
    return follow_run(lambda: shipper, TrainingPipe(lines_in), emit, interval_s)


def follow_run(
    make_shipper: Callable[[], Shipper],
    training: TrainingPipe,
    emit: Emit,
    interval_s: float = 2.0,
) -> ShipResult | None:
    """Wait for a record, ship it in passes until training has ended, then once more.

    If the server cannot be reached, the shipper tries again at growing intervals, and a last time at the end.

    A thread of low priority does everything before the end. The last pass, for which training waits, has the priority
    of the calling thread: on a machine that others use too it would hardly get a turn otherwise.

    | event | fields | when |
    |---|---|---|
    | `ready` | `run_id` `url` `view_url` `tracking_uri` | once, when the MLflow run is known |
    | `unreachable` | `reason` | the server stops answering, or refuses; again at the end if it still does |
    | `note` | `text` | something the user should know |
    | `done` | `points` `images` | last, if everything was shipped |
    | `failed` | `reason` | last, if the shipper itself failed |

    Args:
        make_shipper: Returns the shipper of the run; called once the record has begun.
        training: The training process.
        emit: Called with each event of the table.
        interval_s: Shortest time between two passes. The passes during training take about `CPU_SHARE` of one core at
            most: a pass that is expensive is followed by a longer wait, of up to `MAX_INTERVAL_S`.

    Returns:
        The totals over all passes; None if the last pass failed, or if training ended before there was a record.
    """
    session = _Session(make_shipper, emit)

    def ship_until_the_end() -> None:
        wait_s = 0.0
        while training.wait_for_begin() and not training.wait_for_end(wait_s):
            began_s = time.process_time()
            is_shipped = session.attempt(ended=False)
            interval = max(interval_s, min((time.process_time() - began_s) / CPU_SHARE, MAX_INTERVAL_S))
            wait_s = interval if is_shipped else min(max(2 * wait_s, interval_s), MAX_BACKOFF_S)

    with _ignored_signals():
        run_with_low_priority(ship_until_the_end, lambda: training.wait_for_end(0))
        return session.finish() if training.has_begun else None


class _Session:
    def __init__(self, make_shipper: Callable[[], Shipper], emit: Emit) -> None:
        self.total = ShipResult()
        self.failure: tuple[str, str] | None = None  # event and reason of the last attempt
        self._make_shipper = make_shipper
        self._shipper: Shipper | None = None
        self._emit = emit
        self._is_ready = False
        self._current: ShipResult | None = None

    def attempt(self, *, ended: bool) -> bool:
        """Make one pass; return whether it succeeded."""
        before = self.failure
        try:
            self._shipper = self._shipper or self._make_shipper()
            if not ended and self.failure is None and not self._shipper.has_news():
                return True
            self._shipper.ship(ended=ended, on_run=self._begin)
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


@contextlib.contextmanager
def _ignored_signals() -> Iterator[None]:
    """Ignore Ctrl-C, SIGTERM and SIGHUP: they are meant for training, which first saves and then sends `end`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
