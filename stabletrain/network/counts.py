"""Checks of whole numbers."""

from __future__ import annotations

from typing import Any

from stabletrain.errors import RequestError, require_range


def require_count(key: str, value: Any) -> int:
    """Return `value` if it is an integer from 1 up; raise RequestError otherwise."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise RequestError(f"{key} is not an integer.", key=key, found=value, allowed="an integer from 1")
    return require_range(key, value, 1)
