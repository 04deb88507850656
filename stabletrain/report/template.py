"""Templates, style sheets and scripts of the pages, read from `assets/`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
DRAWINGS = ("data.js", "canvas.js", "heatmap.js", "ridges.js", "lines.js", "views.js")  # without what starts them
SCRIPTS = (*DRAWINGS, "main.js")


def page() -> str:
    """Return the template of a run's page; everything inserted into it is escaped."""
    return read("page.html")


def style() -> str:
    """Return the style sheet."""
    return read("page.css")


def script() -> str:
    """Return the parts of the script as one function, which adds no global names."""
    return join_scripts(map(read, SCRIPTS))


def join_scripts(parts: Iterable[str]) -> str:
    """Return scripts as one function, which adds no global names."""
    return '(() => {\n"use strict";\n' + "".join(parts) + "})();\n"


def read(name: str) -> str:
    """Return the content of one of the files."""
    return (ASSETS / name).read_text(encoding="utf-8")
