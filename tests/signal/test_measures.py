"""Test measuring many tensors at once: signs, special values, merging, and equality with one tensor at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stabletrain.signal.histogram import Histogram
from stabletrain.signal.kernels.reduce import measure_others, measure_plain, measure_tensors, prepare
from stabletrain.signal.layer_statistics import LayerStatistics, Measures, merge

prepare()
FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True)
ARRAYS = hnp.arrays(np.float32, st.integers(0, 70), elements=FLOATS)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def measure(*tensors, histograms=True) -> Measures:
    return measure_tensors([f"L{i:02d}" for i in range(len(tensors))], tensors, histograms=histograms)


def reference(values) -> dict:
    """Count one number at a time, in float64."""
    positive, negative = np.zeros(256, np.int64), np.zeros(256, np.int64)
    num_subnormal = num_nan = 0
    for x in np.asarray(values, dtype=np.float64).ravel():
        if not math.isfinite(x):
            index = 255
            num_nan += math.isnan(x)
        elif abs(x) < 2.0**-126:
            index = 0
            num_subnormal += x != 0
        else:
            index = min(math.frexp(x)[1] - 1 + 127, 254)
        (negative if math.copysign(1.0, x) < 0 else positive)[index] += 1
    return {"positive": positive, "negative": negative, "num_subnormal": num_subnormal, "num_nan": num_nan}


def check(histogram: Histogram, values) -> None:
    expected = reference(values)
    assert np.array_equal(histogram.negative, expected["negative"])
    assert np.array_equal(histogram.counts, expected["positive"] + expected["negative"])
    assert (histogram.num_subnormal, histogram.num_nan) == (expected["num_subnormal"], expected["num_nan"])
    assert np.array_equal(histogram.signed, np.concatenate([expected["negative"][::-1], expected["positive"]]))


@given(st.lists(ARRAYS, min_size=1, max_size=4))
def test_signs_and_special_values_bin_by_bin(arrays):
    measures = measure(*map(torch.from_numpy, arrays))
    for statistics, values in zip(measures, arrays, strict=True):
        check(statistics.histogram, values)
        finite = values[np.isfinite(values)].astype(np.float64)
        assert (statistics.size, statistics.num_nonfinite) == (values.size, values.size - finite.size)
        exact = float(np.sqrt(np.mean(finite**2))) if finite.size else None
        assert statistics.rms == (exact if exact is None else pytest.approx(exact, rel=1e-6, abs=0.0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_beside_others(dtype):
    bits = torch.from_numpy(np.arange(2**16, dtype=np.uint16).view(np.int16))
    x = bits.view(torch.float16).to(dtype) if dtype is not torch.bfloat16 else bits.view(dtype)
    measures = measure(torch.randn(7), x, torch.randn(3))
    check(measures[1].histogram, x.double().numpy())
    assert [m.size for m in measures] == [7, 2**16, 3]


@pytest.mark.parametrize("size", [1, 3, 15, 16, 17, 2047, 2048, 2049, 4096, 6145, 40_000])
def test_sizes_around_the_blocks(size):
    x = torch.randn(size)
    statistics = measure(x)[0]
    check(statistics.histogram, x.numpy())
    assert statistics.rms == pytest.approx(float(x.double().square().mean().sqrt()), rel=1e-6)


def test_any_layout():
    base = torch.randn(6, 8)
    views = [base.T, base[::2], base[:, 3], base.expand(2, 6, 8), base.to_sparse(), torch.randn(2, 3, 4, 5)]
    views += [torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), torch.tensor(3.0), torch.empty(0, 4)]
    for statistics, view in zip(measure(*views), views, strict=True):
        check(statistics.histogram, view.to_dense().numpy() if view.is_sparse else view.numpy())


def test_norms_alone_are_the_same_norms():
    tensors = [torch.randn(300), torch.tensor([1.0, math.nan, -math.inf]), torch.full((4,), math.nan), torch.zeros(5)]
    with_counts, alone = measure(*tensors), measure(*tensors, histograms=False)
    for one, other in zip(with_counts, alone, strict=True):
        assert (one.rms, one.num_nonfinite) == (other.rms, other.num_nonfinite)
        assert other.histogram is None
    assert [m.rms for m in alone][1:] == [1.0, None, 0.0]


@given(hnp.arrays(np.float32, st.integers(1, 60), elements=FLOATS), st.lists(st.integers(0, 60), max_size=4))
def test_parts_merge_into_the_whole(values, cuts):
    parts = np.split(values, sorted(min(c, values.size) for c in cuts))
    found = [measure(torch.from_numpy(part.copy())) for part in parts]
    whole = measure(torch.from_numpy(values))
    sizes = [m.sizes for m in found]
    merged = Measures(["L00"], np.sum(sizes, axis=0), merge([m.arrays for m in found], sizes), with_counts=True)
    assert merged[0].histogram == whole[0].histogram
    assert merged[0].num_nonfinite == whole[0].num_nonfinite
    assert (merged[0].rms is None) == (whole[0].rms is None)
    if whole[0].rms is not None:
        assert merged[0].rms == pytest.approx(whole[0].rms, rel=1e-9, abs=0.0)


@given(ARRAYS, st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]))
def test_quantiles_are_those_of_the_histogram(values, q):
    measures = measure(torch.from_numpy(values))
    expected = measures[0].histogram.quantile(q)
    found = measures.quantiles([q])[0, 0]
    assert math.isnan(found) if expected is None else found == pytest.approx(expected, rel=1e-12, abs=0.0)


def test_given_statistics_become_arrays_and_back():
    measures = measure(torch.randn(30), torch.tensor([0.0, math.inf]))
    assert Measures.of(tuple(measures)) == measures
    assert Measures.of(measures) is measures
    norms = (LayerStatistics("L00.w", 3, None, 3), LayerStatistics("L01.w", 2, 0.5, 0))
    assert tuple(Measures.of(norms)) == norms
    assert measures[:1] == (measures[0],)
    assert [m.layer for m in measures] == ["L00", "L01"]


def test_underflow_of_float16_is_known_from_any_format():
    x = torch.tensor([2.0**-26, -(2.0**-26), 2.0**-25, 2.0**-14, 1.0, 0.0, math.nan])
    histogram = measure(x)[0].histogram
    assert histogram.share_below(-25) == pytest.approx(2 / 5)  # these round to zero in float16
    assert float(x[0].half()) == 0.0
    assert histogram.share_below(-14) == pytest.approx(3 / 5)  # these are zero or subnormal in float16
    assert histogram.share_below(128) == 1.0
    assert measure(torch.zeros(3))[0].histogram.share_below(-25) == 0.0
    assert measure(torch.tensor([1e-40, 1.0]))[0].histogram.share_below(-25) == 0.5


def test_what_one_summand_does_not_keep_the_sum_does_not_either():
    full = measure(torch.tensor([-1.0, 1e-40]))[0].histogram
    plain = Histogram(full.counts)
    assert (full + full).negative is not None
    assert ((full + plain).negative, (full + plain).num_subnormal, (full + plain).signed) == (None, None, None)
    assert (full == plain, plain == Histogram(full.counts.copy())) == (False, True)


@given(hnp.arrays(np.float32, 40, elements=st.floats(-(2.0**60), 2.0**60, width=32)), st.integers(-20, 20))
def test_a_shift_multiplies_by_a_power_of_two(values, exponent):
    values = np.where(np.abs(values) < 2.0**-60, np.float32(0), values)  # the results stay in float32's range
    shifted = measure(torch.from_numpy(values)).shifted(exponent)[0]
    expected = measure(torch.from_numpy(np.ldexp(values, exponent)))[0]
    assert shifted.histogram == expected.histogram
    assert shifted.rms == pytest.approx(expected.rms, rel=1e-12, abs=0.0)


def test_a_shift_beyond_the_range_stays_in_the_outermost_bins():
    measures = measure(torch.tensor([2.0**100, 2.0**-100, -math.inf, 0.0]))
    up, down = measures.shifted(60)[0].histogram, measures.shifted(-60)[0].histogram
    assert (up.counts[254], up.counts[127 - 40], up.num_nonfinite, up.counts[0]) == (1, 1, 1, 1)
    assert (down.counts[127 + 40], down.counts[0], down.num_nonfinite) == (1, 2, 1)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 127, 128, 1000, 200_001])
@pytest.mark.parametrize("exponent", [-140, 0, 120])
def test_sums_of_squares_at_the_ends_of_what_is_read_together(size, exponent):
    x = torch.randn(size + 1)[1:] * 2.0**exponent  # not aligned to a cache line
    values = x.numpy().astype(np.float64)
    expected = [math.sqrt(float((values**2).mean()))] if size else [math.nan]
    for histograms in (False, True):
        found = measure(x, histograms=histograms).arrays.rms.tolist()
        assert found == pytest.approx(expected, rel=1e-12, abs=0, nan_ok=True)


class Subclass(torch.Tensor):
    """A tensor whose memory need not hold its values."""


@pytest.mark.parametrize(
    "odd",
    [
        torch.ones(4, dtype=torch.bfloat16),
        torch.ones(4, dtype=torch.float64),
        torch.ones(4, 4)[:, 1],
        torch.ones(4).to_sparse(),
        torch.nn.Parameter(torch.ones(4)),
        torch.ones(4).as_subclass(Subclass),
        torch.ones(4, device="meta"),
    ],
    ids=["bfloat16", "float64", "strided", "sparse", "parameter", "subclass", "meta"],
)
def test_only_plain_tensors_are_read_where_they_lie(odd):
    assert measure_plain(["a"], [torch.ones(4)], histograms=True) is not None
    assert measure_plain(["a", "b"], [torch.ones(4), odd], histograms=True) is None
    if not odd.is_meta:
        assert measure_tensors(["a"], [odd], histograms=True)[0].rms == 1.0


@pytest.mark.parametrize("histograms", [True, False])
def test_what_is_plain_is_measured_alike_either_way(histograms):
    tensors = [torch.randn(1000), torch.zeros(3), torch.tensor([math.inf, 1.0, math.nan, 1e-40]), torch.empty(0)]
    plain, others = (f(list("abcd"), tensors, histograms=histograms) for f in (measure_plain, measure_others))
    assert plain is not None
    assert list(map(repr, plain)) == list(map(repr, others))
