"""Let a thread make way for training."""

from __future__ import annotations

import contextlib
import os

NICENESS = 10  # about a tenth of the share of a thread at 0, while both want the same core


def lower_priority() -> None:
    """Lower the priority of the calling thread; on other systems than Linux, of the whole process.

    Linux keeps a niceness for each thread, and only an administrator may raise a priority again: work that must not
    wait, such as the last pass when training has ended, is therefore done by another thread.
    """
    with contextlib.suppress(OSError):
        os.nice(max(0, NICENESS - os.getpriority(os.PRIO_PROCESS, 0)))
