"""Compare measurements on a GPU, by PyTorch operations and by the Triton kernel, with those on the CPU bit by bit."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from stabletrain.signal.kernels import device, reduce
from stabletrain.signal.kernels.reduce import measure_doubles, measure_tensors
from stabletrain.signal.watch import Watch

HAS_TRITON = importlib.util.find_spec("triton") is not None
HAS_GPU = torch.cuda.is_available()
IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if HAS_GPU and not IS_INTERPRETED else "cpu"
needs_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="no GPU")
needs_kernel = pytest.mark.skipif(
    not (HAS_TRITON and (DEVICE == "cuda" or IS_INTERPRETED)), reason="no Triton, or neither GPU nor TRITON_INTERPRET=1"
)
WAYS = [device.measure_by_torch, pytest.param(device.measure_by_kernel, marks=needs_kernel)]
every_way = pytest.mark.parametrize("way", WAYS, ids=["torch", "triton"])

SPECIAL = [0.0, -0.0, 1e-45, -1e-45, 1.1754942e-38, 1.1754944e-38, 1.0, -1.9999999, 2.0, 3.4028235e38]
SPECIAL += [math.inf, -math.inf, math.nan, -math.nan, 1e-30, 1e30]
FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True)
SHADES = torch.arange(0, 2**31, 2**23, dtype=torch.int64).to(torch.int32).view(torch.float32)  # one number per exponent
LISTS = st.lists(hnp.arrays(np.float32, st.integers(0, 40), elements=FLOATS), min_size=1, max_size=5)


def random_bits(num: int, seed: int = 0) -> torch.Tensor:
    bits = torch.from_numpy(np.random.default_rng(seed).integers(0, 2**32, num, np.uint32).view(np.int32))
    return bits.view(torch.float32)


def assert_same(found, expected):
    assert np.array_equal(np.isnan(found.rms), np.isnan(expected.rms))
    np.testing.assert_allclose(found.rms, expected.rms, rtol=1e-6)
    for name in ("num_nonfinite", "counts", "special"):
        one, other = getattr(found, name), getattr(expected, name)
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtype == np.int64
            assert np.array_equal(one, other)


def check(way, tensors, histograms=True):
    expected = measure_tensors([""] * len(tensors), tensors, histograms=histograms).arrays
    found = way([x.to(DEVICE) for x in tensors], histograms)()
    assert_same(found, expected)
    return found


@every_way
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=20)
@given(values=LISTS, histograms=st.booleans())
def test_any_values_as_on_the_cpu(way, values, histograms):
    check(way, [torch.from_numpy(x) for x in values], histograms)


@every_way
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_special_values_in_every_dtype(way, dtype):
    found = check(way, [torch.tensor(SPECIAL).to(dtype)])
    assert found.counts is not None
    assert found.counts.sum() == len(SPECIAL)
    assert found.counts[0, [255, 511]].sum() == found.num_nonfinite[0]


@every_way
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_number_of_the_short_dtypes(way, dtype):
    if dtype is torch.float16 and way is device.measure_by_torch and DEVICE == "cuda":
        pytest.skip("PyTorch drops the sign of a float16 NaN on a GPU")
    check(way, [torch.from_numpy(np.arange(2**16, dtype=np.uint16).view(np.int16)).view(dtype)])


@every_way
def test_sizes_around_blocks_and_chunks(way):
    sizes = [0, 1, 2, 1023, 1024, 1025, 32767, 32768, 32769, 70000, 0]
    check(way, [random_bits(size, seed=size) for size in sizes])


@every_way
def test_exponents_near_and_far_from_the_first_ones(way):
    """Blocks with exponents close to those of the first block of a chunk use the narrow table, others the wide one."""
    near = torch.randn(3 * 1024)
    outlier, middle = near.clone(), near.clone()
    outlier[1024 + 5] = 1e-30
    middle[1024 : 2 * 1024] *= 1e30
    tensors = [near, -near, near * 1e-36, near * 1e36, outlier, middle, torch.cat([torch.zeros(1024), near])]
    tensors += [near.clamp(min=0.0), near * 1e-42, torch.full((1024,), math.inf), torch.cat([near, -SHADES, SHADES])]
    check(way, tensors)


@every_way
def test_scalars_and_many_tensors(way):
    tensors = [torch.tensor(3.0), torch.tensor(math.nan), *(random_bits(1 + i * 7 % 50, seed=i) for i in range(200))]
    check(way, tensors)
    check(way, tensors, histograms=False)


@every_way
def test_nothing_but_empty_tensors(way):
    found = check(way, [torch.empty(0), torch.empty(0)])
    assert np.isnan(found.rms).all()


@every_way
@pytest.mark.parametrize("size", [1e-45, 1e-40, 1e-30, 1e-19, 1.0, 1e19, 1e30, 3.4e38])
def test_the_rms_holds_at_every_magnitude(way, size):
    x = (torch.linspace(0.5, 1.0, 40_000, dtype=torch.float64) * size).float()
    exact = float(x.double().square().mean().sqrt())
    found = way([torch.cat([x, torch.tensor([math.inf, math.nan])]).to(DEVICE)], False)()
    assert found.rms[0] == pytest.approx(exact, rel=1e-9, abs=0.0)
    assert found.num_nonfinite[0] == 2


@every_way
def test_the_same_again_is_the_same_to_the_bit(way):
    x = [torch.randn(100_000).to(DEVICE), torch.randn(17).to(DEVICE)]
    assert np.array_equal(way(x, True)().rms, way(x, False)().rms)


@every_way
def test_tensors_that_do_not_begin_at_a_multiple_of_16_bytes(way):
    whole = random_bits(5000)
    check(way, [whole[1:], whole[3:77], whole[5:6]])
    found = way([x.to(DEVICE)[1:] for x in (whole, whole.bfloat16())], True)()
    assert_same(found, measure_tensors(["", ""], [whole[1:], whole.bfloat16()[1:]], histograms=True).arrays)


@given(hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(allow_nan=True, allow_infinity=True)))
def test_float64_as_on_the_cpu(values):
    x = torch.from_numpy(values)
    assert_same(device.measure_by_torch([x.to(DEVICE)], True)(), measure_doubles(values, True))


def test_groups_of_dtypes_come_back_in_order(monkeypatch):
    monkeypatch.setattr(device, "has_kernel", lambda _: True)
    monkeypatch.setattr(device, "measure_by_kernel", device.measure_by_torch)
    tensors = [random_bits(30), random_bits(20, 1).double(), random_bits(10, 2).bfloat16(), torch.rand(5).double()]
    expected = measure_tensors([""] * 4, tensors, histograms=True).arrays
    assert_same(device.measure_on_device(tensors, True)(), expected)
    assert_same(device.measure_on_device(tensors, False)(), measure_tensors([""] * 4, tensors, histograms=False).arrays)


def test_a_large_tensor_is_counted_in_pieces(monkeypatch):
    monkeypatch.setattr(device, "PIECE", 100)
    check(device.measure_by_torch, [random_bits(1234)])


def test_where_the_kernel_does_not_run_a_warning_says_so_once(monkeypatch):
    def fail(*_):
        raise ImportError("No module named 'triton'")

    monkeypatch.setattr(device, "measure_by_kernel", fail)
    monkeypatch.setattr(device.torch, "zeros", lambda *_, **__: torch.empty(1))
    device.has_kernel.cache_clear()
    try:
        with pytest.warns(UserWarning, match="No module named 'triton'"):
            assert not device.has_kernel(torch.device("cuda", 7))
        assert not device.has_kernel(torch.device("cuda", 7))  # a second warning would raise here
    finally:
        device.has_kernel.cache_clear()
    assert not device.has_kernel(torch.device("cpu"))


@every_way
def test_a_watch_measures_the_same_through_it(way, monkeypatch):
    def measured(through_device: bool):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
        optimizer = torch.optim.Adam(model.parameters())
        if through_device:
            monkeypatch.setattr(
                reduce, "_measure_floats", lambda xs, _, counts: way([x.to(DEVICE) for x in xs], counts)()
            )
        watch = Watch(model, optimizer=optimizer, signals=("gradient", "weight", "update", "moment", "delta"))
        snapshots = []
        for _ in range(3):
            model(torch.ones(5, 8)).square().sum().backward()
            snapshots.append(watch.step())
            optimizer.step()
            optimizer.zero_grad()
        watch.detach()
        return snapshots, [p.detach() for p in model.parameters()]

    expected, weights = measured(False)
    found, same_weights = measured(True)
    assert all(torch.equal(a, b) for a, b in zip(weights, same_weights, strict=True))
    for one, other in zip(found, expected, strict=True):
        assert_same(one.layers.arrays, other.layers.arrays)
        assert set(one.signals) == set(other.signals)
        for signal in one.signals:
            assert_same(one.signals[signal].arrays, other.signals[signal].arrays)


@pytest.mark.skipif(not HAS_TRITON, reason="no Triton")
@pytest.mark.skipif(IS_INTERPRETED, reason="this is the interpreted run")
def test_the_kernel_interpreted():
    """Without a GPU, the kernel runs in Triton's interpreter, which is enabled by an environment variable at import."""
    chosen = ["-k", "triton", "-q", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *chosen, __file__]
    done = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "skipped" not in done.stdout.splitlines()[-1]


