"""Many tensors in one call, on the CPU: counted, or only their squares summed up, by all threads that torch has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import (
    carray,  # pyright: ignore[reportPrivateImportUsage]
    cfunc,
    types,
)

from stabletrain.signal.kernels.exponents import (
    NUM_SIGNED_BINS,
    as_floats,
    compile_,
    count_tensor,
    find_quantiles_,
    pointer_to,
    sum_tensor,
)
from stabletrain.signal.kernels.openmp import claim, find_team, run_together

ELEMENTS_EACH = 100_000  # per thread: fewer are read in less time than it takes to hand them over
LARGEST = 2**31 - 1  # elements of a tensor whose counts surely fit in 32 bits

_as_integers, _as_doubles, _as_counts = pointer_to(types.int64), pointer_to(types.float64), pointer_to(types.int32)


def _compile_for_team(function: Callable[..., Any]) -> Any:
    """Compile a function of one address, whose own `address` a team of threads can be given."""
    signature = types.void(types.int64)
    try:
        return cfunc(signature, cache=True)(function)
    except RuntimeError:
        return cfunc(signature)(function)


# A job is an array of integers that all threads of a team read: which tensor comes next, how many there are, and the
# addresses of the arrays.
def _make_job(addresses, sizes, sums, counts, special):
    job = np.empty(7, np.int64)
    job[0], job[1], job[2], job[3] = 0, len(sizes), addresses.ctypes.data, sizes.ctypes.data
    job[4], job[5], job[6] = sums.ctypes.data, counts.ctypes.data, special.ctypes.data
    return job


def _integers_at(address, shape):
    return carray(_as_integers(address), shape, np.int64)


_integers = compile_(_integers_at)


def _count_claimed(job):
    about = _integers(job, (7,))
    num = about[1]
    addresses, sizes = _integers(about[2], (num,)), _integers(about[3], (num,))
    sums = carray(_as_doubles(about[4]), (num,), np.float64)
    counts = carray(_as_counts(about[5]), (num, NUM_SIGNED_BINS), np.int32)
    special = _integers(about[6], (num, 2))
    table = np.zeros((4, NUM_SIGNED_BINS), np.uint32)
    i = claim(job)
    while i < num:
        sums[i] = count_tensor(addresses[i], sizes[i], table, counts[i], special[i])
        i = claim(job)


def _sum_claimed(job):
    about = _integers(job, (7,))
    num = about[1]
    addresses, sizes = _integers(about[2], (num,)), _integers(about[3], (num,))
    sums = carray(_as_doubles(about[4]), (num,), np.float64)
    i = claim(job)
    while i < num:
        sums[i] = sum_tensor(addresses[i], sizes[i])
        i = claim(job)


_new_job, _count_alone, _sum_alone = compile_(_make_job), compile_(_count_claimed), compile_(_sum_claimed)


def _count(team, work, max_threads, addresses, sizes, sums, counts, special):
    num_threads = min(max_threads, sizes.sum() // ELEMENTS_EACH)
    job = _new_job(addresses, sizes, sums, counts, special)
    if num_threads > 1:
        run_together(team, work, job.ctypes.data, num_threads)
    else:
        _count_alone(job.ctypes.data)
    return counts[:, 255].sum() + counts[:, 511].sum() == 0


def _sum_squares(team, work, max_threads, addresses, sizes, sums):
    num_threads = min(max_threads, sizes.sum() // ELEMENTS_EACH)
    job = _new_job(addresses, sizes, sums, sizes, sizes)  # the last two are not touched
    if num_threads > 1:
        run_together(team, work, job.ctypes.data, num_threads)
    else:
        _sum_alone(job.ctypes.data)
    return np.isfinite(sums).all()


def _sum_finite_squares(addresses, sizes, sums, nonfinite):
    """As `_sum_squares`, where that found Inf or NaN: over the finite elements, the others counted."""
    for i in range(len(addresses)):
        x = carray(as_floats(addresses[i]), (sizes[i],), np.float32)
        nonfinite[i] = 0
        if np.isfinite(sums[i]):
            continue
        sums[i] = 0.0
        for j in range(sizes[i]):
            if np.isfinite(x[j]):
                sums[i] += np.float64(x[j]) * np.float64(x[j])
            else:
                nonfinite[i] += 1


_count_for_team_, _sum_for_team_ = _compile_for_team(_count_claimed), _compile_for_team(_sum_claimed)
COUNT_ADDRESS, SUM_ADDRESS = _count_for_team_.address, _sum_for_team_.address
_count_, _sum_squares_ = compile_(_count), compile_(_sum_squares)
sum_finite_squares_ = compile_(_sum_finite_squares)


def count_exponents_(
    addresses: np.ndarray, sizes: np.ndarray, sums: np.ndarray, counts: np.ndarray, special: np.ndarray
) -> bool:
    """Count sign and exponent of each tensor's elements, and sum up their squares, block by block in the cache.

    Args:
        addresses: (L,) int64, where each tensor's float32 elements begin, one after the other.
        sizes: (L,) int64, number of elements, each at most `LARGEST`.
        sums: (L,) float64, filled: sums of squares, not finite where an element is not.
        counts: (L, 512) int32, filled: bin sign·256 + exponent. Half of the memory is half of the time to write it.
        special: (L, 2) int64, filled: subnormals, NaN.

    Returns:
        Whether all elements are finite.
    """
    team = find_team()
    max_threads = torch.get_num_threads() if team else 1
    return _count_(team, COUNT_ADDRESS, max_threads, addresses, sizes, sums, counts, special)


def sum_squares_(addresses: np.ndarray, sizes: np.ndarray, sums: np.ndarray) -> bool:
    """Sum up the squares of each tensor's elements in float64, in which no float32's square over- or underflows.

    Returns:
        Whether all elements are finite.
    """
    team = find_team()
    return _sum_squares_(team, SUM_ADDRESS, torch.get_num_threads() if team else 1, addresses, sizes, sums)


def prepare() -> None:
    """Compile all of them now, or load what an earlier process compiled, rather than in the first step."""
    x = np.array([1.0, np.inf], np.float32)
    addresses, sizes = np.array([x.ctypes.data]), np.array([2])
    counts, sums = np.empty((1, NUM_SIGNED_BINS), np.int32), np.empty(1)
    sum_squares_(addresses, sizes, sums)
    sum_finite_squares_(addresses, sizes, sums, np.empty(1, np.int64))
    count_exponents_(addresses, sizes, sums, counts, np.empty((1, 2), np.int64))
    find_quantiles_(counts, np.array([0.5]), np.empty((1, 1)))
