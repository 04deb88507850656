"""The digits against scikit-learn's array, and the splits against counts."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from stabletrain.data import Digits, digits
from stabletrain.errors import RequestError


def counted(images: torch.Tensor) -> list[tuple[int, ...]]:
    """Undo the standardization: scikit-learn's counts 0 to 16, as tuples."""
    raw = (images.flatten(1).double() * 0.37605 + 0.30526) * 16
    assert (raw - raw.round()).abs().max() < 1e-4
    return [tuple(row) for row in raw.round().int().tolist()]


def all_splits(data: Digits) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [split.tensors for split in (data.train, data.val, data.test)]


@pytest.mark.parametrize("seed", [0, 11])
def test_splits_are_disjoint_and_complete(seed):
    bunch = load_digits()
    truth = sorted(
        (*row, label) for row, label in zip(bunch.data.astype(int).tolist(), bunch.target.tolist(), strict=True)
    )
    assert len(set(truth)) == 1797, "no image is there twice, so that a set of images counts them"
    found = [
        (*row, label)
        for x, y in all_splits(Digits(seed=seed))
        for row, label in zip(counted(x), y.tolist(), strict=True)
    ]
    assert sorted(found) == truth


@pytest.mark.parametrize("seed", [0, 1])
def test_splits_are_stratified(seed):
    data = Digits(seed=seed)
    shares = np.bincount(load_digits().target) / 1797
    for x, y in all_splits(data):
        assert (np.abs(np.bincount(y.numpy(), minlength=10) - shares * len(x)) <= 2).all()


def test_sizes_follow_the_fractions():
    assert [len(x) for x, _ in all_splits(Digits())] == [1257, 270, 270]
    assert [len(x) for x, _ in all_splits(Digits(val_fraction=0.2, test_fraction=0.3))] == [899, 359, 539]


def test_pixels_are_standardized():
    """Mean 0 and mean square 1 over the whole data set, and the constants are the data set's own."""
    x = torch.cat([x for x, _ in all_splits(Digits())]).double()
    assert abs(x.mean().item()) < 1e-4
    assert abs(x.square().mean().item() - 1) < 1e-4
    raw = load_digits().data / 16
    assert (round(raw.mean(), 5), round(raw.std(), 5)) == (0.30526, 0.37605)


def test_sequence_steps_are_rows_and_pixels_in_reading_order():
    image = Digits(form="image").train.tensors[0][3, 0]
    rows = Digits(form="rows").train.tensors[0][3]
    pixels = Digits(form="pixels").train.tensors[0][3]
    for i in range(8):
        for j in range(8):
            assert image[i, j] == rows[i, j] == pixels[8 * i + j, 0]


def test_test_set_does_not_depend_on_the_validation_share():
    one, other = Digits(val_fraction=0.1), Digits(val_fraction=0.4)
    assert torch.equal(one.test.tensors[0], other.test.tensors[0])


def test_smallest_splits():
    data = Digits(val_fraction=0.0112, test_fraction=0.0112, batch_size=1)
    assert [len(x) for x, _ in all_splits(data)] == [1757, 20, 20]
    data = Digits(val_fraction=0.5, test_fraction=0.4885, batch_size=20)
    assert len(data.train) == 21
    for _, y in all_splits(data):
        assert sorted(y.unique().tolist()) == list(range(10))


@pytest.mark.parametrize("key", ["val_fraction", "test_fraction"])
@pytest.mark.parametrize("fraction", [0, 0.0, 1, 1.0, -0.1, 1.5, float("nan"), float("inf"), "0.15", None, True, 0.01])
def test_refuses_fraction(key, fraction):
    with pytest.raises(RequestError) as caught:
        Digits(**{key: fraction})
    assert caught.value.key == key
    assert caught.value.allowed.startswith("a number")


@pytest.mark.parametrize(("val", "test"), [(0.5, 0.5), (0.9, 0.9), (0.85, 0.15), (0.5, 0.495)])
def test_refuses_fractions_that_leave_nothing_to_train_on(val, test):
    with pytest.raises(RequestError, match="too few images to train on") as caught:
        Digits(val_fraction=val, test_fraction=test)
    assert caught.value.key == "val_fraction"
    assert str(test) in str(caught.value)


def test_the_images_are_found_without_scikit_learns_code_and_with_it(monkeypatch):
    read = digits._read_table()
    bunch = load_digits()
    assert (read[:, :-1] == bunch.data).all()
    assert (read[:, -1] == bunch.target).all()
    monkeypatch.setattr(digits.importlib.util, "find_spec", lambda name: None)  # another version keeps it elsewhere
    assert (digits._read_table() == read).all()