@pytest.mark.skipif(not HAS_TRITON or IS_INTERPRETED, reason="no Triton, or its interpreter replaces the compiler")
@pytest.mark.parametrize("histograms", [True, False])
@pytest.mark.parametrize("capability", [75, 80, 90])
def test_the_kernel_compiles_without_a_gpu(capability, histograms):
    from triton.backends.compiler import GPUTarget  # pyright: ignore[reportMissingImports]
    from triton.compiler import ASTSource, compile  # pyright: ignore[reportMissingImports]

    from stabletrain.signal.kernels import triton_kernel

    kernel = triton_kernel.measure_chunk
    constants = {"COUNTS": histograms, "BINS": 512}
    constants |= {name: getattr(triton_kernel, name) for name in ("SLOTS", "CHUNK", "BLOCK")}
    signature = {"tensors": "*i64", "chunks": "*i64", "sums": "*fp64", "rows": "*i64"}
    source = ASTSource(kernel, signature | dict.fromkeys(constants, "constexpr"), constants)
    compiled = compile(source, target=GPUTarget("cuda", capability, 32), options=triton_kernel.OPTIONS)
    assert ".ftz" not in compiled.asm["ptx"]  # subnormals must not be flushed to zero
    assert ".local" not in compiled.asm["ptx"]


