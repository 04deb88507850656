"""The comparison page: differing settings, small plots of each run on common axes, scaling efficiency."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from mlflow_fakes import INFO, begin_run, end_run, finished_run

from stabletrain.app.cli import main
from stabletrain.record.reader import Record, Series
from stabletrain.record.run_folder import RunFolder
from stabletrain.record.sweep_folder import SweepFolder
from stabletrain.report.compare import differing_keys, render_comparison
from stabletrain.report.compare_plots import Axes, Profile, draw_losses, draw_profile, losses_of, profile_of
from stabletrain.report.scaling import Speed, efficiencies, speed_of
from stabletrain.vocabulary.statuses import FAILED

MAX_BYTES = 3_000_000


def record_of(**scalars):
    record = Record(info={"parameters": {"data.batch_size": 32, "trainer.devices": 2}})
    for name, (steps, values) in scalars.items():
        record.scalars[name.replace("__", "/")] = Series(list(steps), list(values))
    return record


def info(uid, **choices):
    return INFO | {"run_uid": uid, "choices": {"model": "rnn", **choices}}


def test_only_what_differs_is_a_column():
    assert differing_keys([{"a": 1, "b": 2.0, "c": None}, {"a": 1, "b": 2.5}]) == ["b"]
    assert differing_keys([{"a": 1}]) == []
    assert differing_keys([{}, {"init": "he"}]) == ["init"]


def test_a_profile_is_the_first_a_middle_and_the_last_measured_step():
    record = Record()
    for i in range(4):
        values = [10.0**-i, 0.0, math.nan] if i == 2 else [10.0**-i] * 3
        record.scalars[f"gradient/rms/L0{i}.w"] = Series([0, 10, 20], values)
    profile = profile_of(record)
    assert profile.num_layers == 4
    assert profile.lines[0] == [(0, 0.0), (1, -1.0), (2, -2.0), (3, -3.0)]
    assert profile.lines[10][2] == (2, None)
    assert profile.lines[20][2] == (2, None)


def test_a_point_lies_where_its_value_says():
    axes = Axes((-4.0, 0.0), (0.0, 2.0), False, 100.0)
    profile = Profile(3, {0: [(0, -4.0), (1, None), (2, 0.0)]})
    places = re.findall(r'points="([^"]+)"', draw_profile(profile, axes))
    assert places == ["40.0,150.0", "310.0,8.0"]  # a gap cuts the line
    places = re.findall(r'points="([^"]+)"', draw_losses({"train/loss": [(0.0, 2.0), (50.0, 1.0)]}, axes))
    assert places == ["40.0,8.0 175.0,79.0"]


def test_axes_hold_every_run_and_turn_logarithmic_where_the_losses_ask_for_it():
    profiles = [Profile(1, {0: [(0, -3.4)]}), Profile(1, {0: [(0, 2.2)]}), Profile(0, {})]
    axes = Axes.around(profiles, [{"train/loss": [(0.0, 1.0), (9.0, 2.0)]}, {}])
    assert axes == Axes((-4.0, 3.0), (0.0, 2.0), False, 9.0)
    assert Axes.around([], [{"val/loss": [(3.0, 1e-3), (4.0, 1e3)]}]) == Axes((-6.0, 0.0), (-3.0, 3.0), True, 4.0)
    assert Axes.around([], []).last_step == 1.0


def test_courses_are_thinned_and_finite():
    record = record_of(train__loss=(range(5000), [math.nan if i == 7 else float(i) for i in range(5000)]))
    line = losses_of(record)["train/loss"]
    assert len(line) <= 90
    assert all(math.isfinite(y) for _, y in line)
    assert line[-1] == (4999.0, 4999.0)


def test_speed_is_the_sampled_median_else_steps_times_batch():
    assert speed_of(record_of(), 100, 4.0) == Speed(2, 800.0)
    sampled = record_of(system__samples_per_second=([1, 2, 3], [10.0, 500.0, 300.0]))
    assert speed_of(sampled, 100, 4.0) == Speed(2, 300.0)
    assert speed_of(Record(), 100, 4.0) == Speed(1, None)


def test_efficiency_is_against_the_fewest_processes():
    shares = efficiencies([Speed(1, 100.0), Speed(2, 180.0), Speed(4, None), Speed(4, 200.0)])
    assert shares == [1.0, pytest.approx(0.9), None, pytest.approx(0.5)]
    assert efficiencies([Speed(1, None)]) == [None]


def test_the_page_says_how_each_run_ended_and_is_escaped(tmp_path):
    first = finished_run(tmp_path / "one", info=info("1", init="he"))
    second = end_run(begin_run(tmp_path / "<b>two", info=info("2", init="<script>alert(1)</script>")), FAILED)
    second.write_findings([])
    second.update_summary(verdict="healthy")
    page = render_comparison([first, second], tmp_path)
    assert "Vanishing gradients" in page
    assert "The run failed" in page
    assert "<script" not in page
    assert "&lt;b&gt;two" in page
    assert '<a href="one/report.html">one</a>' in page
    assert '<a href="%3Cb%3Etwo/report.html">' in page
    assert not re.search(r"https?://|src=", page)
    assert "efficiency" not in page


def test_processes_have_columns_where_they_differ(tmp_path):
    folders = []
    for devices in (1, 2):
        parameters = {"data.batch_size": 10, "trainer.devices": devices}
        folder = finished_run(tmp_path / str(devices), info=INFO | {"run_uid": str(devices), "parameters": parameters})
        folder.update_summary(steps=100, seconds=10.0 / devices**0.5)
        folders.append(folder)
    page = render_comparison(folders, tmp_path)
    assert "efficiency" in page
    assert "70.7%" in page


def test_a_run_without_anything_recorded_has_its_place(tmp_path):
    folder = RunFolder(tmp_path / "empty")
    folder.events.mkdir(parents=True)
    page = render_comparison([folder, finished_run(tmp_path / "one")], tmp_path)
    assert "no gradient was recorded" in page
    assert "No verdict yet" in page


def test_fifty_runs_of_two_hundred_layers_stay_below_three_megabytes(tmp_path):
    folder = finished_run(tmp_path / "one", num_layers=200, steps=range(0, 1000, 20))
    one, three = (len(render_comparison([folder] * n, tmp_path).encode()) for n in (1, 3))
    assert one + 49 * (three - one) / 2 < MAX_BYTES / 5  # far below: all layers and points can be drawn


def test_the_command_compares_runs_and_sweeps(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("runs/one", "runs/two", "runs/sweep/0", "runs/sweep/1"):
        finished_run(Path(name), info=info(name))
    assert main(["report", "runs/one", "runs/two"]) == 0
    assert "2 runs, 0 healthy" in (tmp_path / "runs/compare.html").read_text()
    SweepFolder("runs/sweep").update(uid="x")
    assert main(["report", "runs/sweep"]) == 0
    assert "2 runs" in (tmp_path / "runs/sweep/report.html").read_text()
    assert main(["report", "runs/sweep", "runs/one", "runs/one", "output_dir=elsewhere"]) == 0
    assert "3 runs" in (tmp_path / "elsewhere/compare.html").read_text()
    before = (tmp_path / "runs/one/report.html").read_text()
    assert before == "<h1>report</h1>"  # a comparison leaves each run's page as it was
    assert main(["report", "runs/one"]) == 0
    assert "Vanishing" in (tmp_path / "runs/one/report.html").read_text()
    capsys.readouterr()


@pytest.mark.parametrize("words", [["nowhere"], ["runs/one", "nowhere"], ["runs"], ["empty"]])
def test_a_folder_that_is_no_run_is_refused_and_nothing_written(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    finished_run(Path("runs/one"))
    SweepFolder("empty").update(uid="x")
    before = sorted(tmp_path.rglob("*"))
    assert main(["report", *words]) == 2
    assert "RUN_DIR" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
