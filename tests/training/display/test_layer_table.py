"""The live table for given measurements and findings: rows, states, trends, and what does not fit."""

from __future__ import annotations

import io

import numpy as np
import pytest
import rich.console

from stabletrain.signal.layer_statistics import LayerStatistics
from stabletrain.signal.snapshot import Snapshot
from stabletrain.training.display.layer_states import LayerHistory, LayerStates, widen
from stabletrain.training.display.layer_table import live_lines, table_lines
from stabletrain.training.display.lines import Lines
from stabletrain.training.display.readings import Readings
from stabletrain.vocabulary.finding import Finding
from stabletrain.vocabulary.signals import UPDATE, WEIGHT


def snapshot(*rms, step=0, nonfinite=(), names=None):
    names = names or [f"L{i:02d}.layers.{i}.weight" for i in range(len(rms))]
    numbered = enumerate(zip(names, rms, strict=True))
    return Snapshot(step, [LayerStatistics(n, 10, r, int(i in nonfinite)) for i, (n, r) in numbered])


def states(*rms, findings=(), **settings):
    return LayerHistory().states(snapshot(*rms, **settings), findings)


def finding(kind, layer, severity="critical", **evidence):
    return Finding(kind, severity, layer, 0, 9, evidence)


def texts(table, width=80, num_rows=50, **settings):
    return ["".join(text for text, _ in line).rstrip() for line in table_lines(table, width, num_rows, **settings)]


def words(table):
    return [table.state(i).word for i in range(len(table.layers))]


def test_a_row_a_layer_in_forward_order_with_the_gradient_as_a_bar():
    assert texts(states(1e-4, 1e-2, 1.0), width=60) == [
        "layer                    rms  1e-4             1e0     state",
        "L00.layers.0.weight   1.0e-4  ▏                     →  ok",
        "L01.layers.1.weight   1.0e-2  ██████████            →  ok",
        "L02.layers.2.weight    1.0e0  ████████████████████  →  ok",
    ]


@pytest.mark.parametrize("width", [45, 60, 80, 120])
@pytest.mark.parametrize("count", [1, 5, 500])
def test_no_line_is_wider_than_the_terminal(width, count):
    names = [f"L{i:03d}.network.encoder.layers.{i}.attention.projection.weight" for i in range(count)]
    table = states(*np.logspace(-20, 3, count), findings=[finding("vanishing", names[0])], names=names)
    lines = texts(table, width, num_rows=12)
    assert max(map(len, lines[:13])) <= width  # the last line, how many are hidden, is cut at the edge
    assert len(lines) == 1 + min(count, 12) + (count > 12)
    assert all(
        "state" in lines[0] and line[:4] in ("laye", *(n[:4] for n in names)) for line in lines[: 1 + min(count, 12)]
    )


@pytest.mark.parametrize("width", [1, 10, 30])
def test_even_a_tiny_terminal_gets_lines(width):
    console = rich.console.Console(file=io.StringIO(), width=width, height=5)
    table = states(*np.logspace(-20, 3, 50))
    console.print(Lines(lambda *size: live_lines(Readings(loss=1.0, share=0.5), table, *size)))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) == 2 + 1 + 1 + 3 + 1


def test_hidden_layers_are_counted_and_the_worst_are_not_among_them():
    rms = [1e-2] * 100
    rms[40], rms[60] = 1e-9, 1e3
    named = finding("dead_units", "L70.layers.70", layers={"L70.layers.70": 0.8, "L80.layers.80": 0.9})
    table = states(*rms, findings=[named])
    shown = table.choose(10)
    assert len(shown) == 10
    assert {0, 99, 40, 60, 70, 80} <= set(shown)
    assert shown == sorted(shown)
    assert texts(table, num_rows=10)[-1] == "90 more layers, rms 1e-2 … 1e-2: 90 ok"
    assert texts(table, num_rows=100)[-1].startswith("L99")  # negative control: all fit


def test_the_rows_beside_the_worst_are_spread_over_the_depth():
    shown = states(*[1e-2] * 101).choose(11)
    assert shown[0] == 0
    assert shown[-1] == 100
    assert max(np.diff(shown)) < 25


def test_few_rows_still_show_the_ends():
    table = states(*[1e-2] * 9)
    assert {0, 8} <= set(table.choose(3))
    assert len(table.choose(3)) == 3
    assert texts(table, num_rows=8)[-1] == "1 more layer, rms 1e-2 … 1e-2: 1 ok"


def test_vanishing_marks_every_layer_a_thousand_times_smaller_than_the_last():
    first = "L00.layers.0.weight"
    table = states(1e-9, 1e-7, 1.1e-5, 1e-2, 1e-2, findings=[finding("vanishing", first)])
    assert words(table) == ["vanishing", "vanishing", "ok", "ok", "ok"]
    assert words(states(1e-9, 1e-7, 1.1e-5, 1e-2, 1e-2)) == ["ok"] * 5  # the doctor decides
    exploding = states(1e4, 1.0, 1e-2, 1e-2, findings=[finding("exploding", first)])
    assert words(exploding) == ["exploding", "ok", "ok", "ok"]
    whole = states(1e4, 1.0, 1e-2, 1e-2, findings=[finding("exploding", None)])  # of the total norm
    assert words(whole) == ["ok"] * 4


