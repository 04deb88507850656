"""Let work make way for training, as long as training goes on."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable

# A third of the share of a thread at 0, while both want the same core. With 10 it would be a tenth: beside four busy
# processes on two cores, the imports would then take two minutes, for which the end of a short run would have to wait.
NICENESS = 5
CHECK_S = 1.0


def run_with_low_priority(work: Callable[[], None], is_urgent: Callable[[], bool]) -> None:
    """Run `work` in a thread of low priority, and return when it is done.

    Linux keeps a niceness for each thread, so that the calling thread keeps its priority; on other systems it loses
    it, too. Raising a priority again needs a privilege: it is tried.

    Args:
        work: The work.
        is_urgent: Whether training waits for it by now.
    """
    before = os.getpriority(os.PRIO_PROCESS, 0)

    def run() -> None:
        lower_priority()
        work()

    thread = threading.Thread(target=run, daemon=True, name="shipper-low-priority")
    thread.start()
    while thread.is_alive():
        thread.join(CHECK_S)
        if is_urgent() and thread.native_id is not None:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, thread.native_id, before)


def lower_priority() -> None:
    """Lower the priority of the calling thread; on other systems than Linux, of the whole process."""
    with contextlib.suppress(OSError):
        os.nice(max(0, NICENESS - os.getpriority(os.PRIO_PROCESS, 0)))
