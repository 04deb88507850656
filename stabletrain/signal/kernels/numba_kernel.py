"""The CPU backend with numba: many tensors in one call, on all of torch's threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numba import (
    carray,  # pyright: ignore[reportPrivateImportUsage]
    cfunc,
    types,
)
from torch import Tensor

from stabletrain.signal.histogram import NUM_SIGNED_BINS
from stabletrain.signal.kernels.exponents import as_floats, count_tensor, pointer_to, sum_tensor
from stabletrain.signal.kernels.jit import compile_
from stabletrain.signal.kernels.openmp import claim, find_team, run_together
from stabletrain.signal.kernels.quantiles import find_quantiles_
from stabletrain.signal.kernels.reading import Reading

ELEMENTS_EACH = 100_000  # per thread; fewer are not worth the cost of starting it

_as_integers, _as_doubles, _as_counts = pointer_to(types.int64), pointer_to(types.float64), pointer_to(types.int32)


def _compile_for_team(function: Callable[..., Any]) -> Any:
    """Compile a function of one address for a team of threads, which takes its machine code at `.address`."""
    signature = types.void(types.int64)
    try:
        return cfunc(signature, cache=True)(function)
    except RuntimeError:
        return cfunc(signature)(function)


# A job is an array of integers shared by all threads of a team: the index of the next tensor, the number of tensors,
# and the addresses of the arrays.
def _make_job(addresses, sizes, sums, counts, special):
    job = np.empty(7, np.int64)
    job[0], job[1], job[2], job[3] = 0, len(sizes), addresses.ctypes.data, sizes.ctypes.data
    job[4], job[5], job[6] = sums.ctypes.data, counts.ctypes.data, special.ctypes.data
    return job


def _integers_at(address, shape):
    return carray(_as_integers(address), shape, np.int64)


_integers = compile_(_integers_at)


def _count_claimed(job):
    fields = _integers(job, (7,))
    num = fields[1]
    addresses, sizes = _integers(fields[2], (num,)), _integers(fields[3], (num,))
    sums = carray(_as_doubles(fields[4]), (num,), np.float64)
    counts = carray(_as_counts(fields[5]), (num, NUM_SIGNED_BINS), np.int32)
    special = _integers(fields[6], (num, 2))
    table = np.zeros((4, NUM_SIGNED_BINS), np.uint32)
    i = claim(job)
    while i < num:
        sums[i] = count_tensor(addresses[i], sizes[i], table, counts[i], special[i])
        i = claim(job)


def _sum_claimed(job):
    fields = _integers(job, (7,))
    num = fields[1]
    addresses, sizes = _integers(fields[2], (num,)), _integers(fields[3], (num,))
    sums = carray(_as_doubles(fields[4]), (num,), np.float64)
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
    job = _new_job(addresses, sizes, sums, sizes, sizes)  # the last two are not used
    if num_threads > 1:
        run_together(team, work, job.ctypes.data, num_threads)
    else:
        _sum_alone(job.ctypes.data)
    return np.isfinite(sums).all()


def _sum_finite_squares(addresses, sizes, sums, nonfinite):
    """Replace sums that are Inf or NaN by those over the finite elements, and count the other elements."""
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
_sum_finite_squares_ = compile_(_sum_finite_squares)


def sum_squares(tensors: Sequence[Tensor], sizes: np.ndarray) -> Reading:
    """See `Backend.sum_squares`."""
    addresses, squares = _addresses_of(tensors), np.empty(len(sizes))
    team = find_team()
    if _sum_squares_(team, SUM_ADDRESS, torch.get_num_threads() if team else 1, addresses, sizes, squares):
        return Reading(squares, None)
    return Reading(squares, _sum_finite(addresses, sizes, squares))


def count_exponents(tensors: Sequence[Tensor], sizes: np.ndarray) -> Reading:
    """See `Backend.count_exponents`."""
    addresses, num = _addresses_of(tensors), len(sizes)
    squares, counts, special = np.empty(num), np.empty((num, NUM_SIGNED_BINS), np.int32), np.empty((num, 2), np.int64)
    team = find_team()
    max_threads = torch.get_num_threads() if team else 1
    if _count_(team, COUNT_ADDRESS, max_threads, addresses, sizes, squares, counts, special):
        return Reading(squares, None, counts, special)
    return Reading(squares, _sum_finite(addresses, sizes, squares), counts, special)


def prepare() -> None:
    """See `Backend.prepare`."""
    x, size = [torch.tensor([1.0, np.inf])], np.array([2])
    sum_squares(x, size)
    reading = count_exponents(x, size)
    assert reading.counts is not None
    find_quantiles_(reading.counts, np.array([0.5]), np.empty((1, 1)))


def _addresses_of(tensors: Sequence[Tensor]) -> np.ndarray:
    return np.array([x.data_ptr() for x in tensors], np.int64)


def _sum_finite(addresses: np.ndarray, sizes: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Make `squares` sums over the finite elements; return the number of other elements of each tensor."""
    num_nonfinite = np.zeros(len(sizes), np.int64)
    _sum_finite_squares_(addresses, sizes, squares, num_nonfinite)
    return num_nonfinite
