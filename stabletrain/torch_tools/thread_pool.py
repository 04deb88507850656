"""Recognizing that torch's threads wait for each other by spinning on a machine that other processes use too.

After each parallel operator, torch's OpenMP threads spin for milliseconds in case another one follows. While other
processes wait for the cores, this takes the time that the remaining threads need to finish: a small recurrent network
was seen to take 30 times as long as on one thread (docs/configuration.md#threads).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

WINDOW_S = 2.0  # between two looks
NUM_WINDOWS = 2  # busy ones in a row, before the pool is tested
BUSY_SHARE = 0.25  # of the time, ready to run and without a core; measured: below 0.02 on an idle machine, 0.6 beside 4
MAX_TESTS = 5
_GRAIN = 32_768  # elements for which ATen starts one more thread (at::internal::GRAIN_SIZE, torch 2.13.0)
_PAUSE_S, _NUM_PAUSES, _MIN_USED = 0.002, 10, 2
_SCHEDULER = Path("/proc/thread-self/schedstat")


class PoolWatch:
    """Says once that the threads of the pool spin on a busy machine. It looks at clocks only, once in two seconds.

    The calling thread is ready to run but has no core for a quarter of the time, which the scheduler of Linux counts;
    waiting for data or for a disk does not count. Only then is the pool tested. Nothing is said with one thread, if the
    threads sleep while they wait, or on other systems.

    Args:
        say: Receives the number of threads and the share of the time without a core, from 0 to 1.
        clock: Returns the time in seconds.
        waited: Returns the seconds for which this thread was ready but had no core; None if the system does not tell.
        num_threads: Returns the number of threads of the pool.
        spins: Returns whether the threads of the pool spin while they wait.
    """

    def __init__(
        self,
        say: Callable[[int, float], None],
        *,
        clock: Callable[[], float] = time.perf_counter,
        waited: Callable[[], float | None] | None = None,
        num_threads: Callable[[], int] = torch.get_num_threads,
        spins: Callable[[], bool] | None = None,
    ) -> None:
        self._say, self._clock, self._num_threads = say, clock, num_threads
        self._waited, self._spins = waited or seconds_without_core, spins or does_pool_spin
        self._end: float | None = None
        self._start, self._waited_before = 0.0, 0.0
        self._num_busy = 0
        self._num_tests = 0
        self._is_over = False

    def step(self) -> None:
        """Look at the clocks if the last look is two seconds ago."""
        if self._is_over or (self._end is not None and self._clock() < self._end):
            return
        now, waited = self._clock(), self._waited()
        if waited is None:
            self._is_over = True
            return
        if self._end is not None:
            self._judge((waited - self._waited_before) / (now - self._start))
            now, waited = self._clock(), self._waited() or 0.0  # the test took some
        self._start, self._waited_before, self._end = now, waited, now + WINDOW_S

    def _judge(self, share: float) -> None:
        num_threads = self._num_threads()
        self._num_busy = self._num_busy + 1 if share >= BUSY_SHARE and num_threads > 1 else 0
        if self._num_busy < NUM_WINDOWS:
            return
        self._num_tests += 1
        is_spinning = self._spins()
        self._is_over = is_spinning or self._num_tests >= MAX_TESTS
        if is_spinning:
            self._say(num_threads, min(1.0, share))


def describe_spinning(num_threads: int, share: float, remedy: str) -> str:
    """Return the note: what was measured, and the setting that helps."""
    return (
        f"torch's {num_threads} threads wait for each other by spinning, and other processes use the cores: training "
        f"had no core for {share:.0%} of the time. {remedy}"
    )


def seconds_without_core() -> float | None:
    """Return for how long the calling thread has been ready to run without a core; None where Linux does not count it.

    The second number of `schedstat` counts nanoseconds (Documentation/scheduler/sched-stats.rst); it stays 0, as the
    first does, where the kernel was built without it.
    """
    try:
        ran, waited = _SCHEDULER.read_text().split()[:2]
    except (OSError, ValueError):
        return None
    return int(waited) / 1e9 if int(ran) else None


def does_pool_spin() -> bool:
    """Return whether torch's other threads use the processor while there is nothing to do.

    After a parallel operator the calling thread sleeps for two milliseconds, and the time that the process uses
    meanwhile is that of its other threads. It takes 20 ms or longer, and is therefore asked on a busy machine only.
    """
    num_threads = torch.get_num_threads()
    if num_threads < 2:
        return False
    x = torch.ones(num_threads * _GRAIN, dtype=torch.uint8)
    num_used = 0
    for _ in range(_NUM_PAUSES):
        torch.neg(x, out=x)
        num_used += _used_in_pause() > _PAUSE_S / 2
    return num_used >= _MIN_USED


def _used_in_pause() -> float:
    """Return the processor time of the other threads while this one sleeps, in seconds."""
    before = time.process_time() - time.thread_time()
    time.sleep(_PAUSE_S)
    return time.process_time() - time.thread_time() - before
