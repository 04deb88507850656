"""Text that fits the terminal: numbers, and lines whose parts give way one by one."""

from __future__ import annotations

import io

import pytest
import rich.console

from stabletrain.training.display.lines import Lines, Part, fit, join
from stabletrain.training.display.numbers import duration, part_of, short, shorten, speed


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (3.14e-4, "3.1e-4"),
        (2.5e-17, "2.5e-17"),
        (9.99, "1.0e1"),
        (0.0, "0"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (None, "–"),
    ],
)
def test_sizes_are_scientific_without_padding(value, shown):
    assert short(value) == shown
    assert short(3.14e-4, 1) == "3e-4"


def test_durations_and_speeds():
    assert [duration(s) for s in (6.6, 727, 11_527, 200_000)] == ["0:07", "12:07", "3:12:07", "2 d 7 h"]
    assert [speed(x) for x in (1212.4, 3.44, 0.25)] == ["1,212 steps/s", "3.4 steps/s", "4.0 s/step"]
    assert [part_of(2, [40], 0), part_of(2, [float("inf")], 0), part_of(0, [], 3)] == ["3/40", "3", "1"]


def test_a_long_name_keeps_its_index_and_its_end():
    name = "L12.model.encoder.layers.11.attention.self.query.weight"
    assert shorten(name, 55) == name
    assert shorten(name, 20) == "L12.…lf.query.weight"
    assert [len(shorten(name, width)) for width in (1, 3, 5, 8, 54)] == [1, 3, 5, 8, 54]


def test_parts_give_way_by_rank_one_form_at_a_time():
    parts = [Part(["loss 2.303", "loss 2.3"], [5]), Part(["accuracy 0.1", ""], [4]), Part(["healthy"])]
    texts = {width: "".join(text for text, _ in join(parts, width)) for width in (33, 32, 30, 1)}
    assert texts[33] == "loss 2.303  accuracy 0.1  healthy"
    assert texts[32] == "loss 2.3  accuracy 0.1  healthy"
    assert texts[30] == texts[1] == "loss 2.3  healthy"  # no shorter form is left
    assert [part.forms for part in fit(parts, 33)] == [["loss 2.303"], ["accuracy 0.1"], ["healthy"]]


def render(lines, width=20, encoding="utf-8", **settings):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = rich.console.Console(file=file, width=width, **settings)
    console.print(lines)
    file.flush()
    return file.buffer.getvalue().decode(encoding)


def test_a_line_is_cut_at_the_width_and_ascii_has_no_ellipsis():
    lines = Lines(lambda width, height, ascii_only: [[("a" * 15, "red"), ("b" * 15, "")], [], [(f"…{ascii_only}", "")]])
    assert render(lines).splitlines() == ["a" * 15 + "b" * 5, "", "…False"]
    assert render(lines, encoding="ascii").splitlines()[2] == "~True"


def test_styles_need_a_terminal_with_colours(monkeypatch):
    lines = Lines(lambda width, height, ascii_only: [[("late", "bold red")]])
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1;31mlate" in render(lines, force_terminal=True, color_system="standard")
    assert "\x1b[1mlate" in render(lines, force_terminal=True, color_system="standard", no_color=True)
    assert render(lines).strip() == "late"
