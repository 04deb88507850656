"""Numbers as short text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

_EXPONENT = re.compile(r"e([+-])0*(\d)")


def short(value: float | None, digits: int = 2) -> str:
    """Return a size in scientific notation without padding: `3.1e-4`; `0`, `nan`, `inf` as they are, `–` for None.

    Args:
        value: The number.
        digits: Significant digits.
    """
    if value is None:
        return "–"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return _EXPONENT.sub(lambda match: f"e{match[1].replace('+', '')}{match[2]}", f"{value:.{digits - 1}e}")


def duration(seconds: float) -> str:
    """Return a duration as `0:07`, `12:07`, `3:12:07` or `2 d 3 h`."""
    whole = round(seconds)
    if whole >= 48 * 3600:
        return f"{whole // 86400} d {whole % 86400 // 3600} h"
    minutes, rest = divmod(whole, 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def speed(steps_per_second: float) -> str:
    """Return `212 steps/s`, `3.4 steps/s`, or `4.2 s/step` for slow steps."""
    if steps_per_second < 1:
        return f"{1 / steps_per_second:.1f} s/step"
    return f"{steps_per_second:,.{0 if steps_per_second >= 10 else 1}f} steps/s"


def shorten(name: str, width: int) -> str:
    """Return a layer's name in at most `width` characters: its index, an ellipsis and the end of its path."""
    if len(name) <= width:
        return name
    index, dot, _ = name.partition(".")
    head = f"{index}{dot}…" if len(index) + 2 < width else f"{index[: width - 1]}…"
    return head + name[len(name) - (width - len(head)) :] if width > len(head) else head[:width]


def part_of(batch_idx: int, counts: Sequence[int | float], loader: int) -> str:
    """Return `3/40`, or `3` for a loader without a length."""
    total = counts[loader] if loader < len(counts) else float("inf")
    return f"{batch_idx + 1:,}/{total:,}" if isinstance(total, int) else f"{batch_idx + 1:,}"