def test_an_output_marks_the_parameters_of_its_module():
    names = ["L00.body.1.weight", "L01.body.1.bias", "L02.body.11.weight"]
    table = states(1.0, 1.0, 1.0, names=names, findings=[finding("saturation", "L00.body.1", "warning")])
    assert words(table) == ["saturation", "saturation", "ok"]
    assert table.state(0).severity == "warning"


def test_the_worse_finding_wins():
    layer = "L00.layers.0.weight"
    found = [finding("vanishing", layer), finding("bad_init", layer, "warning")]
    assert words(states(1.0, 1.0, findings=found)) == ["vanishing", "ok"]


def test_zero_nonfinite_and_missing_gradients():
    taken = snapshot(0.0, 1e-3, None, nonfinite=(1, 2))
    table = LayerHistory().states(
        taken, [], ["L00.layers.0.weight", "L01.layers.1.weight", "L02.layers.2.weight", "L03.frozen"]
    )
    assert words(table) == ["zero", "non-finite", "non-finite", "no gradient"]
    assert [line.split()[1] for line in texts(table)[1:]] == ["0", "1.0e-3", "–", "–"]
    assert [table.share(i) > 0 for i in range(4)] == [False, True, False, False]
    assert [("█" in line or "▏" in line) for line in texts(table)[1:]] == [False, True, False, False]


def test_a_frozen_layer_in_the_middle_keeps_its_place():
    names = ["L00.a", "L02.c"]
    table = LayerHistory().states(snapshot(1.0, 2.0, names=names), [], ["L00.a", "L01.b", "L02.c"])
    assert list(table.layers) == ["L00.a", "L01.b", "L02.c"]
    assert np.array_equal(table.rms, [1.0, np.nan, 2.0], equal_nan=True)
    other = LayerHistory().states(snapshot(1.0, 2.0, names=names), [], ["L00.a"])  # of another model: not used
    assert list(other.layers) == names


def test_a_trend_is_relative_to_the_last_measurements():
    history = LayerHistory()
    assert history.states(snapshot(1.0, 1.0, 1.0), []).trends.tolist() == [0, 0, 0]
    later = snapshot(10.0, 1.0, 0.1, step=10)
    assert history.states(later, []).trends.tolist() == [1, 0, -1]
    assert history.states(later, []).trends.tolist() == [1, 0, -1]  # drawn twice, measured once
    for step in range(20, 500, 10):
        last = history.states(snapshot(10.0, 1.0, 0.1, step=step), [])
    assert last.trends.tolist() == [0, 0, 0]
    assert [line.split()[-2] for line in texts(history.states(snapshot(10.0, 9.0, 0.01, step=500), []))[1:]] == [
        "→",
        "↗",
        "↘",
    ]


def test_the_axis_has_whole_decades_and_only_grows():
    assert widen(None, np.array([2e-3, 5e-2])) == (-5, -1)
    assert widen((-5, -1), np.array([1e-3, 2.0])) == (-5, 1)
    assert widen((-5, 1), np.array([1e-3])) == (-5, 1)
    assert widen((-5, 1), np.array([0.0, np.nan])) == (-5, 1)
    assert widen(None, np.array([0.0])) is None
    assert widen(None, np.array([1e-300])) == (-304, -300)


def test_update_ratios_are_shown_where_they_were_measured_and_there_is_room():
    taken = snapshot(1.0, 1.0)
    taken.signals[WEIGHT] = [LayerStatistics(x.layer, 10, 2.0, 0) for x in taken.layers[:1]]
    taken.signals[UPDATE] = [LayerStatistics(x.layer, 10, 1e-3, 0) for x in taken.layers[:1]]
    history = LayerHistory()
    history.add_updates(taken)
    table = history.states(taken, [])
    lines = texts(table)
    assert "update" in lines[0]
    assert lines[1].split()[-2:] == ["5.0e-4", "ok"]
    assert lines[2].split()[-2:] == ["→", "ok"]
    assert "update" not in texts(table, width=48)[0]
    assert "update" not in texts(states(1.0))[0]


def test_the_live_view_leaves_room_for_messages_and_fits_the_height():
    table = states(*[1e-2] * 100)
    lines = live_lines(Readings(loss=1.0), table, 80, 24, False)
    assert len(lines) == 24 - 2
    assert len(live_lines(Readings(loss=1.0), None, 80, 24, False)) == 2
    assert len(live_lines(Readings(), LayerStates(), 80, 24, False)) == 1


def test_ascii_terminals_get_ascii():
    table = states(1e-3, 1.0, 1e-2, 1.0)
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = rich.console.Console(file=file, width=70)
    console.print(Lines(lambda width, height, ascii_only: table_lines(table, width, 3, ascii_only)))
    file.flush()
    shown = file.buffer.getvalue().decode("ascii")
    assert "###" in shown
    assert shown.splitlines()[-1] == "1 more layer, rms 1e-2 ~ 1e-2: 1 ok"
