"""Numba, where it is installed. Without it the same functions run as plain Python on numpy arrays, only slower."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    from numba import njit
except (ImportError, OSError):  # not installed; or no numpy or LLVM library that this version of it can use
    njit: Any = None

HAS_NUMBA = njit is not None


def compile_(function: Callable[..., Any], **options: Any) -> Any:
    """Compile a function with numba and cache the machine code on disk; return it as it is where numba is missing.

    On a read-only file system nothing is cached: every process compiles again, which takes about a second.
    """
    if not HAS_NUMBA:
        return function
    try:
        return njit(function, cache=True, nogil=True, **options)
    except RuntimeError:
        return njit(function, nogil=True, **options)
