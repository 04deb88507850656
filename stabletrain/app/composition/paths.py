"""Where `conf/` lies: beside the package in a source tree, inside it in an installed wheel."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2]


def find_config_dir() -> Path:
    """Return the absolute path of the configuration folder."""
    beside, inside = PACKAGE.parent / "conf", PACKAGE / "conf"
    return beside if (beside / "config.yaml").is_file() and not inside.is_dir() else inside
