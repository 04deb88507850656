import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stabletrain.errors import RequestError
from stabletrain.gradient import total_norm

INF = float("inf")


def slow_norm(tensors, p):
    """In exact Python floats, scaled by the largest."""
    values = [abs(v) for t in tensors for v in t.double().flatten().tolist()]
    largest = max(values, default=0.0)
    if largest == 0.0 or p == INF:
        return largest
    return largest * math.fsum((v / largest) ** p for v in values) ** (1 / p)


@given(
    st.lists(
        st.lists(st.floats(-(2.0**127), 2.0**127, width=32, allow_subnormal=False), min_size=1, max_size=5),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([0.5, 1.0, 2.0, 3.0, INF]),
)
def test_agrees_with_a_slow_sum_over_the_whole_range(values, p):
    tensors = [torch.tensor(v, dtype=torch.float32) for v in values]
    expected = slow_norm(tensors, p)
    assert float(total_norm(tensors, p)) == pytest.approx(expected, rel=1e-5, abs=1e-37)


def test_agrees_with_torch_where_torch_is_right():
    tensors = [torch.randn(5, 3), torch.randn(7)]
    norm = total_norm(tensors)
    assert norm.dtype == torch.float32
    assert torch.equal(norm, torch.nn.utils.get_total_norm(tensors))


@pytest.mark.parametrize("value", [3e38, 1e25, 1e-25, 1e-37])
def test_neither_overflows_nor_underflows(value):
    tensors = [torch.full((100,), value), torch.zeros(3)]
    norm = total_norm(tensors)
    assert norm.dtype == torch.float64
    assert float(norm) == pytest.approx(10 * float(tensors[0][0]), rel=1e-6)


def test_float64_is_scaled():
    assert float(total_norm([torch.full((4,), 1e300, dtype=torch.float64)])) == pytest.approx(2e300)
    assert float(total_norm([torch.full((4,), 1e-300, dtype=torch.float64)])) == pytest.approx(2e-300)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_a_float32_norm(dtype):
    tensors = [torch.full((10_000,), 3.0, dtype=dtype), torch.ones(1)]
    norm = total_norm(tensors)
    assert norm.dtype == torch.float32
    assert float(norm) == pytest.approx(math.sqrt(90_001), rel=1e-5)
    assert float(total_norm([torch.full((4,), 6e4, dtype=dtype)])) == pytest.approx(1.2e5, rel=1e-2)


def test_corners():
    assert total_norm([]).item() == 0
    assert total_norm([torch.empty(0), torch.empty(0, 3)], INF).item() == 0
    assert total_norm([torch.zeros(3)]).item() == 0
    assert total_norm([torch.tensor(-2.0)]).item() == 2
    assert total_norm(g for g in [torch.ones(4)]).item() == 2
    assert total_norm([torch.tensor([1.0, INF])]).item() == INF
    assert total_norm([torch.tensor([3e38, 3e38]), torch.tensor(float("nan"))]).isnan()
    assert not total_norm([torch.ones(2, requires_grad=True)]).requires_grad


@pytest.mark.parametrize("norm_type", [0.0, -1.0, float("nan")])
def test_refuses_norms_that_are_none(norm_type):
    with pytest.raises(RequestError) as caught:
        total_norm([torch.ones(1)], norm_type)
    assert caught.value.key == "norm_type"


def test_sharded_gradients_give_a_plain_norm(tmp_path):
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available() or distributed.is_initialized():
        pytest.skip("needs a process group of its own")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        for value in (3.0, 3e38):
            norm = total_norm([distribute_tensor(torch.full((4,), value), mesh, [Shard(0)])])
            assert type(norm) is torch.Tensor
            assert float(norm) == pytest.approx(2 * value, rel=1e-6)
    finally:
        distributed.destroy_process_group()
