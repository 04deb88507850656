"""The rows of three splits: against scikit-learn's own splits, and with classes too rare to stratify."""

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from stabletrain.data.splits import split_rows, split_sizes
from stabletrain.errors import RequestError


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("labels", [np.arange(200) % 7, None])
def test_two_cuts_of_scikit_learn(seed, labels):
    rest, test = train_test_split(np.arange(200), test_size=30, stratify=labels, random_state=seed)
    strata = None if labels is None else labels[rest]
    train, val = train_test_split(rest, test_size=40, stratify=strata, random_state=seed)
    found = split_rows(200, 40, 30, seed, labels)
    assert [part.tolist() for part in found] == [train.tolist(), val.tolist(), test.tolist()]


@pytest.mark.parametrize(
    "labels",
    [
        np.array([0] * 19 + [1]),  # one row of a class
        np.array([0] * 17 + [1] * 3),  # the first cut may leave one row
        np.arange(20) % 10,  # more classes than rows in a split
        np.zeros(20, dtype=int),
    ],
    ids=["single", "few", "many", "one"],
)
@pytest.mark.parametrize("seed", range(8))
def test_classes_too_rare_to_be_cut_are_cut_at_random(labels, seed):
    train, val, test = split_rows(20, 3, 12, seed, labels)
    assert [len(train), len(val), len(test)] == [5, 3, 12]
    assert sorted([*train, *val, *test]) == list(range(20))


@pytest.mark.parametrize("num_examples", [6, 7, 9, 13, 1000])
def test_the_fraction_that_an_error_proposes_is_taken(num_examples):
    with pytest.raises(RequestError) as caught:
        split_sizes(num_examples, 1e-6, 0.34, 2, "rows")
    assert caught.value.key == "val_fraction"
    assert split_sizes(num_examples, float(caught.value.closest), 0.34, 2, "rows")[0] >= 2
