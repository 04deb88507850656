"""Running medians: a window that is moved along against NumPy's over all windows, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stabletrain.diagnosis import progress
from stabletrain.diagnosis.progress import running_medians


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=60), st.integers(1, 60))
def test_moving_a_window_along_gives_the_same_medians(numbers, width):
    values, width = np.array(numbers), min(width, len(numbers))
    expected = np.median(np.lib.stride_tricks.sliding_window_view(values, width), axis=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "MANY", 0)
        np.testing.assert_array_equal(running_medians(values, width), expected)


def test_the_memory_does_not_grow_with_the_product_of_losses_and_window(monkeypatch):
    """Without NumPy's windows, which are refused here; the control asks for them."""

    def refuse(*arguments):
        raise MemoryError

    monkeypatch.setattr(np.lib.stride_tricks, "sliding_window_view", refuse)
    values = np.arange(5000.0)
    assert running_medians(values, 500)[[0, -1]].tolist() == [249.5, 4749.5]
    with pytest.raises(MemoryError):
        running_medians(values[:100], 10)


def test_values_that_are_not_finite_are_left_to_numpy(monkeypatch):
    monkeypatch.setattr(progress, "MANY", 0)
    found = running_medians(np.array([1.0, np.nan, 3.0, 4.0, 5.0]), 3)
    assert np.isnan(found[0])
    assert found[-1] == 4.0
