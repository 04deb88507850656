"""What a pass leaves behind, bit by bit, against a full copy of the state before; each guard with its control."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

from stabletrain.errors import RequestError
from stabletrain.torch_tools.isolation import (
    differentiable,
    isolated,
    preserve_buffers,
    preserve_modes,
    preserve_rng,
    require_scalar,
)

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


class Restless(nn.Module):
    """Changes everything that a forward pass can: statistics, buffers, modes, and every generator."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout, self.linear = nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("replaced", torch.zeros(2))
        self.register_buffer("absent", None)

    def forward(self, x):
        self.count += 1
        self.replaced = torch.ones(5)
        self.absent = torch.ones(1)
        self.dropout.eval()
        random.random()
        np.random.rand()
        return self.linear(self.dropout(self.norm(x)) + torch.rand_like(x))


def state_of(model: nn.Module) -> dict[str, object]:
    """A slow, complete copy of all that must be the same afterwards."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    return {
        "weights": copy.deepcopy(model.state_dict()),
        "buffers": {
            name: None if buffer is None else id(buffer) for m in model.modules() for name, buffer in m._buffers.items()
        },
        "modes": [m.training for m in model.modules()],
        "hooks": [(*m._forward_hooks, *m._forward_pre_hooks, *m._backward_hooks) for m in model.modules()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device) for device in devices],
    }


def differing(before: object, after: object, path: str = "") -> list[str]:
    """The places in which two states are not equal bit by bit."""
    if isinstance(before, dict) and isinstance(after, dict) and before.keys() == after.keys():
        return [x for key in before for x in differing(before[key], after[key], f"{path}/{key}")]
    if isinstance(before, list | tuple) and isinstance(after, list | tuple) and len(before) == len(after):
        return [x for i, pair in enumerate(zip(before, after, strict=True)) for x in differing(*pair, f"{path}/{i}")]
    if isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor):
        return [] if before.dtype == after.dtype and torch.equal(before, after) else [path]
    if isinstance(before, np.ndarray):
        return [] if np.array_equal(before, after) else [path]
    return [] if before == after else [path]


def make(device="cpu"):
    model = Restless().to(device)
    model.linear.eval()  # a mode of its own
    x = torch.randn(4, 3, device=device)
    model(x).sum().backward()
    model.dropout.train()
    model.absent = None
    return model, x


@pytest.mark.parametrize("device", DEVICES)
def test_an_isolated_pass_leaves_no_trace(device):
    model, x = make(device)
    before = state_of(model)
    with isolated(model):
        model.eval()
        model.train()
        torch.autograd.grad(model(x).sum(), model.parameters())
        assert {path.split("/")[1] for path in differing(before, state_of(model))} == {
            *("weights", "buffers", "modes", "python", "numpy", "torch" if device == "cpu" else "cuda")  # the control
        }
    assert differing(before, state_of(model)) == []


def test_nor_does_one_that_raises():
    model, _ = make()
    before = state_of(model)
    with pytest.raises(RuntimeError), isolated(model):
        model(torch.randn(4, 7))
    assert differing(before, state_of(model)) == []


def test_each_part_restores_its_own_alone():
    for part, expected in (
        (lambda model: preserve_rng(), {"weights", "buffers", "modes"}),
        (preserve_modes, {"weights", "buffers", "python", "numpy", "torch"}),
        (preserve_buffers, {"modes", "python", "numpy", "torch"}),
    ):
        model, x = make()
        before = state_of(model)
        with part(model):
            model(x)
        assert {path.split("/")[1] for path in differing(before, state_of(model))} == expected


def test_buffers_that_the_pass_registers_stay():
    model = nn.Sequential(nn.Linear(2, 2))
    with preserve_buffers(model):
        model.register_buffer("mask", torch.ones(3))
    assert model.mask.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("training", [True, False])
def test_a_graph_that_has_saved_a_buffer_stays_differentiable(training):
    model, x = nn.BatchNorm1d(3).train(training), torch.randn(4, 3)
    outputs = model(x)
    with isolated(model):
        model.train()(x + 1)
    outputs.square().sum().backward()
    expected = nn.BatchNorm1d(3).train(training)
    expected(x).square().sum().backward()
    assert torch.equal(model.weight.grad, expected.weight.grad)


def test_modes_are_set_without_train():
    class Merging(nn.Module):
        def train(self, mode=True):
            raise AssertionError("called")

    model = Merging()
    with preserve_modes(model):
        model.training = False
    assert model.training


def test_buffers_made_in_inference_mode_are_restored():
    with torch.inference_mode():
        model = nn.BatchNorm1d(2, affine=False)
    with preserve_buffers(model), torch.inference_mode():
        model(torch.randn(4, 2))
        assert int(model.num_batches_tracked) == 1
    assert (int(model.num_batches_tracked), model.running_var.tolist()) == (0, [1.0, 1.0])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_differentiable_block_records_whatever_surrounds_it(mode):
    weight = nn.Parameter(torch.tensor(3.0))
    with mode():
        with differentiable():
            (gradient,) = torch.autograd.grad(weight.square(), weight)
        assert torch.is_grad_enabled() is (mode is torch.enable_grad)
    assert float(gradient) == 6.0


def test_a_loss_is_one_number():
    assert require_scalar(torch.ones(1, 1), "").shape == (1, 1)
    for loss, found in ((torch.ones(2), "a tensor of shape (2,)"), (1.0, "float")):
        with pytest.raises(RequestError, match="not a scalar") as caught:
            require_scalar(loss, "a function that returns a scalar tensor")
        assert (caught.value.found, caught.value.key) == (found, "loss_fn")
