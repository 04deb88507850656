"""The global random generators, kept as they were while code of others runs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def keep_generators() -> Iterator[None]:
    """Put Python's, numpy's and torch's (CPU) global generators back to where they were.

    Example:
        >>> before = torch.get_rng_state()
        >>> with keep_generators():
        ...     _ = torch.rand(3)
        >>> torch.equal(before, torch.get_rng_state())
        True
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
