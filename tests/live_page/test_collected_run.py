"""What is collected piece by piece equals what is read at once, as long as nothing has to be thinned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_fakes import CHOICES, WrittenRun, layer_name
from report_fakes import healthy, with_all_signals

from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.observations import Observations
from stabletrain.diagnosis.recorded_run import observe, replay
from stabletrain.live_page import collected_run
from stabletrain.live_page.collected_run import CollectedRun, Frames
from stabletrain.live_page.run_view import RunView, describe_depth
from stabletrain.record.glance import Glance
from stabletrain.record.reader import Record, load_record
from stabletrain.record.run_folder import RunFolder
from stabletrain.report.page_data import page_data
from stabletrain.signal.histogram import Histogram
from stabletrain.signal.layer_statistics import LayerStatistics
from stabletrain.signal.snapshot import Snapshot
from stabletrain.vocabulary import metric_names as names


def assert_same(found: Observations, expected: Observations) -> None:
    assert found.about == expected.about
    for part in ("rms", "nonfinite", "units", "time", "scalars"):
        assert set(getattr(found, part)) == set(getattr(expected, part)), part
        for key, table in getattr(expected, part).items():
            for mine, theirs in zip(getattr(found, part)[key], table, strict=True):
                np.testing.assert_array_equal(mine, theirs, err_msg=f"{part} {key}")


def drawn(record: Record) -> dict[str, Any]:
    """Return what is drawn, without the update ratios: they are divided after rounding here, and before it there."""
    data = page_data(record)
    data["signals"] = [s for s in data["signals"] if s["key"] != names.UPDATE_RATIO]
    return data | {"bands": None}


def test_read_in_pieces_it_equals_the_record(tmp_path: Path):
    run = WrittenRun(tmp_path / "one")
    collected = CollectedRun(run.folder.events)
    for first in range(0, 200, 17):
        run.steps(range(first, first + 17), slope=0.7)
        run.writer.write_vectors(first, {names.of_layer(names.TIME_NORM, "rnn"): np.geomspace(1e-3, 1, 8)})
        assert collected.advance(60.0)
    record = load_record(run.folder.path)
    assert_same(collected.observations(), observe(record))
    assert drawn(collected.to_record(collected.observations())) == drawn(record)
    ratios = collected.to_record(collected.observations()).of_layers(names.UPDATE_RATIO)
    for layer, series in record.of_layers(names.UPDATE_RATIO).items():
        assert ratios[layer].steps == series.steps
        np.testing.assert_allclose(ratios[layer].values, series.values, rtol=1e-6)


def test_a_resumed_run_goes_on_from_its_checkpoint(tmp_path: Path):
    for first, last, slope in ((0, 61, 0.0), (31, 81, 1.0), (81, 101, 1.0)):
        WrittenRun(tmp_path / "one").steps(range(first, last), slope=slope).writer.close()
    folder = RunFolder(tmp_path / "one")
    collected = CollectedRun(folder.events)
    assert collected.advance(60.0)
    record = load_record(folder.path)
    assert_same(collected.observations(), observe(record))
    assert drawn(collected.to_record(collected.observations())) == drawn(record)


def test_reading_stops_between_events_when_time_is_up(tmp_path: Path):
    run = WrittenRun(tmp_path / "one").steps(range(101), slope=0.7)
    collected, num_calls = CollectedRun(run.folder.events), 1
    while not collected.advance(0.0):
        num_calls += 1
    assert num_calls > 100  # one event each
    assert_same(collected.observations(), observe(load_record(run.folder.path)))


def test_findings_so_far_equal_the_doctors(tmp_path: Path):
    run, view = WrittenRun(tmp_path / "one"), None
    for first in range(0, 200, 23):
        run.steps(range(first, first + 23), slope=1.2, loss=2.3)
        view = view or RunView("one", run.folder)
        view._next_s = 0.0
        view.update()
        assert view.findings == diagnose(observe(load_record(run.folder.path)))
    assert view is not None
    assert [f.kind for f in view.findings if f.alarms] == ["vanishing"]


def test_histograms_are_kept_at_even_steps_and_at_the_last_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(collected_run, "MAX_FRAMES", 8)
    frames = Frames()
    for k in range(101):
        frames.add(10 * k, "a", Histogram(np.full(256, k)))
        assert len(frames.by_step) <= 9
    steps = [*frames.by_step]
    assert (steps[0], steps[-1]) == (0, 1000)
    assert set(np.diff(steps[:-1])) == {160}
    assert frames.by_layer()["a"][1000].counts[7] == 100
    frames.add(500, "a", Histogram(np.full(256, 7)))  # resumed
    assert [*frames.by_step] == [0, 160, 320, 480, 500]
    assert frames.by_layer()["a"][500].counts[0] == 7


def test_many_layers_keep_few_histograms():
    frames = Frames()
    for k in range(30):
        for layer in range(1000):
            frames.add(k, str(layer), Histogram(np.ones(256, int)))
    assert len(frames.by_step) <= 11
    assert sum(h.counts.nbytes for layers in frames.by_step.values() for h in layers.values()) < 12e6


def test_zeros_and_nonfinite_numbers_stay_when_a_long_run_is_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(collected_run, "MAX_ROWS", 10)
    run = WrittenRun(tmp_path / "one", num_layers=3)
    for step in range(101):
        bad = int(step == 37)
        layers = [LayerStatistics(layer_name(k), 10, 0.0 if k == step == 1 else 0.1, bad * (k == 2)) for k in range(3)]
        run.writer.write_snapshot(Snapshot(step, tuple(layers)))
    run.writer.flush()
    collected = CollectedRun(run.folder.events)
    assert collected.advance(60.0)
    record = collected.to_record(collected.observations())
    rms, bad = record.of_layers(names.GRADIENT_RMS), record.of_layers(names.GRADIENT_NONFINITE)
    assert len(rms[layer_name(0)].steps) == 10
    assert rms[layer_name(1)].values[rms[layer_name(1)].steps.index(1)] == 0.0
    assert [*bad] == [layer_name(2)]
    assert bad[layer_name(2)].values[bad[layer_name(2)].steps.index(37)] == 1.0


@pytest.mark.parametrize(
    ("slope", "text", "mood"),
    [
        (0.0, "last layers: 1 at step 20", ""),
        (1.0, "10⁻⁵ at step 20, vanishing", "warning"),
        (-1.0, "10⁵ at step 20, exploding", "warning"),
    ],
)
def test_the_ratio_of_first_to_last_layers(tmp_path: Path, slope: float, text: str, mood: str):
    run = WrittenRun(tmp_path / "one").steps(range(21), slope=slope)
    found = describe_depth(observe(load_record(run.folder.path)))
    assert found is not None
    assert found["text"].endswith(text)
    assert found["mood"] == mood
    assert found["text"].startswith("▲") == bool(mood)
    assert describe_depth(Observations()) is None


def test_a_glance_reads_the_loss_the_choices_and_the_last_step(tmp_path: Path):
    run = WrittenRun(tmp_path / "one").steps(range(501))
    glance = Glance(run.folder.events)
    pieces = 0
    while not glance.advance(1000):
        pieces += 1
    assert pieces < 20
    expected = load_record(run.folder.path)
    series = expected.scalars[names.TRAIN_LOSS]
    steps, losses = glance.curve
    assert (steps[0], steps[-1], glance.last_step) == (0, 500, 500)
    assert 32 <= len(steps) <= 66
    assert losses == [series.values[step] for step in steps]
    assert glance.info["choices"] == CHOICES
    WrittenRun(tmp_path / "one").steps(range(301, 311), loss=7.0).writer.close()
    assert glance.advance()
    steps, losses = glance.curve
    assert (steps[-1], losses[-1], glance.last_step) == (310, 7.0, 310)
    assert steps == sorted(set(steps))
    run.writer.close()


def test_a_glance_skips_events_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("stabletrain.record.glance.MAX_EVENT", 512)  # the statistics of all layers are larger
    run = WrittenRun(tmp_path / "one", num_layers=30).steps(range(101))
    glance = Glance(run.folder.events)
    while not glance.advance(600):
        pass
    assert (glance.last_step, glance.curve[0][-1]) == (100, 100)


def test_another_run_in_its_place_starts_anew(tmp_path: Path):
    first = WrittenRun(tmp_path / "one").steps(range(101))
    glance, collected = Glance(first.folder.events), CollectedRun(first.folder.events)
    assert glance.advance()
    assert collected.advance(60.0)
    first.writer.close()
    first.writer.path.unlink()
    second = WrittenRun(tmp_path / "one", choices={"model": "rnn"}).steps(range(11))
    assert glance.advance()
    assert collected.advance(60.0)
    assert (glance.last_step, glance.info["choices"]) == (10, {"model": "rnn"})
    assert_same(collected.observations(), observe(load_record(second.folder.path)))


def test_all_signals_are_drawn(tmp_path: Path):
    """`to_record` keeps every signal that the report draws."""
    collected = CollectedRun(tmp_path)
    source = with_all_signals(healthy(4, 40))
    collected.history = replay(source)
    for signal, by_layer in {"gradient": source.histograms, **source.other_histograms}.items():
        for step in sorted({s for by_step in by_layer.values() for s in by_step}):
            for layer, by_step in by_layer.items():
                if step in by_step:
                    collected.frames.setdefault(signal, Frames()).add(step, layer, by_step[step])
    found = collected.to_record(collected.observations())
    keys = [signal["key"] for signal in page_data(source)["signals"]]
    assert [signal["key"] for signal in page_data(found)["signals"]] == keys
    assert len(page_data(found)["times"]) == len(page_data(source)["times"]) == 2
