"""Words that the notices of several inspectors share."""

from __future__ import annotations

from collections.abc import Sequence

MAX_LISTED = 4


def listed(names: Sequence[str]) -> str:
    """Return names as in a sentence, the first four of many: `a, b and 7 more`."""
    shown = list(names[:MAX_LISTED])
    if len(names) > len(shown):
        return f"{', '.join(shown)} and {len(names) - len(shown)} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)
