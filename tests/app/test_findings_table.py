"""The table of findings: long layer names are shortened, and no two layers look the same."""

from __future__ import annotations

import io

import pytest
import rich.console

from stabletrain.app.findings_table import MAX_PLACE, shorten, verdict_table
from stabletrain.vocabulary.finding import Finding

QUERY = "L12.model.encoder.layers.11.attention.self.query.weight"
VALUE = "L13.model.encoder.layers.11.attention.self.value.weight"
TWINS = tuple(f"model.transformer.{middle}.attention.projection.weight" for middle in ("encoder", "decoder"))


def lines_of(*layers: str, width: int = 80) -> list[str]:
    console = rich.console.Console(width=width, file=io.StringIO())
    findings = [Finding("vanishing", "critical", layer, 0, 999, {"log10_change": -4.2}) for layer in layers]
    console.print(verdict_table(findings))
    return [line for line in console.file.getvalue().splitlines()[3:] if line.strip()]


def test_a_short_name_is_shown_in_full():
    name = "L00.rnn.weight_hh_l0".ljust(MAX_PLACE, "x")
    assert shorten([name]) == {name: name}
    assert name in lines_of(name)[0]


def test_a_long_name_keeps_its_ends_and_its_line():
    assert shorten([QUERY, VALUE]) == {
        QUERY: "L12.model.en…n.self.query.weight",
        VALUE: "L13.model.en…n.self.value.weight",
    }
    assert [len(shown) for shown in shorten([QUERY, VALUE]).values()] == [MAX_PLACE, MAX_PLACE]
    lines = lines_of(QUERY, VALUE, width=100)
    assert "L12.model.en…n.self.query.weight" in lines[0]
    assert "L13.model.en…n.self.value.weight" in lines[1]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_names_that_differ_only_in_the_middle_are_shown_in_full(width):
    assert TWINS[0][:12] + TWINS[0][-19:] == TWINS[1][:12] + TWINS[1][-19:]  # they would be shortened to the same
    assert shorten(TWINS) == {name: name for name in TWINS}
    start = lines_of(*TWINS, width=width)[0].index("model.")
    printed = "".join(line[start:].split("  ")[0].strip() for line in lines_of(*TWINS, width=width))
    assert printed == "".join(TWINS)
