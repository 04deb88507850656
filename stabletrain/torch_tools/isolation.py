"""Run a model without side effects: what a pass changes is restored when the block ends, even by an exception.

Uses the private attribute `nn.Module._buffers` (checked with torch 2.13.0).
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
    """Restore the modes and buffers of a model and all random number generators on exit.

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
    """Restore the global random number generators of Python, NumPy and torch (CPU and CUDA devices in use) on exit.

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
    """Restore every buffer on exit, such as the running statistics of batch norm: the same tensor with the same values.

    Buffers that are registered inside the block are kept, since the model may rely on them from then on.
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
                    buffer.data.copy_(value)  # `.data` keeps a graph valid that saved the buffer


@contextmanager
def differentiable() -> Iterator[None]:
    """Record operations for autograd, whatever the caller's mode, and run compiled functions eagerly.

    Compiled code does not call hooks.
    """
    with torch.inference_mode(False), torch.enable_grad(), eagerly():
        yield


def require_scalar(loss: Any, allowed: str) -> Tensor:
    """Return a loss if it is a tensor of one element.

    Args:
        loss: The return value of a loss function.
        allowed: What the loss function should be, for the error message.

    Raises:
        RequestError: The loss is not a tensor of one element.
    """
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return loss
    raise RequestError(
        "The loss is not a scalar.",
        key="loss_fn",
        found=f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__,
        allowed=allowed,
    )
