"""Templates, style sheets and scripts of the pages, read from `assets/`."""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("data.js", "canvas.js", "heatmap.js", "ridges.js", "lines.js", "main.js")


def page() -> str:
    """Return the template of a run's page; everything inserted into it is escaped."""
    return read("page.html")


def style() -> str:
    """Return the style sheet."""
    return read("page.css")


def script() -> str:
    """Return the parts of the script as one function, which adds no global names."""
    return '(() => {\n"use strict";\n' + "".join(map(read, SCRIPTS)) + "})();\n"


def read(name: str) -> str:
    """Return the content of one of the files."""
    return (ASSETS / name).read_text(encoding="utf-8")
