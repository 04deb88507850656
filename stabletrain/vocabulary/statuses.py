"""How a run stands or ended: the status in `summary.json`, and the exit code of the command."""

from __future__ import annotations

RUNNING = "running"
FINISHED = "finished"
FAILED = "failed"
STOPPED = "stopped"  # by the stability policy
TERMINATED = "terminated"  # asked to stop, after saving

DONE_CODE = 0
FAILED_CODE = 1
WRONG_REQUEST_CODE = 2  # bad configuration or input
STOPPED_CODE = 3
INTERRUPTED_CODE = 130  # Ctrl-C before training began
TERMINATED_CODE = 143  # SIGTERM

EXIT_CODES = {
    FINISHED: DONE_CODE,
    FAILED: FAILED_CODE,
    STOPPED: STOPPED_CODE,
    TERMINATED: TERMINATED_CODE,
}
