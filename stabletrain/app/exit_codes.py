"""What the exit codes mean, in words: for the help text and for the table of a sweep."""

from __future__ import annotations

from stabletrain.vocabulary.statuses import (
    DONE_CODE,
    FAILED_CODE,
    INTERRUPTED_CODE,
    STOPPED_CODE,
    TERMINATED_CODE,
    WRONG_REQUEST_CODE,
)

MEANINGS = {
    DONE_CODE: "done",
    FAILED_CODE: "the run failed",
    WRONG_REQUEST_CODE: "the request was wrong",
    STOPPED_CODE: "stopped by the stability policy",
    INTERRUPTED_CODE: "interrupted before training began",
    TERMINATED_CODE: "asked to stop, after saving",
}
WORDS = {
    DONE_CODE: "done",
    FAILED_CODE: "failed",
    WRONG_REQUEST_CODE: "refused",
    STOPPED_CODE: "stopped",
    INTERRUPTED_CODE: "interrupted",
    TERMINATED_CODE: "asked to stop",
}
