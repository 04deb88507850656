"""Chooses what reads float32 tensors on the CPU: numba, or numpy where numba is missing."""

from __future__ import annotations

import functools
import warnings

from stabletrain.signal.kernels import numpy_kernel
from stabletrain.signal.kernels.jit import HAS_NUMBA
from stabletrain.signal.kernels.reading import Backend


@functools.cache
def choose_backend() -> Backend:
    """Return the numba implementation, or the numpy one where numba is missing; importing it takes half a second."""
    if HAS_NUMBA:
        from stabletrain.signal.kernels import numba_kernel

        return numba_kernel
    warnings.warn(
        "numba is not installed: layers are measured with numpy, which takes several times as long.", stacklevel=2
    )
    return numpy_kernel
