"""Where the configuration lies, and which options it offers. No Hydra: `--help` lists them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stabletrain.errors import RequestError

PACKAGE = Path(__file__).resolve().parents[2]


def find_config_dir() -> Path:
    """Return the absolute path of `conf/`: beside the package in a source tree, inside it in an installed wheel."""
    beside, inside = PACKAGE.parent / "conf", PACKAGE / "conf"
    return beside if (beside / "config.yaml").is_file() and not inside.is_dir() else inside


def list_groups(config_dirs: Sequence[Path] = ()) -> dict[str, list[str]]:
    """Return the options of each group, sorted, from the built-in folder and all given ones.

    Raises:
        RequestError: A given folder does not exist.
    """
    groups: dict[str, set[str]] = {}
    for folder in [*config_dirs, find_config_dir()]:
        if not folder.is_dir():
            raise RequestError(
                "The configuration folder does not exist.",
                key="--config-dir",
                found=folder,
                allowed="an existing folder",
            )
        for path in folder.glob("*/*.yaml"):
            groups.setdefault(path.parent.name, set()).add(path.stem)
    return {group: sorted(options) for group, options in sorted(groups.items())}
