"""OpenML with scikit-learn mocked, and for real without a network; encodings against those of tables."""

import socket
import time
import urllib.request
from urllib.error import HTTPError, URLError

import numpy as np
import pandas as pd
import pytest
import sklearn.datasets
import torch
from sklearn.utils import Bunch

from stabletrain.data import OpenML, Table
from stabletrain.data.splits import split_rows
from stabletrain.errors import RequestError


def mixed(num_rows: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "size": rng.normal(50, 7, num_rows),
            "colour": pd.Categorical(np.array(["red", "green", "blue"])[np.arange(num_rows) % 3]),
            "kind": pd.Categorical(np.array(["a", "b"])[np.arange(num_rows) % 2]),
        }
    )


def images(num_rows: int = 60) -> pd.DataFrame:
    frame = pd.DataFrame(np.random.default_rng(1).integers(0, 256, (num_rows, 12)))
    frame[0] = 0  # a border
    frame.loc[7, 0] = 255
    return frame.rename(columns=lambda i: f"pixel{i}").assign(kind=pd.Categorical(list("01" * (num_rows // 2))))


@pytest.fixture
def answer(monkeypatch):
    """Return a function that sets what `fetch_openml` returns or raises; it returns the list of calls."""

    def prepare(frame, target="kind"):
        calls = []

        def fetch(*args, **kwargs):
            calls.append((args, kwargs, socket.getdefaulttimeout()))
            if isinstance(frame, Exception):
                raise frame
            return Bunch(frame=frame, target_names=[target] if isinstance(target, str) else target)

        monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)
        return calls

    return prepare


def refusal(**arguments) -> RequestError:
    with pytest.raises(RequestError) as caught:
        OpenML(**arguments)
    assert caught.value.allowed
    return caught.value


def test_columns_are_encoded_as_those_of_a_table(answer, tmp_path):
    answer(mixed())
    mixed().to_parquet(tmp_path / "mixed.parquet")
    data, table = OpenML("made", seed=2), Table(str(tmp_path / "mixed.parquet"), "kind", seed=2)
    assert data.describe()["digest"] == table.describe()["digest"]
    assert (data.task, data.classes, data.num_inputs) == ("classification", ("a", "b"), 4)
    assert data.source.startswith("Column 'kind' of made (version 1) on openml.org (60 rows)")


def test_what_is_asked_of_openml(answer):
    frame = mixed()
    calls = answer(frame, "size")
    data = OpenML("adult", version=2, target="size")
    (args, kwargs, timeout), *more = calls
    assert (args, kwargs["version"], kwargs["target_column"], kwargs["as_frame"]) == (("adult",), 2, "size", True)
    assert (timeout, socket.getdefaulttimeout(), more) == (30.0, None, [])
    assert (data.task, data.num_outputs, data.num_inputs) == ("regression", 1, 5)
    assert list(frame.columns) == ["size", "colour", "kind"], "what scikit-learn returned is left as it was"
    OpenML("adult")
    assert calls[1][1]["target_column"] == "default-target"


@pytest.mark.parametrize("form", ["auto", "vector", "image"])
def test_pixels_are_standardized_together(answer, form):
    frame = images()
    answer(frame)
    data = OpenML("made", image_shape=[3, 2, 2], form=form, seed=5)
    rows = split_rows(60, 9, 9, 5, np.arange(60) % 2)
    pixels = frame.drop(columns="kind").to_numpy(dtype=float)
    expected = (pixels - pixels[rows[0]].mean()) / pixels[rows[0]].std()
    for split, part in zip((data.train, data.val, data.test), rows, strict=True):
        x, y = split.tensors
        assert x.shape == (len(part), *((3, 2, 2) if form == "image" else (12,)))
        np.testing.assert_allclose(x.flatten(1).numpy(), expected[part], atol=1e-5)
        assert y.tolist() == (part % 2).tolist()
    assert max(split.tensors[0].abs().max() for split in (data.train, data.val, data.test)) < 3


def test_images_of_one_grey_are_zero_and_the_pixels_of_scikit_learn_stay(answer):
    frame = pd.DataFrame(np.full((60, 12), 0.1, dtype=np.float32)).assign(kind=images()["kind"])  # one array
    answer(frame)
    assert not OpenML("made", image_shape=[1, 3, 4]).train.tensors[0].any()
    assert (frame.drop(columns="kind") == np.float32(0.1)).all().all()


def test_columns_of_a_table_are_standardized_one_by_one(answer):
    answer(images())
    x = OpenML("made").train.tensors[0]
    assert x.mean(dim=0).abs().max() < 1e-6
    assert torch.allclose(x[:, 1:].square().mean(dim=0), torch.ones(11), atol=1e-5)


@pytest.mark.parametrize(
    "shape", [[12], [1, 3, 5], [3, 2, 2, 1], [-1, -3, 4], [0, 3, 4], [], [1, 1.5, 8], ["1", "3", "4"], "1,3,4", 12]
)
def test_refuses_shapes_that_a_row_does_not_fill(answer, shape):
    answer(images())
    error = refusal(dataset="made", image_shape=shape)
    assert (error.key, error.found) == ("image_shape", shape)
    assert "12" in error.allowed


def test_refuses_images_without_a_shape_and_shapes_of_text(answer):
    calls = answer(mixed())
    assert refusal(dataset="made", form="image").key == "image_shape"
    assert calls == [], "before anything is fetched"
    assert refusal(dataset="made", image_shape=[1, 1, 2]).key == "image_shape"


@pytest.mark.parametrize("frame", [mixed().iloc[:0], mixed()[["kind"]]], ids=["rows", "columns"])
def test_refuses_data_without_rows_or_features(answer, frame):
    answer(frame)
    error = refusal(dataset="made")
    assert error.key == "dataset"
    assert f"{len(frame)} rows, {frame.shape[1]} columns" in error.found


@pytest.mark.parametrize("name", [None, "", "  "])
def test_refuses_no_name(name):
    error = refusal(dataset=name)
    assert error.key == "dataset"
    assert "mnist_784" in error.allowed


@pytest.mark.parametrize(
    ("error", "key", "words"),
    [
        (URLError("Name or service not known"), "dataset", "it cannot be downloaded"),
        (TimeoutError("timed out"), "dataset", "it cannot be downloaded"),
        (PermissionError(13, "Permission denied"), "dataset", "it cannot be downloaded"),
        (HTTPError("https://www.openml.org", 503, "busy", None, None), "dataset", "it cannot be downloaded"),
        (ValueError("No known dataset"), "dataset", "OpenML does not provide this data set: No known dataset"),
        (RuntimeError(""), "dataset", "OpenML does not provide this data set: RuntimeError"),
        (KeyError("Could not find target_column='y'"), "target", "has no column 'y'"),
    ],
)
def test_says_what_failed(answer, monkeypatch, tmp_path, error, key, words):
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))
    answer(error)
    refused = refusal(dataset="adult", target="y")
    assert refused.key == key
    assert words in refused.problem
    if "not kept" in words:
        assert str(tmp_path) in refused.found
        assert f"{tmp_path}/openml" in refused.allowed


def test_without_a_network_it_says_so_soon(monkeypatch, tmp_path):
    """The real scikit-learn, with a proxy on a port where nothing listens."""
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # made once in a process, with that moment's proxies
    start = time.monotonic()
    error = refusal(dataset="iris")
    assert time.monotonic() - start < 10
    assert "cannot be downloaded" in error.problem
    assert str(tmp_path) in error.found
    assert error.command == "python -m stabletrain data=digits"


@pytest.mark.parametrize("targets", [[], ["size", "kind"]])
def test_refuses_data_without_one_target(answer, targets):
    answer(mixed(), targets)
    assert refusal(dataset="made").key == "target"


def test_what_a_table_blames_on_its_path_is_blamed_on_the_name(answer):
    frame = mixed()
    frame.loc[3, "size"] = np.nan
    answer(frame)
    error = refusal(dataset="made")
    assert (error.key, error.found) == ("dataset", "size: 1 of 60 rows missing")
    answer(mixed(4))
    assert refusal(dataset="made").key == "dataset"


@pytest.mark.parametrize(
    ("key", "value"),
    [("version", 0), ("version", 1.5), ("batch_size", 0), ("seed", -1), ("task", "gan"), ("val_fraction", 2.0)],
)
def test_refuses_settings(answer, key, value):
    answer(mixed())
    assert refusal(**{"dataset": "made", key: value}).key == key
