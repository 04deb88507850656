"""The state of all global random number generators, as plain numbers and tensors that `weights_only=True` loads."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

PYTHON, NUMPY, TORCH, CUDA = "python", "numpy", "torch", "cuda"


def random_states() -> dict[str, Any]:
    """Return the states of Python's, NumPy's and torch's generators, and of each CUDA device in use.

    Example:
        >>> states = random_states()
        >>> first = torch.rand(3)
        >>> restore_random_states(states)
        >>> torch.equal(first, torch.rand(3))
        True
    """
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        PYTHON: [version, torch.tensor(words), gauss],
        NUMPY: [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        TORCH: torch.get_rng_state(),
        CUDA: torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Set all generators to the states that `random_states` returned; devices that are not there are left out."""
    version, words, gauss = states[PYTHON]
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, position, has_gauss, cached = states[NUMPY]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states[TORCH].cpu())
    for device, state in enumerate(states[CUDA][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state.cpu(), device)
