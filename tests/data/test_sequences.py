"""The synthetic sequences against slow references that follow the definition symbol by symbol."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stabletrain.data import Adding, TemporalOrder, adding_problem, temporal_order_problem
from stabletrain.errors import RequestError

SEEDS = st.integers(0, 2**32 - 1)
SMALL = {"num_train": 50, "num_val": 30, "num_test": 40, "batch_size": 5}


def slow_sum(sequence: list[list[float]]) -> float:
    total = 0.0
    for value, marker in sequence:
        if marker == 1.0:
            total += value
    return total


def slow_order(sequence: list[list[float]]) -> int:
    text = "".join("ABcdef"[step.index(1.0)] for step in sequence)
    return ["AA", "AB", "BA", "BB"].index("".join(letter for letter in text if letter in "AB"))


@settings(max_examples=60)
@given(num_sequences=st.integers(1, 12), num_steps=st.integers(2, 90), seed=SEEDS)
def test_adding_is_its_definition(num_sequences, num_steps, seed):
    x, y = adding_problem(num_sequences, num_steps, np.random.default_rng(seed))
    assert (x.shape, y.shape) == ((num_sequences, num_steps, 2), (num_sequences, 1))
    assert x[:, :, 0].min() >= 0
    assert x[:, :, 0].max() < 1
    half = num_steps // 2
    for sequence, target in zip(x.tolist(), y[:, 0].tolist(), strict=True):
        markers = [t for t, (_, marker) in enumerate(sequence) if marker != 0.0]
        assert len(markers) == 2
        assert markers[0] < half <= markers[1]
        assert target == pytest.approx(slow_sum(sequence), abs=1e-6)


@settings(max_examples=60)
@given(num_sequences=st.integers(1, 12), num_steps=st.integers(10, 130), seed=SEEDS)
def test_temporal_order_is_its_definition(num_sequences, num_steps, seed):
    x, y = temporal_order_problem(num_sequences, num_steps, np.random.default_rng(seed))
    assert (x.shape, y.shape) == ((num_sequences, num_steps, 6), (num_sequences,))
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert (x.sum(dim=2) == 1).all()
    length = Fraction(num_steps)
    for sequence, label in zip(x.tolist(), y.tolist(), strict=True):
        first, second = [t for t, step in enumerate(sequence) if step[0] or step[1]]
        assert length / 10 <= first < 2 * length / 10
        assert 5 * length / 10 <= second < 6 * length / 10
        assert label == slow_order(sequence)


@pytest.mark.parametrize("num_steps", [2, 3, 7, 10])
def test_every_marker_position_is_drawn(num_steps):
    x, _ = adding_problem(2000, num_steps, np.random.default_rng(0))
    counts = x[:, :, 1].sum(dim=0)
    half = num_steps // 2
    expected = torch.tensor([2000 / half] * half + [2000 / (num_steps - half)] * (num_steps - half))
    assert (counts - expected).abs().max() <= 5 * expected.sqrt().max()  # five standard deviations
    assert counts.sum() == 4000


def test_temporal_order_draws_evenly():
    x, y = temporal_order_problem(4000, 40, np.random.default_rng(0))
    assert (torch.bincount(y, minlength=4) - 1000).abs().max() < 5 * 750**0.5
    informative = x[:, :, :2].sum(dim=(0, 2))
    assert informative.nonzero().flatten().tolist() == [4, 5, 6, 7, 20, 21, 22, 23]
    assert (informative[informative > 0] - 1000).abs().max() < 5 * 750**0.5
    distractors = x[:, :, 2:].mean(dim=(0, 1)) / (38 / 40)
    assert (distractors - 0.25).abs().max() < 0.01


def test_baselines():
    _, y = adding_problem(20_000, 10, np.random.default_rng(1))
    assert (y - 1).square().mean().item() == pytest.approx(1 / 6, abs=5 * 0.197 / 20_000**0.5)


def test_values_next_to_the_markers_say_nothing():
    """The unmarked values are noise: a least squares fit on all values without markers explains them to 2/T."""
    x, y = adding_problem(20_000, 10, np.random.default_rng(2))
    values = x[:, :, 0] - 0.5
    weights = torch.linalg.lstsq(values, y - 1).solution
    left = (values @ weights - (y - 1)).square().mean().item()
    assert left == pytest.approx((1 / 6) * (1 - 1 / 5), rel=0.03)  # each value is marked with probability 1/5


@pytest.mark.parametrize("cls", [Adding, TemporalOrder])
def test_validation_and_test_sets_are_fixed(cls):
    one, other = cls(**SMALL, seed=0), cls(**SMALL, seed=123)
    assert not torch.equal(one.train.tensors[0], other.train.tensors[0])
    for split in ("val", "test"):
        for a, b in zip(getattr(one, split).tensors, getattr(other, split).tensors, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("cls", [Adding, TemporalOrder])
def test_validation_and_test_sets_ignore_the_training_size(cls):
    one, other = cls(**SMALL), cls(**{**SMALL, "num_train": 77})
    assert torch.equal(one.val.tensors[0], other.val.tensors[0])
    assert torch.equal(one.test.tensors[0], other.test.tensors[0])


@pytest.mark.parametrize("cls", [Adding, TemporalOrder])
@pytest.mark.parametrize("seed", range(6))
def test_no_sequence_is_in_two_splits(cls, seed):
    """Seeds 1 to 3 equal the stream numbers of the splits: no two data sets may coincide."""
    data = cls(num_train=300, num_val=300, num_test=300, num_steps=40, seed=seed, form="vector")
    rows = [tuple(row) for split in (data.train, data.val, data.test) for row in split.tensors[0].tolist()]
    assert len(set(rows)) == 900


def test_vector_is_the_sequence_laid_out_step_by_step():
    sequence = Adding(**SMALL, num_steps=6).val.tensors[0]
    vector = Adding(**SMALL, num_steps=6, form="vector").val.tensors[0]
    for t in range(6):
        assert torch.equal(vector[:, 2 * t], sequence[:, t, 0])
        assert torch.equal(vector[:, 2 * t + 1], sequence[:, t, 1])


@pytest.mark.parametrize(("cls", "shortest"), [(Adding, 2), (TemporalOrder, 10)])
def test_shortest_sequence_and_smallest_sets(cls, shortest):
    data = cls(batch_size=1, num_steps=shortest, num_train=1, num_val=1, num_test=1)
    assert data.num_steps == shortest
    assert len(data.train) == len(data.val) == len(data.test) == 1
    for wrong in (shortest - 1, 0, -5):
        with pytest.raises(RequestError) as caught:
            cls(num_steps=wrong)
        assert (caught.value.key, caught.value.found) == ("num_steps", wrong)
        assert caught.value.allowed == f"an integer from {shortest}"


@pytest.mark.parametrize("cls", [Adding, TemporalOrder])
@pytest.mark.parametrize("key", ["num_steps", "num_train", "num_val", "num_test"])
@pytest.mark.parametrize("value", [0, -1, 10.5, float("nan"), "100", None, True])
def test_refuses_counts(cls, key, value):
    with pytest.raises(RequestError) as caught:
        cls(**{**SMALL, key: value})
    assert caught.value.key == key
