import math

import pytest
from mlflow_fakes import INFO, begin_run, snapshot

from stabletrain.record.reader import Scalar
from stabletrain.record.run_folder import RunFolder
from stabletrain.record.writer import RecordWriter
from stabletrain.signal.layer_names import layer_name
from stabletrain.tracking.metrics import (
    Progress,
    clean_key,
    covers,
    decode_position,
    encode_position,
    is_shipped,
    read_events,
)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("train/loss", "train/loss"),
        ("gradient/rms/L03.rnn.weight_hh_l0", "gradient/rms/L03.rnn.weight_hh_l0"),
        ("a[0]@b", "a_0__b"),
        ("a//b/./c/", "a/b/c"),
        ("/../x", "__/x"),
        ("", "_"),
        ("größe", "gr__e"),
    ],
)
def test_a_key_is_one_that_mlflow_accepts(name, key):
    from mlflow.utils.validation import _validate_metric_name

    assert clean_key(name) == key
    _validate_metric_name(clean_key(name))


def test_a_long_name_keeps_its_identity():
    one, other = clean_key("x" * 300 + "1"), clean_key("x" * 300 + "2")
    assert len(one) == len(other) == 250
    assert one != other


def test_names_that_clean_to_the_same_key_stay_apart():
    progress = Progress()
    points = progress.take([Scalar("a[0]", 1, 0.0, 1.0), Scalar("a(0)", 1, 0.0, 2.0), Scalar("a[0]", 2, 0.0, 3.0)])
    assert [p.key for p in points] == ["a_0_", points[1].key, "a_0_"]
    assert points[1].key.startswith("a_0_-")


FAMILIES = ("gradient/rms", "gradient/nonfinite", "update/ratio")
OTHERS = ("weight/rms", "delta/rms", "activation/rms", "update/rms", "gradient/p50", "clip/rms")


@pytest.mark.parametrize(
    ("num_layers", "num_shipped"),
    [
        (1, (1, 1, 1)),
        (200, (200, 200, 200)),
        (201, (201, 201, 0)),
        (300, (300, 300, 0)),
        (301, (301, 0, 0)),
        (600, (600, 0, 0)),
        (601, (301, 0, 0)),
        (5000, (556, 0, 0)),
    ],
)
def test_of_the_families_by_layer_as_many_are_shipped_as_make_600_curves(num_layers, num_shipped):
    layers = [layer_name(i, f"layers.{i}.weight", num_layers) for i in range(num_layers)]
    shipped = [sum(is_shipped(f"{family}/{layer}", num_layers) for layer in layers) for family in FAMILIES + OTHERS]
    assert tuple(shipped) == num_shipped + (0,) * len(OTHERS)
    assert sum(shipped) <= 600
    assert is_shipped(f"gradient/rms/{layers[0]}", num_layers)


@pytest.mark.parametrize("name", ["gradient/norm/total", "val/accuracy", "update/rms", "clip/fraction", "L01.x"])
def test_what_is_not_of_a_layer_is_shipped(name):
    assert is_shipped(name, 100_000)


def test_the_number_of_layers_is_known_before_their_first_point(tmp_path):
    folder = RunFolder(tmp_path / "run")
    writer = RecordWriter(folder.events)
    writer.write_info(INFO)
    for step in range(2):
        writer.write_snapshot(snapshot(step, 250, with_histogram=False, with_update=True))
    writer.close()
    progress = Progress()
    keys = [p.key.rpartition("/L")[0] for entries, _ in read_events(folder.events) for p in progress.take(entries)]
    assert {key: keys.count(key) for key in keys} == {"gradient/rms": 500, "gradient/nonfinite": 500}


def test_a_repeated_step_and_a_non_finite_value_are_left_out():
    progress = Progress()
    values = [(0, 1.0), (1, 2.0), (1, 3.0), (0, 4.0), (2, math.nan), (3, math.inf), (4, 5.0)]
    points = progress.take([Scalar("x", step, 1.5, value) for step, value in values])
    assert [(p.step, p.value, p.time_ms) for p in points] == [(0, 1.0, 1500), (1, 2.0, 1500), (4, 5.0, 1500)]


def test_events_are_whole_and_a_position_covers_what_lies_before_it(tmp_path):
    folder = begin_run(tmp_path / "run", steps=range(3))
    events = list(read_events(folder.events))
    assert [len(entries) for entries, _ in events] == [1, 2, 18, 2, 2]  # info, scalars, a snapshot: 6 of 3 layers
    middle = events[2][1]
    assert [covers(middle, position) for _, position in events] == [True, True, True, False, False]
    assert len(list(read_events(folder.events, middle))) == 2


def test_the_position_of_a_run_resumed_very_often_fits_a_tag(tmp_path):
    position = {}
    for _ in range(120):
        writer = RecordWriter(tmp_path)
        writer.write_scalars(1, {"x": 1.0})
        writer.close()
        position[writer.path.name] = writer.path.stat().st_size
    text = encode_position(position)
    assert len(text) < 8000
    assert decode_position(text, tmp_path) == position
    assert decode_position(None, tmp_path) == {}