@needs_gpu
@pytest.mark.parametrize("way", [device.measure_on_device, device.measure_by_torch], ids=["route", "torch"])
def test_nothing_in_the_step_waits(way):
    tensors = [torch.randn(n, device=DEVICE) for n in (0, 1, 1000, 100_000)]
    way(tensors, True)()
    torch.cuda.set_sync_debug_mode("error")
    try:
        read = [way(tensors, histograms) for histograms in (True, False)]
        with pytest.raises(RuntimeError):
            tensors[1].item()  # negative control: the mode is on
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = measure_tensors([""] * 4, [x.cpu() for x in tensors], histograms=True).arrays
    assert_same(read[0](), expected)


@needs_gpu
def test_the_kernel_is_what_measures_on_a_gpu():
    assert device.has_kernel(torch.device("cuda", torch.cuda.current_device())) is HAS_TRITON


@needs_gpu
def test_what_happens_to_a_tensor_afterwards_is_not_measured():
    values = [random_bits(200_000, seed=i) for i in range(20)]
    readers, busy = [], torch.randn(4000, 4000, device=DEVICE)
    for x in values:  # each is overwritten, freed and its memory reused while the device is still busy
        torch.mm(busy, busy)
        gradient = x.pin_memory().to(DEVICE, non_blocking=True)
        readers.append(device.measure_on_device([gradient], True))
        gradient.fill_(7.0)
        del gradient
        torch.full((200_000,), 5.0, device=DEVICE)
    for x, read in zip(values, readers, strict=True):
        assert_same(read(), measure_tensors([""], [x], histograms=True).arrays)


@needs_gpu
def test_tables_are_kept_while_addresses_stay():
    tensors = [torch.randn(n, device=DEVICE) for n in (10, 1000)]
    device.measure_on_device(tensors, True)()
    before = device._tensor_table.cache_info()
    device.measure_on_device(tensors, False)()
    after = device._tensor_table.cache_info()
    assert (after.misses, after.hits) == (before.misses, before.hits + 1)


@needs_gpu
def test_a_step_on_a_stream_of_its_own():
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        x = random_bits(300_000).pin_memory().to(DEVICE, non_blocking=True)
        read = device.measure_on_device([x], True)
    assert_same(read(), measure_tensors([""], [x.cpu()], histograms=True).arrays)


@needs_gpu
def test_float64_and_host_tensors_beside_the_others():
    tensors = [torch.randn(50), torch.randn(40, dtype=torch.float64), torch.randn(30).half()]
    expected = measure_tensors([""] * 3, tensors, histograms=True).arrays
    mixed = [tensors[0], tensors[1].to(DEVICE), tensors[2].to(DEVICE)]
    assert_same(measure_tensors([""] * 3, mixed, histograms=True).arrays, expected)
