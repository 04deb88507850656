"""Results are identical for one thread and for all threads of torch, whichever thread measures which tensor."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from stabletrain.signal.kernels import numba_kernel, numpy_kernel, openmp, reduce
from stabletrain.signal.kernels.openmp import find_team
from stabletrain.signal.kernels.reduce import measure_tensors

SIZES = (300_000, 1, 0, 250_001, 4096, 17, 200_000)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(n, generator=generator) * 10.0 ** torch.randint(-30, 30, (n,)).float() for n in SIZES]
    made[0][5], made[3][-1], made[6][0], made[6][1] = float("nan"), -float("inf"), 1e-42, 0.0
    return made


def measured(tensors, histograms):
    arrays = measure_tensors([str(i) for i in range(len(tensors))], tensors, histograms=histograms).arrays
    return [x for x in (arrays.rms, arrays.num_nonfinite, arrays.counts, arrays.special) if x is not None]


@pytest.mark.parametrize("histograms", [True, False])
def test_threads_change_no_bit(tensors, threads, histograms):
    threads(1)
    alone = measured(tensors, histograms)
    for num in (2, 3, 8):
        threads(num)
        for _ in range(5):
            for one, other in zip(measured(tensors, histograms), alone, strict=True):
                assert np.array_equal(one, other, equal_nan=True)


def test_a_team_is_asked_only_where_there_is_work_for_it(tensors, threads, monkeypatch):
    """The team is not used for little work or with one thread: calling the address 1 would crash."""
    monkeypatch.setattr(numba_kernel, "find_team", lambda: 1)
    threads(1)
    measured(tensors, True)
    threads(8)
    measured(tensors[4:6], True)
    measured([], True)
    monkeypatch.setattr(numba_kernel, "find_team", lambda: 0)
    threads(8)
    expected = measured(tensors, True)
    monkeypatch.undo()
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(measured(tensors, True), expected, strict=True))


@pytest.mark.parametrize("backend", [numba_kernel, numpy_kernel], ids=["numba", "numpy"])
@pytest.mark.parametrize("histograms", [True, False])
@pytest.mark.parametrize("largest", [100_000, 65_536, 4096])
def test_tensors_too_large_for_counts_of_32_bits_are_cut(tensors, monkeypatch, histograms, largest, backend):
    monkeypatch.setattr(reduce, "choose_backend", lambda: backend)
    rms, *numbers = measured(tensors, histograms)
    monkeypatch.setattr(reduce, "LARGEST", largest)
    found, *others = measured(tensors, histograms)
    assert found == pytest.approx(rms, rel=1e-12, nan_ok=True)
    assert all(np.array_equal(a, b) for a, b in zip(others, numbers, strict=True))


def test_torch_on_linux_has_a_team():
    if sys.platform != "linux" or "backend: OpenMP" not in torch.__config__.parallel_info():
        pytest.skip("torch was built without OpenMP, or this is not Linux")
    assert find_team() > 0


def test_without_the_symbol_one_thread_does_it_all(tensors, threads, monkeypatch):
    threads(8)
    expected = measured(tensors, True)
    openmp.find_team.cache_clear()
    monkeypatch.setattr(openmp.ctypes, "CDLL", lambda _: object())  # a library without GOMP_parallel
    try:
        assert find_team() == 0
        found = measured(tensors, True)
    finally:
        openmp.find_team.cache_clear()
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(found, expected, strict=True))


def test_from_several_threads_of_the_program_at_once(tensors, threads):
    threads(2)
    expected, found = measured(tensors, True), {}

    def work(number):
        found[number] = [measured(tensors, True) for _ in range(10)]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 4
    for each in found.values():
        for arrays in each:
            assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(arrays, expected, strict=True))


def test_after_a_fork_with_one_thread_as_in_a_data_loaders_worker():
    program = """
import os, torch
from stabletrain.signal.kernels.reduce import measure_tensors
x = [torch.ones(400_000), torch.ones(400_000)]
torch.set_num_threads(2)
measure_tensors(["a", "b"], x, histograms=True).arrays
pid = os.fork()
if pid == 0:
    torch.set_num_threads(1)
    os._exit(0 if measure_tensors(["a", "b"], x, histograms=True).arrays.rms[0] == 1.0 else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=60)
