"""Run a model without leaving a trace: what a pass changes is put back when the block ends, also by an exception.

Checked on torch 2.13.0; the private part of torch that is used here is `nn.Module._buffers`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stabletrain.errors import RequestError
from stabletrain.torch_tools.eager import eagerly


@contextmanager
def isolated(model: nn.Module) -> Iterator[None]:
    """Restore the model's modes and buffers and all random number generators on exit.

    Weights and plain Python attributes are not covered. Differentiate with `torch.autograd.grad`, which leaves `p.grad`
    alone; `backward()` would add to it.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
        >>> with isolated(model):
        ...     outputs = model(torch.randn(4, 2))
        >>> int(model[1].num_batches_tracked)
        0
    """
    with preserve_modes(model), preserve_buffers(model), preserve_rng():
        yield


@contextmanager
def preserve_rng() -> Iterator[None]:
    """Restore Python's, NumPy's and torch's global generators on exit: the CPU's and those of all CUDA devices in use.

    Example:
        >>> with preserve_rng():
        ...     first = torch.rand(3)
        >>> torch.equal(first, torch.rand(3))
        True
    """
    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices, device_type="cuda"):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def preserve_modes(model: nn.Module) -> Iterator[None]:
    """Restore `training` of every module on exit.

    The flag is set directly: a model may override `train()` to do more, such as merge weights.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def preserve_buffers(model: nn.Module) -> Iterator[None]:
    """Restore every buffer on exit, the running statistics of batch norm among them: the same tensor, the same values.

    Buffers that are registered inside stay: the model may rely on them from then on.
    """
    buffers = [(module, name, buffer) for module in model.modules() for name, buffer in module._buffers.items()]
    values = [None if buffer is None else buffer.detach().clone() for _, _, buffer in buffers]
    try:
        yield
    finally:
        for (module, name, buffer), value in zip(buffers, values, strict=True):
            module._buffers[name] = buffer
            if buffer is not None and value is not None:
                with torch.inference_mode(buffer.is_inference()):
                    buffer.data.copy_(value)  # `.data`: a graph that saved the buffer stays valid


@contextmanager
def differentiable() -> Iterator[None]:
    """Record operations for autograd, whatever the caller's mode, and run compiled functions uncompiled.

    Compiled code calls no hooks.
    """
    with torch.inference_mode(False), torch.enable_grad(), eagerly():
        yield


def require_scalar(loss: Any, allowed: str) -> Tensor:
    """Return what a loss function returned.

    Args:
        loss: What the function returned.
        allowed: What the function should be, for the error message.

    Raises:
        RequestError: It is not a tensor of one element.
    """
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return loss
    raise RequestError(
        "The loss is not one number.",
        key="loss_fn",
        found=f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__,
        allowed=allowed,
    )
