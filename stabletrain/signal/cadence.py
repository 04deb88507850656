"""On which steps to look."""

from __future__ import annotations


def is_due(step: int, every: int) -> bool:
    """Whether something done `every` steps is due on `step`.

    Due on the first step, where initialisation shows, and then on the last step of each group of `every`:
    0, every-1, 2*every-1 … These are the steps on which Lightning logs with `log_every_n_steps=every`.

    Args:
        step: Number of optimizer steps done before this one, from 0.
        every: Steps between two looks; 0 means never.
    """
    return every > 0 and (step == 0 or (step + 1) % every == 0)
