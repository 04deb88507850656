"""Which of a run's processes speaks and writes, and what it says first. Imports nothing, so that it is said at once."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence


def is_first_process() -> bool:
    """Return whether this process is the one that writes."""
    if "RANK" in os.environ:  # set by torchrun; under srun, Slurm may number the processes differently
        return os.environ["RANK"] == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK"))


def announce_composing(words: Sequence[object]) -> None:
    """Print what is being composed, before the imports that take seconds.

    Args:
        words: What was typed: overrides, and the `config.yaml` to start from.
    """
    if is_first_process():
        print(f"composing  {shlex.join(map(str, words)) or 'the defaults'}", flush=True)
