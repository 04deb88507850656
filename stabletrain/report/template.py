"""The page's frame, style and script, which lie as files of their own in `assets/`."""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("data.js", "canvas.js", "heatmap.js", "ridges.js", "lines.js", "main.js")


def page() -> str:
    """Return the page's template; everything inserted is escaped."""
    return read("page.html")


def style() -> str:
    """Return the style sheet."""
    return read("page.css")


def script() -> str:
    """Return the parts of the script as one, with no name left outside."""
    return '(() => {\n"use strict";\n' + "".join(map(read, SCRIPTS)) + "})();\n"


def read(name: str) -> str:
    """Return one of the files."""
    return (ASSETS / name).read_text(encoding="utf-8")
