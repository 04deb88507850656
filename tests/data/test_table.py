"""Tables against plain numpy and scikit-learn, and every reason to refuse a file or a target."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_diabetes, load_iris
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from stabletrain.data import Table
from stabletrain.data.splits import split_rows
from stabletrain.data.tables.columns import encode_features, standardize
from stabletrain.errors import RequestError

IRIS = Path(__file__).with_name("iris.csv")


def write(folder: Path, table: pd.DataFrame, name: str = "table.csv") -> str:
    path = folder / name
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False)
    return str(path)


def mixed(num_rows: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "size": rng.normal(50, 7, num_rows),
            "colour": np.array(["red", "green", "blue"])[np.arange(num_rows) % 3],
            "is_new": np.arange(num_rows) % 2 == 0,
            "count": rng.integers(0, 1000, num_rows),
            "same": np.full(num_rows, 0.1),
            "price": rng.normal(1e5, 2e4, num_rows),
        }
    )


def parts(data: Table) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [split.tensors for split in (data.train, data.val, data.test)]


def refusal(**arguments) -> RequestError:
    with pytest.raises(RequestError) as caught:
        Table(**arguments)
    assert caught.value.allowed or caught.value.key == "form"
    return caught.value


# --- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 9])
def test_classification_against_scikit_learn(seed):
    bunch = load_iris()
    data = Table(str(IRIS), "species", seed=seed)
    assert (data.task, data.num_outputs, data.classes) == (
        "classification",
        3,
        ("setosa", "versicolor", "virginica"),
    )
    rows = split_rows(150, 22, 22, seed, bunch.target)
    scaler = StandardScaler().fit(bunch.data[rows[0]])
    for (x, y), part in zip(parts(data), rows, strict=True):
        np.testing.assert_allclose(x.numpy(), scaler.transform(bunch.data[part]), atol=1e-5)
        assert y.tolist() == bunch.target[part].tolist()
        assert np.ptp(np.bincount(y)) <= 1  # fifty of each class in the file
    assert (data.target_mean, data.target_std) == (0.0, 1.0)


def test_regression_against_scikit_learn(tmp_path):
    frame = load_diabetes(as_frame=True).frame
    data = Table(write(tmp_path, frame), "target", seed=3)
    assert (data.task, data.num_inputs, data.num_outputs, data.classes) == ("regression", 10, 1, None)
    rows = split_rows(442, 66, 66, 3)
    train = frame.iloc[rows[0]]
    for (x, y), part in zip(parts(data), rows, strict=True):
        expected = (frame.iloc[part] - train.mean()) / train.std(ddof=0)
        np.testing.assert_allclose(x.numpy(), expected.drop(columns="target"), atol=1e-5)
        np.testing.assert_allclose(y.numpy(), expected[["target"]], atol=1e-5)
        np.testing.assert_allclose(y * data.target_std + data.target_mean, frame[["target"]].iloc[part], rtol=1e-5)
    assert parts(data)[0][1].square().mean().item() == pytest.approx(1, abs=1e-5)  # the error of predicting the mean


@pytest.mark.parametrize("name", ["table.csv", "table.parquet", "TABLE.CSV"])
def test_every_kind_of_column(tmp_path, name):
    frame = mixed()
    data = Table(write(tmp_path, frame, name), "price")
    rows = split_rows(60, 9, 9, 0)
    one_hot = OneHotEncoder(sparse_output=False).fit_transform(frame[["colour"]])
    assert data.num_inputs == 1 + 3 + 1 + 1 + 1
    for (x, _), part in zip(parts(data), rows, strict=True):
        for column, expected in (
            (0, standardize(frame["size"].to_numpy(), rows[0])[part]),
            (slice(1, 4), one_hot[part]),  # blue, green, red
            (4, frame["is_new"].to_numpy()[part]),
            (5, standardize(frame["count"].to_numpy(dtype=float), rows[0])[part]),
            (6, np.zeros(len(part))),
        ):
            np.testing.assert_allclose(x.numpy()[:, column], expected, atol=1e-6)


def test_constant_in_the_training_rows_is_zero_everywhere():
    values = np.array([0.1] * 9 + [7.0])  # 0.1 nine times has a deviation of 1e-17
    assert standardize(values, np.arange(9)).tolist() == [0.0] * 10


def test_large_offsets_keep_their_digits():
    values = 1.7e9 + np.arange(100.0)  # seconds since 1970: float32 would see steps of 128
    np.testing.assert_allclose(
        standardize(values, np.arange(100)), (np.arange(100) - 49.5) / np.arange(100).std(), rtol=1e-9
    )


@pytest.mark.parametrize(
    "dtype", ["Int64", "Float64", "int8", "uint16", "float32", "category", "boolean", "string", "object"]
)
def test_pandas_types_of_a_feature(tmp_path, dtype):
    values = np.arange(40) % 2
    column = pd.Series(values.astype(str) if dtype in ("string", "object", "category") else values).astype(dtype)
    data = Table(write(tmp_path, pd.DataFrame({"x": column, "y": values}), "t.parquet"), "y", batch_size=8)
    assert data.num_inputs == (2 if dtype in ("category", "string", "object") else 1)
    for x, y in parts(data):
        assert torch.equal(x[:, -1] > 0, y == 1)


def test_categories_that_are_numbers_are_one_hot():
    features = pd.DataFrame({"x": pd.Categorical([30, 4, 30, 100])})
    assert encode_features(features, np.arange(4)).tolist() == [[0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_same_numbers_from_csv_and_parquet(tmp_path):
    frame = mixed().round(3)
    digests = {Table(write(tmp_path, frame, f"t{end}"), "price").describe()["digest"] for end in (".csv", ".parquet")}
    assert len(digests) == 1


# --- task and classes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        ([3, 7, 5], "classification", (3, 5, 7)),
        (["b", "a"], "classification", ("a", "b")),
        ([True, False], "classification", (False, True)),
        (list(range(20)), "classification", tuple(range(20))),
        (list(range(21)), "regression", None),
        ([0.0, 1.0], "regression", None),
    ],
    ids=["integers", "text", "booleans", "twenty", "twenty-one", "floats"],
)
def test_task_that_a_target_suggests(tmp_path, values, task, classes):
    target = (values * 210)[:210]
    path = write(tmp_path, pd.DataFrame({"x": np.arange(210), "y": target}))
    data = Table(path, "y")
    assert (data.task, data.classes) == (task, classes)
    if classes:
        order = {x: y for inputs, labels in parts(data) for x, y in zip(inputs[:, 0].tolist(), labels, strict=True)}
        assert [data.classes[order[x]] for x in sorted(order)] == target


def test_task_may_be_given(tmp_path):
    path = write(tmp_path, pd.DataFrame({"x": np.arange(60), "few": np.arange(60) % 3, "half": np.arange(60) % 2 / 2}))
    assert Table(path, "few", task="regression").num_outputs == 1
    assert Table(path, "half", task="classification").classes == (0.0, 0.5)


def test_category_target(tmp_path):
    kind = pd.Categorical(["low", "high"] * 30, categories=["low", "high", "never"])
    path = write(tmp_path, pd.DataFrame({"x": np.arange(60), "y": kind}), "t.parquet")
    assert Table(path, "y").classes == ("high", "low")


@pytest.mark.parametrize("seed", range(5))
def test_rows_of_a_rare_class_train(tmp_path, seed):
    target = ["a"] * 40 + ["b"] * 38 + ["rare"] * 2
    data = Table(write(tmp_path, pd.DataFrame({"x": np.arange(80), "y": target})), "y", seed=seed)
    counts = [np.bincount(y, minlength=3).tolist() for _, y in parts(data)]
    assert np.sum(counts, axis=0).tolist() == [40, 38, 2]
    assert [row[2] for row in counts] == [2, 0, 0]
    assert all(min(row[:2]) >= 5 for row in counts)


def test_target_of_digits(tmp_path):
    path = write(tmp_path, pd.DataFrame({"0": np.arange(60.0), "1": np.arange(60.0)}))
    assert Table(path, 1).target == "1"  # a command line reads 1 as a number


def test_source_names_target_and_file():
    assert "'species' of iris.csv (150 rows)" in Table(str(IRIS), "species").source


def test_smallest_file(tmp_path):
    frame = pd.DataFrame({"x": np.arange(6.0), "y": np.arange(6.0)})
    arguments = {"target": "y", "val_fraction": 0.34, "test_fraction": 0.34}
    data = Table(write(tmp_path, frame), batch_size=2, **arguments)
    assert [len(x) for x, _ in parts(data)] == [2, 2, 2]
    assert refusal(path=write(tmp_path, frame), **arguments).closest == "2"


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "found", "closest"),
    [
        ("irsi.csv", None, "iris.csv"),
        ("iris.parquet", None, "iris.csv"),
        ("missing.csv", None, None),
        ("", None, "iris.csv"),  # the folder itself, in which only one table is
        ("nowhere/iris.csv", None, None),
        ("iris.txt", None, "iris.csv"),
    ],
)
def test_refuses_path(tmp_path, name, found, closest):
    for file in ("iris.csv", "iris.txt"):
        (tmp_path / file).write_text(IRIS.read_text())
    error = refusal(path=str(tmp_path / name), target="species")
    assert (error.key, error.found) == ("path", str(tmp_path / name))
    assert error.allowed.startswith("a CSV or Parquet file")
    assert error.closest == (str(tmp_path / closest) if closest else None)


@pytest.mark.parametrize(("path", "found"), [(None, "null"), ("", ""), ("  ", "")])
def test_refuses_no_path(tmp_path, monkeypatch, path, found):
    monkeypatch.chdir(tmp_path)
    assert refusal(path=path, target="y").closest is None
    (tmp_path / "mine.csv").write_text("x,y\n1,2\n")
    error = refusal(path=path, target="y")
    assert (error.key, error.found, error.allowed) == ("path", found, "a CSV or Parquet file")
    assert error.closest == "mine.csv"
    (tmp_path / "other.csv").write_text("x,y\n1,2\n")
    assert refusal(path=path, target="y").closest is None


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", b"", "cannot be read"),
        ("t.csv", b"x,y\n", "no rows"),
        ("t.csv", b"\xff\xfe\x00\x81,y\n1,2\n", "cannot be read"),
        ("t.csv", b"x,y\n1,2\n1,2,3,4\n", "cannot be read"),
        ("t.csv", b"x,y\n1,2,3\n4,5,6\n", "more fields"),
        ("t.csv", b"x,y\n0,2,3\n1,5,6\n", "more fields"),
        ("t.csv", b"x;y\n1;2\n", "single column"),
        ("t.csv", b",x,y\n0,1,2\n", "no name"),
        ("t.parquet", b"", "cannot be read"),
        ("t.parquet", b"x,y\n1,2\n", "cannot be read"),
    ],
)
def test_refuses_content(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    error = refusal(path=str(tmp_path / name), target="y")
    assert error.key == "path"
    assert words in error.problem
    assert name in str(error.found)


@pytest.mark.parametrize(
    ("target", "closest"),
    [("specie", "species"), ("Species", "species"), ("qqq", None), (None, "species"), (" ", "species"), (3, None)],
)
def test_refuses_target(target, closest):
    error = refusal(path=str(IRIS), target=target)
    assert (error.key, error.found, error.closest) == ("target", "null" if target is None else target, closest)
    assert error.allowed.split(", ") == list(pd.read_csv(IRIS).columns)


def test_a_usual_name_is_proposed_and_long_tables_are_cut_short(tmp_path):
    path = write(tmp_path, pd.DataFrame({name: range(30) for name in ["Label", *map(str, range(99))]}))
    error = refusal(path=path)
    assert error.closest == "Label"
    assert error.allowed.endswith("18, … (100 in all)")


@pytest.mark.parametrize(
    ("target", "task", "words"),
    [
        (["a"] * 60, "auto", "single value in the file"),
        ([2] * 60, "auto", "single value in the file"),
        ([2.5] * 60, "auto", "single value in the training set"),
        ([f"id {i}" for i in range(60)], "auto", "Too few rows"),
    ],
)
def test_refuses_target_values(tmp_path, target, task, words):
    error = refusal(path=write(tmp_path, pd.DataFrame({"x": range(60), "y": target})), target="y", task=task)
    assert error.key == "target"
    assert words in error.problem


@pytest.mark.parametrize(("task", "closest"), [("regression", "classification"), ("regressio", "regression")])
def test_refuses_task(task, closest):
    error = refusal(path=str(IRIS), target="species", task=task)
    assert (error.key, error.closest) == ("task", closest)
    assert str(error.found).startswith(task)


@pytest.mark.parametrize(
    ("changes", "key", "found"),
    [
        ({"size": np.nan}, "path", "size: 3 of 60 rows missing"),
        ({"size": np.inf}, "path", "size: 3 of 60 rows infinite or outside float32"),
        ({"size": -1e39}, "path", "size: 3 of 60 rows infinite or outside float32"),
        ({"colour": None}, "path", "colour: 3 of 60 rows missing"),
        ({"price": np.nan}, "target", "price: 3 of 60 rows missing"),
        ({"size": np.nan, "colour": None}, "path", "size: 3 of 60 rows missing; colour: 3 of 60 rows missing"),
    ],
)
@pytest.mark.parametrize("end", ["csv", "parquet"])
def test_refuses_cells_without_a_value(tmp_path, changes, key, found, end):
    frame = mixed()
    for column, value in changes.items():
        frame.loc[[4, 5, 6], column] = value
    error = refusal(path=write(tmp_path, frame, f"t.{end}"), target="price")
    assert (error.key, error.found) == (key, found)


def test_largest_numbers_stay_finite(tmp_path):
    frame = mixed()
    frame.loc[0, "size"] = 3e38
    assert all(x.isfinite().all() for x, _ in parts(Table(write(tmp_path, frame), "price")))


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pd.date_range("2020-01-01", periods=300), "neither numbers"),
        ([b"x"] * 300, "neither numbers"),
        ([[1, 2]] * 300, "neither numbers"),
        ([f"name {i}" for i in range(300)], "too many distinct texts"),
    ],
    ids=["dates", "bytes", "lists", "names"],
)
def test_refuses_features(tmp_path, column, words):
    frame = pd.DataFrame({"x": column, "y": np.arange(300) % 2})
    error = refusal(path=write(tmp_path, frame, "t.parquet"), target="y")
    assert error.key == "path"
    assert words in error.problem
    assert str(error.found).startswith("x")


def test_refuses_a_target_of_dates(tmp_path):
    frame = pd.DataFrame({"x": range(30), "y": pd.date_range("2020-01-01", periods=30)})
    assert refusal(path=write(tmp_path, frame, "t.parquet"), target="y").key == "target"


@pytest.mark.parametrize(("num_rows", "key"), [(1, "path"), (5, "path"), (8, "val_fraction")])
def test_refuses_too_few_rows(tmp_path, num_rows, key):
    frame = pd.DataFrame({"x": np.arange(num_rows), "y": np.arange(num_rows) / 2})
    assert refusal(path=write(tmp_path, frame), target="y").key == key


def test_refuses_a_sequence_and_names_the_family_that_reads_vectors():
    assert refusal(path=str(IRIS), target="species", form="sequence").command == "model=mlp"


@pytest.mark.parametrize(("val", "test"), [(0.5, 0.5), (0.9, 0.3)])
def test_refuses_fractions_that_leave_nothing_to_train_on(val, test):
    error = refusal(path=str(IRIS), target="species", val_fraction=val, test_fraction=test)
    assert error.key == "val_fraction"
    assert "too few rows to train on" in error.problem
