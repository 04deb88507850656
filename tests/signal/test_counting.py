"""The one-pass histogram and the root mean square against slow references, over all dtypes and corners."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stabletrain.signal.histogram import LOG10_2, Histogram, log10_edge
from stabletrain.signal.measure import count_exponents, count_nonfinite, root_mean_square

SPECIAL = [0.0, -0.0, 1e-45, 1.1754942e-38, 1.1754944e-38, 1.0, -1.0, 1.9999999, 2.0, 3.4028235e38]
SPECIAL += [math.inf, -math.inf, math.nan, 1e-30, 1e30]
FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True)


def reference(values) -> np.ndarray:
    """Count by frexp in float64, one number at a time."""
    counts = np.zeros(256, dtype=np.int64)
    for x in np.asarray(values, dtype=np.float64).ravel():
        if not math.isfinite(x):
            counts[255] += 1
        elif abs(x) < 2.0**-126:
            counts[0] += 1
        else:
            counts[min(math.frexp(x)[1] - 1 + 127, 254)] += 1
    return counts


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=6), elements=FLOATS))
def test_counts_equal_the_reference_bin_by_bin(values):
    histogram = count_exponents(torch.from_numpy(values))
    assert np.array_equal(histogram.counts, reference(values))
    assert histogram.size == values.size


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_special_values_in_every_dtype(dtype):
    x = torch.tensor(SPECIAL, dtype=torch.float64).to(dtype)
    assert np.array_equal(count_exponents(x).counts, reference(x.double().numpy()))


def test_float64_beyond_float32_goes_to_the_outermost_finite_bins():
    counts = count_exponents(torch.tensor([1e300, 1e-300, math.inf], dtype=torch.float64)).counts
    assert (counts[254], counts[0], counts[255]) == (1, 1, 1)


@pytest.mark.parametrize(
    "x", [torch.empty(0), torch.tensor(3.0), torch.arange(12.0).reshape(3, 4).T, torch.arange(9.0)[::2]]
)
def test_shapes(x):
    assert np.array_equal(count_exponents(x).counts, reference(x.numpy()))


@given(hnp.arrays(np.float32, 20, elements=FLOATS), hnp.arrays(np.float32, 7, elements=FLOATS))
def test_counts_add_up(a, b):
    both = count_exponents(torch.from_numpy(np.concatenate([a, b])))
    assert count_exponents(torch.from_numpy(a)) + count_exponents(torch.from_numpy(b)) == both


@given(hnp.arrays(np.float32, 40, elements=st.floats(2.0**-60, 2.0**60, width=32)), st.floats(0, 1))
def test_a_quantile_is_right_to_a_factor_of_two(values, q):
    found = count_exponents(torch.from_numpy(values)).quantile(q)
    exact = np.quantile(np.abs(values), q, method="inverted_cdf")
    assert found is not None
    assert exact / 2.0001 <= found <= exact * 2.0001


def test_quantiles_of_corners():
    assert count_exponents(torch.zeros(5)).quantile(0.5) == 0.0
    assert count_exponents(torch.tensor([math.nan, math.inf])).quantile(0.5) is None
    assert count_exponents(torch.tensor([0.0, 0.0, 0.0, 1.0])).quantile(0.5) == 0.0
    assert count_exponents(torch.tensor([math.nan, 1.5])).quantile(0.5) == pytest.approx(2**0.5)


def test_edges_are_even_in_log10():
    assert log10_edge(127) == 0.0
    assert log10_edge(128) - log10_edge(127) == pytest.approx(LOG10_2)


@given(hnp.arrays(np.float32, 30, elements=st.floats(-(2.0**60), 2.0**60, width=32)))
def test_rms_equals_float64(values):
    exact = float(np.sqrt(np.mean(values.astype(np.float64) ** 2)))
    assert root_mean_square(torch.from_numpy(values)) == pytest.approx(
        exact, rel=1e-5, abs=0.0 if exact > 1e-18 else 1e-18
    )


@pytest.mark.parametrize("size", [3e38, 1e30, 1e-30, 1e-38, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_neither_overflows_nor_underflows(size, dtype):
    x = torch.full((1000,), size).to(dtype)
    assert root_mean_square(x) == pytest.approx(float(x[0]), rel=1e-4)


def test_rms_leaves_out_what_is_not_finite():
    x = torch.tensor([3.0, math.nan, -4.0, math.inf])
    assert root_mean_square(x) == pytest.approx(math.sqrt(12.5))
    assert count_nonfinite(x) == 2
    assert root_mean_square(torch.tensor([math.nan])) is None
    assert root_mean_square(torch.empty(0)) is None
    assert root_mean_square(torch.zeros(3)) == 0.0
    assert root_mean_square(torch.tensor([0.0, math.nan])) == 0.0


def test_a_histogram_has_256_bins():
    with pytest.raises(AssertionError):
        Histogram(np.zeros(255, dtype=np.int64))
