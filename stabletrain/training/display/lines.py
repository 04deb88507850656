"""Lines of styled text that fit a terminal, whatever its width."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment

ASCII = str.maketrans("…–", "~-")
GAP = 2  # spaces between two parts of a line
Span = tuple[str, str]  # text, and a style of rich, "" for none
Line = list[Span]


@dataclass(frozen=True)
class Part:
    """One part of a line, in its full form and in shorter ones.

    Attributes:
        forms: From long to short; the last one may be empty.
        ranks: For each form but the last, when it gives way to the next one: the highest rank first.
        style: A style of rich.
    """

    forms: Sequence[str]
    ranks: Sequence[int] = ()
    style: str = ""


def fit(parts: Sequence[Part], width: int) -> list[Part]:
    """Return the parts in forms that together fit a line of `width` characters, without those that are empty."""
    chosen = [0] * len(parts)
    while _length([part.forms[i] for part, i in zip(parts, chosen, strict=True)]) > width:
        steps = [
            (part.ranks[i], place)
            for place, (part, i) in enumerate(zip(parts, chosen, strict=True))
            if i < len(part.ranks)
        ]
        if not steps:
            break
        chosen[max(steps)[1]] += 1
    return [Part([form], (), part.style) for part, i in zip(parts, chosen, strict=True) if (form := part.forms[i])]


def join(parts: Sequence[Part], width: int) -> Line:
    """Return the parts that fit as one line."""
    line: Line = []
    for part in fit(parts, width):
        line += [(" " * GAP, ""), (part.forms[0], part.style)] if line else [(part.forms[0], part.style)]
    return line


def _length(texts: Sequence[str]) -> int:
    shown = [text for text in texts if text]
    return sum(map(len, shown)) + GAP * max(0, len(shown) - 1)


@dataclass(frozen=True)
class Lines:
    """A renderable of rich: lines made for the size of the terminal at the moment they are drawn.

    Tables and texts of rich wrap and measure every cell, which takes ten times as long.

    Attributes:
        make: Returns the lines for a width, a height and whether only ASCII characters can be shown.
    """

    make: Callable[[int, int, bool], Sequence[Line]] = field(repr=False)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        for number, line in enumerate(self.make(width, console.size.height, options.ascii_only)):
            if number:
                yield Segment.line()
            left = width
            for text, style in line:
                text = text.translate(ASCII) if options.ascii_only else text
                yield Segment(text[:left], console.get_style(style) if style else None)
                left -= len(text[:left])
