"""The copying problem against a slow reference that reads symbol by symbol, and its baseline against the loss."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stabletrain.data import Copying, copying_problem
from stabletrain.data.copying import memoryless_loss
from stabletrain.errors import RequestError

SMALL = {"num_train": 50, "num_val": 30, "num_test": 40, "batch_size": 5}


def slow_answer(shown: list[int]) -> list[int]:
    """Return the targets: remember symbols, and output them one per step after the marker (9)."""
    memory, answers, is_marked = [], [], False
    for symbol in shown:
        answers.append(memory.pop(0) if is_marked else 8)
        is_marked |= symbol == 9
        if symbol < 8:
            memory.append(symbol)
    return answers


@settings(max_examples=60)
@given(num_sequences=st.integers(1, 12), num_steps=st.integers(1, 60), seed=st.integers(0, 2**32 - 1))
def test_copying_is_its_definition(num_sequences, num_steps, seed):
    x, y = copying_problem(num_sequences, num_steps, np.random.default_rng(seed))
    assert (x.shape, y.shape) == ((num_sequences, num_steps + 20, 10), (num_sequences, num_steps + 20))
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert (x.sum(dim=2) == 1).all()
    for shown, asked in zip(x.argmax(dim=2).tolist(), y.tolist(), strict=True):
        assert all(symbol < 8 for symbol in shown[:10])
        assert shown[10:] == [8] * (num_steps - 1) + [9] + [8] * 10
        assert asked == slow_answer(shown)


@pytest.mark.parametrize("num_steps", [1, 50, 200])
def test_the_memoryless_predictor_has_the_baseline_loss(num_steps):
    """Blank with certainty until the marker, then one in eight: 10 ln 8 / (T + 20)."""
    _, y = copying_problem(7, num_steps, np.random.default_rng(0))
    probabilities = torch.zeros(num_steps + 20, 9, dtype=torch.float64)
    probabilities[: num_steps + 10, 8] = 1.0
    probabilities[num_steps + 10 :, :8] = 1 / 8
    logits = probabilities.log().clamp(min=-1e9).expand(7, -1, -1)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())
    assert loss.item() == pytest.approx(memoryless_loss(num_steps), rel=1e-12)
    assert loss.item() == pytest.approx(10 * math.log(8) / (num_steps + 20), rel=1e-12)


def test_no_constant_does_better_after_the_marker():
    _, y = copying_problem(4000, 5, np.random.default_rng(1))
    counts = torch.bincount(y[:, -10:].flatten(), minlength=9)
    assert counts[8] == 0
    assert (counts[:8] - 5000).abs().max() < 5 * (40_000 * 7 / 64) ** 0.5


def test_validation_and_test_sets_are_fixed():
    one, other = Copying(**SMALL, seed=0), Copying(**SMALL, seed=123)
    assert not torch.equal(one.train.tensors[0], other.train.tensors[0])
    for split in ("val", "test"):
        assert torch.equal(getattr(one, split).tensors[1], getattr(other, split).tensors[1])


def test_facts():
    data = Copying(**SMALL, num_steps=30)
    assert (data.num_steps, data.num_inputs, data.num_outputs, data.per_step, data.causal) == (50, 10, 9, True, False)
    assert "0.4159" in data.source  # 10 ln 8 / 50


@pytest.mark.parametrize("key", ["num_steps", "num_train", "num_val", "num_test"])
@pytest.mark.parametrize("value", [0, -1, 10.5, "100", None, True])
def test_refuses_counts(key, value):
    with pytest.raises(RequestError) as caught:
        Copying(**{**SMALL, key: value})
    assert caught.value.key == key
