"""The table of the most extreme layers, from the entries of a record."""

import json

import numpy as np
import pytest

from stabletrain.record.reader import LayerHistogram, Scalar
from stabletrain.signal.histogram import Histogram
from stabletrain.tracking.contents.layer_table import COLUMNS, WorstLayers
from stabletrain.vocabulary.signals import DELTA, GRADIENT

LAYERS = [f"L{i:02d}.w" for i in range(20)]


def event(step, rms, nonfinite=None, ratios=None, zeros=None, signal=GRADIENT):
    entries = []
    for i, layer in enumerate(LAYERS[: len(rms)]):
        if rms[i] is not None:
            entries.append(Scalar(f"gradient/rms/{layer}", step, 0.0, rms[i]))
        entries.append(Scalar(f"gradient/nonfinite/{layer}", step, 0.0, float((nonfinite or {}).get(i, 0))))
        if ratios:
            entries.append(Scalar(f"update/ratio/{layer}", step, 0.0, ratios[i]))
        if zeros:
            counts = np.zeros(256, dtype=np.int64)
            counts[0], counts[120] = zeros[i], 10 - zeros[i]
            entries.append(LayerHistogram(layer, step, 0.0, Histogram(counts), signal))
    return entries


def rows(worst):
    table = json.loads(worst.table())
    assert table["columns"] == list(COLUMNS)
    return {row[0]: dict(zip(COLUMNS[1:], row[1:], strict=True)) for row in table["data"]}


def test_five_layers_at_each_end():
    worst = WorstLayers()
    rms = [10.0 ** (i - 19) for i in range(20)]
    worst.take(event(7, rms, nonfinite={3: 4, 9: 1}, ratios=[1e-3 * (20 - i) for i in range(20)], zeros=[0] * 19 + [3]))
    why = {layer: row["why"].split(", ") for layer, row in rows(worst).items()}
    reasons = {reason for found in why.values() for reason in found}
    by_reason = {reason: [layer for layer in why if reason in why[layer]] for reason in reasons}
    assert by_reason == {
        "low gradient": LAYERS[:5],
        "high gradient": LAYERS[15:],
        "Inf or NaN": [LAYERS[3], LAYERS[9]],
        "low update": LAYERS[15:],
        "high update": LAYERS[:5],
        "zeros": [LAYERS[19]],
    }
    assert list(why) == sorted(why)
    row = rows(worst)[LAYERS[3]]
    assert row["rms / last layer's"] == pytest.approx(1e-16)
    assert (row["rms"], row["Inf and NaN"], row["zeros"], row["step"]) == (rms[3], 4, 0.0, 7)
    assert row["update / weight"] == pytest.approx(0.017)
    assert rows(worst)[LAYERS[19]]["zeros"] == 0.3


def test_the_last_step_counts_and_nonfinite_ones_add_up_once():
    worst = WorstLayers()
    worst.take(event(0, [1.0, 2.0], nonfinite={0: 1}))
    worst.take(event(1, [None, 4.0], nonfinite={0: 2}))
    worst.take(event(1, [None, 4.0], nonfinite={0: 2}))  # a resumed run repeats a step
    found = rows(worst)
    assert [(r["rms"], r["Inf and NaN"], r["step"]) for r in found.values()] == [(1.0, 3, 1), (4.0, 0, 1)]
    assert found[LAYERS[0]]["why"] == "low gradient, Inf or NaN"


def test_numbers_are_short_so_that_the_page_does_not_cut_off_their_power_of_ten():
    worst = WorstLayers()
    worst.take(event(0, [1.23456789e-19, 2.0]))
    first, _ = rows(worst).values()
    assert (first["rms"], first["rms / last layer's"]) == (1.23e-19, 6.17e-20)


def test_other_signals_do_not_count_as_the_gradient():
    worst = WorstLayers()
    worst.take(event(0, [1.0, 2.0], zeros=[5, 5], signal=DELTA))
    assert [row["zeros"] for row in rows(worst).values()] == [None, None]


def test_a_gradient_that_is_zero_everywhere_and_a_record_without_layers():
    worst = WorstLayers()
    assert worst.table() == ""
    worst.take(event(0, [0.0, 0.0, 0.0]))
    assert {row["rms / last layer's"] for row in rows(worst).values()} == {None}
