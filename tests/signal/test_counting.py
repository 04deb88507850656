"""Compare the one-pass histogram and the rms of both CPU backends with slow references, in every dtype."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stabletrain.signal.histogram import LOG10_2, Histogram, log10_edge
from stabletrain.signal.kernels import numba_kernel, numpy_kernel, reduce
from stabletrain.signal.kernels.reduce import measure_tensors, prepare

SPECIAL = [0.0, -0.0, 1e-45, 1.1754942e-38, 1.1754944e-38, 1.0, -1.0, 1.9999999, 2.0, 3.4028235e38]
SPECIAL += [math.inf, -math.inf, math.nan, 1e-30, 1e30]
FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True)


def measure(x):
    return measure_tensors([""], [x], histograms=True)[0]


def count_exponents(x) -> Histogram:
    return measure(x).histogram


def root_mean_square(x):
    rms = measure_tensors([""], [x], histograms=False)[0].rms
    assert measure(x).rms == (None if rms is None else pytest.approx(rms, rel=1e-9, abs=0.0))
    return rms


prepare()  # so that neither compilation nor torch's first call is part of a timed example
count_exponents(torch.zeros(1))


@pytest.fixture(scope="module", params=[numba_kernel, numpy_kernel], ids=["numba", "numpy"], autouse=True)
def backend(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reduce, "choose_backend", lambda: request.param)
        yield request.param


def reference(values) -> np.ndarray:
    """Count with `frexp` in float64, one number at a time."""
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_number_of_the_short_dtypes(dtype):
    x = torch.from_numpy(np.arange(2**16, dtype=np.uint16).view(np.int16)).view(dtype)
    assert np.array_equal(count_exponents(x).counts, reference(x.double().numpy()))


def test_random_bits_as_float32():
    bits = torch.randint(-(2**31), 2**31, (20_000,), dtype=torch.int64).to(torch.int32)
    x = bits.view(torch.float32)
    assert np.array_equal(count_exponents(x).counts, reference(x.double().numpy()))


@given(hnp.arrays(np.float64, 20, elements=st.floats(allow_nan=True, allow_infinity=True)))
def test_float64_is_binned_by_its_own_exponent(values):
    assert np.array_equal(count_exponents(torch.from_numpy(values)).counts, reference(values))


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


@given(hnp.arrays(np.float32, st.integers(1, 40), elements=FLOATS), st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]))
def test_a_quantile_is_exact_to_its_bin(values, q):
    histogram = count_exponents(torch.from_numpy(values))
    finite = np.abs(values[np.isfinite(values)].astype(np.float64))
    found = histogram.quantile(q)
    if finite.size == 0:
        assert found is None
        return
    exact = float(np.quantile(finite, q, method="inverted_cdf"))
    if exact < 2.0**-126:
        assert found == 0.0
    else:
        assert found is not None
        low = 2.0 ** math.floor(math.log2(exact))
        assert low <= found <= 2 * low
        assert 10 ** log10_edge(math.frexp(exact)[1] + 126) == pytest.approx(low, rel=1e-9, abs=0.0)


def test_quantiles_rise_with_q():
    histogram = count_exponents(torch.randn(1000) * 10 ** torch.linspace(-20, 20, 1000))
    found = [histogram.quantile(q) for q in np.linspace(0, 1, 101)]
    assert found == sorted(found)
    ends = np.flatnonzero(histogram.counts)[[0, -1]]
    assert (found[0], found[-1]) == (2.0 ** (ends[0] - 127), 2.0 ** (ends[1] - 126))


def test_quantiles_of_corners():
    assert count_exponents(torch.empty(0)).quantile(0.5) is None
    assert count_exponents(torch.tensor([0.0, 1.0])).quantile(1.0) == 2.0
    assert count_exponents(torch.tensor([0.0, 1.0])).quantile(0.0) == 0.0
    assert count_exponents(torch.tensor([1.0])).quantile(0.0) == 1.0
    assert count_exponents(torch.zeros(5)).quantile(0.5) == 0.0
    assert count_exponents(torch.tensor([math.nan, math.inf])).quantile(0.5) is None
    assert count_exponents(torch.tensor([0.0, 0.0, 0.0, 1.0])).quantile(0.5) == 0.0
    assert count_exponents(torch.tensor([math.nan, 1.5])).quantile(0.5) == pytest.approx(2**0.5)


def test_edges_are_even_in_log10():
    assert log10_edge(127) == 0.0
    assert log10_edge(128) - log10_edge(127) == pytest.approx(LOG10_2)


@given(hnp.arrays(np.float32, 30, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_rms_equals_float64(values):
    exact = float(np.sqrt(np.mean(values.astype(np.float64) ** 2)))
    assert root_mean_square(torch.from_numpy(values)) == pytest.approx(exact, rel=1e-5, abs=0.0)


@given(hnp.arrays(np.float32, 30, elements=FLOATS))
def test_rms_is_that_of_the_finite_elements(values):
    finite = values[np.isfinite(values)].astype(np.float64)
    found = root_mean_square(torch.from_numpy(values))
    if finite.size == 0:
        assert found is None
    else:
        assert found == pytest.approx(float(np.sqrt(np.mean(finite**2))), rel=1e-5, abs=0.0)


@pytest.mark.parametrize("size", [3e38, 1e30, 1e-15, 1e-17, 1e-19, 1e-20, 1.5e-22, 3e-23, 1e-30, 1e-38, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_neither_overflows_nor_underflows(size, dtype):
    x = torch.full((1000,), size).to(dtype)
    assert root_mean_square(x) == pytest.approx(float(x[0]), rel=1e-4, abs=0.0)


@given(hnp.arrays(np.float32, 20, elements=st.floats(-1, 1, width=32)), st.integers(-140, 127))
def test_rms_at_every_scale(values, exponent):
    values = np.ldexp(values, exponent).astype(np.float32)
    exact = float(np.sqrt(np.mean(values.astype(np.float64) ** 2)))
    assert root_mean_square(torch.from_numpy(values)) == pytest.approx(exact, rel=1e-5, abs=0.0)


def test_rms_leaves_out_what_is_not_finite():
    x = torch.tensor([3.0, math.nan, -4.0, math.inf])
    assert root_mean_square(x) == pytest.approx(math.sqrt(12.5))
    assert measure(x).num_nonfinite == 2
    assert root_mean_square(torch.tensor([math.nan])) is None
    assert root_mean_square(torch.empty(0)) is None
    assert root_mean_square(torch.zeros(3)) == 0.0
    assert root_mean_square(torch.tensor([0.0, math.nan])) == 0.0


@pytest.mark.parametrize("size", [1.7e308, 1e300, 1e-200, 1e-320])
def test_rms_of_float64_has_float64s_range(size):
    assert root_mean_square(torch.full((10,), size, dtype=torch.float64)) == pytest.approx(size, rel=1e-3, abs=0.0)


@pytest.mark.parametrize("num_elements", [2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20 + 5])
def test_rms_over_several_blocks(num_elements):
    x = torch.rand(num_elements, 2)[:, 0] + 0.5  # a strided view of every other element
    exact = float(np.sqrt(np.mean(x.numpy().astype(np.float64) ** 2)))
    assert root_mean_square(x) == pytest.approx(exact, rel=1e-5)


def test_rms_of_very_many_elements_does_not_stand_still():
    x = torch.ones(1).expand(400_000_000)  # one element in memory; a sum in eight float32 lanes would saturate at 2**27
    assert root_mean_square(x) == pytest.approx(1.0)


@given(st.lists(hnp.arrays(np.float32, st.integers(0, 50), elements=FLOATS), max_size=4))
def test_both_backends_read_the_same(arrays):
    tensors, sizes = [torch.from_numpy(x) for x in arrays], np.array([x.size for x in arrays], np.int64)
    one, other = (kernel.count_exponents(tensors, sizes) for kernel in (numba_kernel, numpy_kernel))
    for name in ("num_nonfinite", "counts", "special"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None), name
        if a is not None:
            assert a.dtype == b.dtype
            assert np.array_equal(a, b), name
    np.testing.assert_allclose(one.squares, other.squares, rtol=1e-12)
    for kernel in (numba_kernel, numpy_kernel):
        alone = kernel.sum_squares(tensors, sizes)
        np.testing.assert_allclose(alone.squares, one.squares, rtol=1e-12)
        assert (alone.num_nonfinite is None) == (one.num_nonfinite is None)
        assert alone.counts is None
        assert alone.special is None


def test_the_control_tells_backends_that_differ_apart(backend):
    x = [torch.tensor([1.0, 2.0])]
    found = backend.count_exponents(x, np.array([2]))
    x[0][1] = 4.0
    assert not np.array_equal(found.counts, backend.count_exponents(x, np.array([2])).counts)


def test_measuring_leaves_the_tensor_and_the_random_state_alone():
    x = torch.randn(50, requires_grad=True)
    before, state = x.detach().clone(), torch.get_rng_state()
    count_exponents(x), root_mean_square(x)
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert x.grad is None


def test_a_histogram_has_256_bins():
    with pytest.raises(AssertionError):
        Histogram(np.zeros(255, dtype=np.int64))


def test_numbers_of_a_histogram():
    histogram = count_exponents(torch.tensor(SPECIAL, dtype=torch.float32))
    assert (histogram.size, histogram.num_zero, histogram.num_nonfinite) == (15, 4, 3)
    assert histogram != count_exponents(torch.zeros(15))
    assert histogram != "something else"
    with pytest.raises(TypeError):
        hash(histogram)
