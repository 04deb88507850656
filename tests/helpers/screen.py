"""The screen that a terminal would show after some output: cursor movements, erased lines, no colours."""

from __future__ import annotations

import re

CONTROL = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])|\x1b\][^\x07]*\x07|([\r\n\x07])")


class Screen:
    """Interprets what rich sends; the screen grows downwards without an end.

    Attributes:
        lines: What is shown.
        shows_cursor: Whether the cursor is visible.
    """

    def __init__(self, output: str = "") -> None:
        self.lines = [""]
        self.shows_cursor = True
        self._row = self._column = 0
        self.feed(output)

    @property
    def text(self) -> str:
        """All lines."""
        return "\n".join(line.rstrip() for line in self.lines)

    def feed(self, output: str) -> None:
        """Take more output."""
        place = 0
        for found in CONTROL.finditer(output):
            self._write(output[place : found.start()])
            place = found.end()
            self._control(found[1] or "", found[2] or found[3] or "")
        self._write(output[place:])

    def _write(self, text: str) -> None:
        line = self.lines[self._row].ljust(self._column)
        self.lines[self._row] = line[: self._column] + text + line[self._column + len(text) :]
        self._column += len(text)

    def _control(self, argument: str, name: str) -> None:
        if name == "\r":
            self._column = 0
        elif name == "\n":
            self._row, self._column = self._row + 1, 0
            if self._row == len(self.lines):
                self.lines.append("")
        elif name == "A":
            self._row = max(0, self._row - int(argument or 1))
        elif name == "K":
            assert argument == "2", argument
            self.lines[self._row] = ""
        elif argument == "?25":
            self.shows_cursor = name == "h"
        else:
            assert name in ("m", "\x07", ""), (argument, name)
