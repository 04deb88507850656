"""User-defined Datasets: what is inferred from their examples, how they are split, and all that is refused."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from stabletrain.data import check_data, scan, wrap_dataset
from stabletrain.errors import RequestError


class Pairs(Dataset):
    """Pairs from a function of the index."""

    def __init__(self, count, pair, **attributes):
        self._count, self._pair = count, pair
        self.reads = 0
        for name, value in attributes.items():
            setattr(self, name, value)

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        self.reads += 1
        return self._pair(index)


def refusal(dataset, **arguments) -> RequestError:
    with pytest.raises(RequestError) as caught:
        wrap_dataset(dataset, **arguments)
    assert caught.value.allowed
    return caught.value


@pytest.fixture
def few(monkeypatch):
    """Limit the scan to 100 examples."""
    monkeypatch.setattr(scan, "MAX_SCANNED", 100)


X = np.random.default_rng(0).normal(size=(200, 6))  # float64


@pytest.mark.parametrize(
    ("pair", "facts"),
    [
        (lambda i: (X[i], i % 3), ("classification", "vector", 6, 3, None, False)),
        (lambda i: [torch.tensor(X[i]), torch.tensor(i % 2)], ("classification", "vector", 6, 2, None, False)),
        (lambda i: (X[i].tolist(), i % 2 == 0), ("classification", "vector", 6, 2, None, False)),
        (lambda i: (X[i].reshape(3, 2), np.int32(i % 4)), ("classification", "sequence", 2, 4, 3, False)),
        (lambda i: (X[i].reshape(3, 2), np.arange(i, i + 3) % 5), ("classification", "sequence", 2, 5, 3, True)),
        (lambda i: (X[i].reshape(1, 2, 3), i % 2), ("classification", "image", 1, 2, None, False)),
        (lambda i: (np.uint8([i, 2, 3]), i % 2), ("classification", "vector", 3, 2, None, False)),
        (lambda i: (X[i], float(i)), ("regression", "vector", 6, 1, None, False)),
        (lambda i: (X[i], X[i][:2]), ("regression", "vector", 6, 2, None, False)),
        (lambda i: (X[i].reshape(3, 2), X[i][:2]), ("regression", "sequence", 2, 2, 3, False)),
        (lambda i: (X[i].reshape(3, 2), X[i].reshape(3, 2)), ("regression", "sequence", 2, 2, 3, True)),
    ],
)
def test_facts_follow_from_the_examples(pair, facts):
    data = wrap_dataset(Pairs(200, pair))
    found = (data.task, data.form, data.num_inputs, data.num_outputs, data.num_steps, data.per_step)
    assert found == facts
    x, y = next(iter(DataLoader(data.train, batch_size=data.batch_size)))
    assert (len(x), x.dtype) == (32, torch.float32)
    assert y.dtype == (torch.int64 if data.task == "classification" else torch.float32)
    assert y.dim() == 1 + data.per_step + (data.task == "regression")
    check_data(data)
    assert data.describe()["name"] == "custom"
    assert "test_dataset" in data.source


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.uint8, torch.int64])
@pytest.mark.parametrize("label", [torch.uint8, torch.uint16, torch.uint64, torch.int32, torch.bool])
def test_types_of_numbers_do_not_matter(dtype, label):
    x = torch.arange(120).reshape(40, 3)
    data = wrap_dataset(TensorDataset(x.to(dtype), (torch.arange(40) % 2).to(label)), batch_size=4)
    assert (data.task, data.num_outputs) == ("classification", 2)
    for inputs, y in data.train:
        assert torch.equal(inputs, x[inputs[0].int() // 3].float())
        assert y == inputs[0].int() // 3 % 2


def test_regression_targets_in_half_precision_and_sparse_inputs():
    y = torch.arange(40).bfloat16()
    data = wrap_dataset(TensorDataset(torch.eye(40).to_sparse(), y), batch_size=4)
    assert data.task == "regression"
    assert [int(x.argmax()) for x, _ in data.test] == [int(value) for _, value in data.test]


@pytest.mark.parametrize(("task", "dtype"), [("regression", torch.float32), ("classification", torch.int64)])
def test_task_decides_where_the_type_does_not(task, dtype):
    whole = wrap_dataset(Pairs(100, lambda i: (X[i], i % 4)), task=task)
    floats = wrap_dataset(Pairs(100, lambda i: (X[i], float(i % 4))), task=task)
    assert whole.task == floats.task == task
    assert whole.train[0][1].dtype == floats.train[0][1].dtype == dtype


def test_splits_are_stratified_disjoint_and_complete():
    dataset = Pairs(200, lambda i: (np.float32([i]), int(i % 10 == 0)))
    data = wrap_dataset(dataset, val_fraction=0.2, test_fraction=0.3, seed=4)
    rows = [[int(x) for x, _ in split] for split in (data.train, data.val, data.test)]
    assert sorted(i for r in rows for i in r) == list(range(200))
    assert [len(r) for r in rows] == [100, 40, 60]
    assert [sum(i % 10 == 0 for i in r) for r in rows] == [10, 4, 6]
    again = wrap_dataset(dataset, val_fraction=0.2, test_fraction=0.3, seed=4)
    other = wrap_dataset(dataset, val_fraction=0.2, test_fraction=0.3, seed=5)
    assert [int(x) for x, _ in again.train] == rows[0]
    assert again.describe()["digest"] == data.describe()["digest"] != other.describe()["digest"]


def test_one_changed_number_changes_the_digest():
    x = torch.from_numpy(X.copy())
    before = wrap_dataset(TensorDataset(x, torch.arange(200) % 2)).describe()["digest"]
    x[77, 3] += 1e-9
    assert wrap_dataset(TensorDataset(x, torch.arange(200) % 2)).describe()["digest"] != before


def test_what_augments_does_so_each_time_and_leaves_the_generators_alone():
    dataset = Pairs(50, lambda i: (torch.randn(2) + np.random.rand() + random.random(), i % 2))
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    data = wrap_dataset(dataset, batch_size=4)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]
    one, other = data.train[0][0], data.train[0][0]
    assert not torch.equal(one, other)


def test_large_sets_are_looked_at_evenly_and_no_more(few):
    dataset = Pairs(1000, lambda i: (X[i % 200], i // 250))  # sorted by class, as folders are
    data = wrap_dataset(dataset)
    assert data.num_outputs == 4
    assert dataset.reads == 101  # and the first of the training set, for its shape
    assert sum(len(split) for split in (data.train, data.val, data.test)) == 1000


def test_labels_of_a_large_set_come_from_its_own_list_if_that_agrees(few):
    def rare(i):
        return X[i % 200], 2 if i == 501 else i % 2

    honest = Pairs(1000, rare, targets=[2 if i == 501 else i % 2 for i in range(1000)])
    assert wrap_dataset(honest).num_outputs == 3
    silent = wrap_dataset(Pairs(1000, rare))
    assert silent.num_outputs == 2
    with pytest.raises(RequestError, match="beyond those found before training") as caught:
        [y for split in (silent.train, silent.val, silent.test) for _, y in split]
    assert caught.value.found == "2 at index 501"
    lying = Pairs(1000, lambda i: (X[i % 200], i % 2), targets=[i % 5 for i in range(1000)])
    assert wrap_dataset(lying).num_outputs == 2


@pytest.mark.parametrize("attributes", [{"num_classes": 7}, {"num_classes": np.int64(7)}, {"classes": list("abcdefg")}])
def test_a_dataset_may_name_its_number_of_classes(attributes):
    dataset = Pairs(100, lambda i: (X[i], 2 * (i % 2)), **attributes)  # 0 and 2 of 0 to 6
    assert wrap_dataset(dataset).num_outputs == 7
    beyond = Pairs(100, lambda i: (X[i], 7 * (i % 2)), **attributes)
    assert "beyond its own number of classes" in refusal(beyond).problem


def spoiled(at, change):
    return Pairs(100, lambda i: change(X[i].copy()) if i == at else (X[i], i % 2))


def put(value):
    def change(x):
        x[2] = value
        return x, 0

    return change


@pytest.mark.parametrize(
    ("dataset", "words", "found"),
    [
        (Pairs(0, None), "is empty", "0 examples"),
        (Pairs(50, lambda i: X[i]), "does not return pairs", "ndarray at index 0"),
        (Pairs(50, lambda i: (X[i], 1, 2)), "does not return pairs", "tuple of 3 at index 0"),
        (Pairs(50, lambda i: {"x": X[i], "y": 0}), "does not return pairs", "dict"),
        (spoiled(42, lambda x: (x[:5], 0)), "inputs of different shapes", "(5,) at index 42, (6,) at index 0"),
        (spoiled(42, lambda x: (x, [0])), "targets of different shapes", "(1,) at index 42, () at index 0"),
        (spoiled(42, put(np.nan)), "not finite", "1 of 100 examples, the first at index 42"),
        (spoiled(42, put(np.inf)), "not finite", "1 of 100 examples, the first at index 42"),
        (spoiled(42, lambda x: 1 / 0), "fails at index 42: ZeroDivisionError", "division by zero"),
        (Pairs(50, lambda i: (X[i], [np.nan][0])), "not finite", "50 of 50"),
        (Pairs(50, lambda i: (X[i], 1)), "single class", "only class 1"),
        (Pairs(50, lambda i: (X[i], -(i % 2))), "not classes", "-1 at index 1"),
        (Pairs(50, lambda i: (X[i], 1 + i % 3)), "with gaps", "3 labels from 1 to 3, without 0"),
        (Pairs(50, lambda i: (X[i], [0, 1, 5][i % 3])), "with gaps", "without 2"),
        (Pairs(50, lambda i: (X[i].reshape(3, 2), [0, 0, 10**9])), "with gaps", "2 labels from 0 to 1000000000"),
        (spoiled(42, put(1e300)), "not finite", "1 of 100 examples, the first at index 42"),
        (Pairs(50, lambda i: (X[i] * 1j, i % 2)), "not numeric", "ndarray and int at index 0"),
        (Pairs(50, lambda i: ("text", 1)), "not numeric", "str and int at index 0"),
        (Pairs(50, lambda i: (X[i], "cat")), "not numeric", "ndarray and str"),
        (Pairs(50, lambda i: (X[i], None)), "not numeric", "NoneType"),
        (Pairs(50, lambda i: (Image.new("RGB", (4, 4)), i % 2)), "not numeric", "Image"),
        (Pairs(50, lambda i: (X[i, 0], i % 2)), "not vectors", "shape ()"),
        (Pairs(50, lambda i: (np.zeros((1, 1, 1, 1)), i % 2)), "not vectors", "(1, 1, 1, 1)"),
        (Pairs(50, lambda i: (np.zeros((0, 2)), i % 2)), "not vectors", "(0, 2)"),
        (Pairs(50, lambda i: (X[i], [0, 1])), "not fit a classification", "(2,) for inputs of shape (6,)"),
        (Pairs(50, lambda i: (X[i].reshape(3, 2), [0, 1])), "not fit a classification", "(2,)"),
        (Pairs(50, lambda i: (X[i], np.zeros((2, 2)))), "not fit a regression", "(2, 2)"),
    ],
)
def test_refuses(dataset, words, found):
    error = refusal(dataset)
    assert error.key == "_target_"
    assert words in error.problem
    assert found in str(error.found)


def test_refuses_half_labels():
    error = refusal(Pairs(50, lambda i: (X[i], i % 2 + 0.5)), task="classification")
    assert (error.found, "not classes" in error.problem) == ("0.5 at index 0", True)


class Endless(Dataset):
    """Has examples, but an unknown length."""

    def __getitem__(self, index):
        return X[index], index % 2

    def __len__(self):
        raise TypeError("endless")


def test_refuses_a_stream():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([(torch.zeros(2), 0)])

    class Sized(Stream):
        def __len__(self):
            raise TypeError

    for dataset in (Stream(), Sized(), TensorDataset, Endless()):
        assert "cannot be split" in refusal(dataset).problem


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch_size", 0),
        ("batch_size", 71),
        ("val_fraction", 0.0),
        ("test_fraction", 1.0),
        ("seed", -1),
        ("task", "gan"),
    ],
)
def test_refuses_settings(key, value):
    assert refusal(Pairs(100, lambda i: (X[i], i % 2)), **{key: value}).key == key


def test_too_few_examples():
    assert refusal(Pairs(3, lambda i: (X[i], i % 2)), batch_size=1).key == "val_fraction"
