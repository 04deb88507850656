"""The pictures of a run: few, and the same however often and in whatever pieces the record is read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stabletrain.record.reader import LayerHistogram, Scalar, Vector
from stabletrain.signal.histogram import NUM_BINS, Histogram
from stabletrain.tracking.contents.downsample import DownsampledRecord
from stabletrain.tracking.contents.picture_plan import AT_END, PicturePlan, Schedule
from stabletrain.vocabulary import metric_names as names


def scalars(step, **values):
    return [Scalar(name.replace("__", "/"), step, step / 10, value) for name, value in values.items()]


def gradients(step, nonfinite=0.0):
    return [
        Scalar("gradient/rms/L00.w", step, step / 10, 1.0 + step),
        Scalar("gradient/nonfinite/L00.w", step, step / 10, nonfinite),
    ]


def planned(events, there=()):
    plan = PicturePlan(set(there))
    for entries in events:
        plan.take(entries)
    plan.plan_last()
    return plan


@pytest.mark.parametrize(
    ("schedule", "steps", "expected"),
    [
        (Schedule(2, 2.0), range(20), [0, 1, 2, 4, 8, 16]),
        (Schedule(1, 3.0, start=50, max_num=4), range(0, 5000, 10), [0, 50, 150, 450]),
        (Schedule(1, 3.0, start=50), [49, 149, 150], [49, 149]),
    ],
)
def test_the_steps_of_a_schedule(schedule, steps, expected):
    assert [step for step in steps if schedule.is_due(step)] == expected


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=300))
@settings(max_examples=30)
def test_at_most_eight_pictures_of_the_course_and_the_last_one_twice(gaps):
    steps = np.cumsum(gaps)
    pictures = planned(gradients(int(step)) for step in steps).pending()
    *course, at_end = [(p.key, p.step) for p in pictures]
    assert 1 <= len(course) <= 9
    assert course[-1] == (names.HEATMAP, steps[-1])
    assert at_end == (names.HEATMAP + AT_END, 0)


def test_without_a_course_only_the_last_state_is_drawn_and_the_ridges_keep_theirs():
    histogram = Histogram(np.bincount([NUM_BINS // 2], minlength=NUM_BINS))
    plan = PicturePlan(set(), course=False)
    for step in (0, 50, 60):
        plan.take([*gradients(step), LayerHistogram("L00.w", step, step / 10, histogram)])
    assert [p.key for p in plan.pending()] == [names.RIDGES] * 3
    plan.plan_last()
    assert [p.step for p in plan.pending() if p.key == names.HEATMAP] == [60]


def test_what_is_there_is_not_drawn_again_until_the_run_goes_on():
    events = [gradients(step) for step in range(0, 60, 10)]
    first = planned(events).pending()
    assert [(p.key, p.step) for p in first] == [(names.HEATMAP, 0), (names.HEATMAP, 50), (names.HEATMAP + AT_END, 0)]
    there = {p.identity for p in first}
    assert planned(events, there).pending() == []
    again = planned([*events, gradients(60)], there).pending()
    assert [(p.key, p.step) for p in again] == [(names.HEATMAP, 60), (names.HEATMAP + AT_END, 0)]


@pytest.mark.parametrize(
    ("entries", "key"),
    [
        ([Scalar("update/ratio/L00.w", 3, 0.3, 1e-3)], names.UPDATE_RATIOS),
        ([Vector("time/norm/L00.w", 3, 0.3, np.ones(4))], names.TIME_SURFACE),
        (scalars(3, gradient__norm__total=5.0, clip__norm_after=1.0, clip__fraction=0.5), names.CLIPPING),
        (scalars(3, gradient__norm__total=5.0, clip__norm_after=5.0, clip__fraction=0.0), None),
        (scalars(3, train__loss=1.0, delta__rms__L00=1.0, update__rms__L00=1.0), None),
    ],
)
def test_each_kind_is_drawn_only_of_its_own_data(entries, key):
    assert [p.key for p in planned([entries]).pending()] == ([key, key + AT_END] if key else [])


def test_a_picture_shows_what_was_recorded_until_its_step(monkeypatch):
    from stabletrain.report import pictures

    seen = {}

    def draw(record, findings):
        found = {name: series.steps for name, series in record.scalars.items() if "gradient" in name}
        seen[len(seen)] = found | {"findings": list(findings)}
        return b""

    monkeypatch.setattr(pictures, "draw_heatmap", draw)
    plan = PicturePlan(set())
    for step in range(0, 110, 10):
        plan.take(gradients(step))
    plan.plan_last(["a finding"])
    for picture in plan.pending():
        picture.draw()
    every = list(range(0, 110, 10))
    assert [found["gradient/rms/L00.w"] for found in seen.values()] == [[0], every[:6], every, every]
    assert [found["findings"] for found in seen.values()] == [[], [], ["a finding"], ["a finding"]]


def test_a_long_record_is_thinned_and_no_inf_is_lost():
    kept = DownsampledRecord(("gradient/rms/", "gradient/nonfinite/", "time/norm/"), max_columns=16)
    for step in range(1000):
        kept.take(gradients(step, nonfinite=7.0 if step == 777 else 0.0))
        kept.take([Vector("time/norm/L00.w", step, 0.0, np.full(2, step))])
    rms, bad = (kept.record.scalars[f"gradient/{name}/L00.w"] for name in ("rms", "nonfinite"))
    assert rms.steps == bad.steps == list(kept.record.vectors["time/norm/L00.w"])
    assert 8 <= len(rms.steps) <= 16
    assert rms.values == [1.0 + step for step in rms.steps]
    assert max(bad.values) == 7.0
    gaps = np.diff(rms.steps)
    assert gaps.max() <= 3 * gaps.min()


def test_a_copy_stays_as_it_was():
    kept = DownsampledRecord(("gradient/rms/",))
    kept.take(gradients(0))
    copy = kept.copy()
    kept.take(gradients(1))
    assert copy.scalars["gradient/rms/L00.w"].steps == [0]
    assert kept.record.scalars["gradient/rms/L00.w"].steps == [0, 1]
