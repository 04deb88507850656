"""Runs of a model beside the training, after which it goes on as if nothing had been."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stabletrain.errors import RequestError
from stabletrain.torch_tools.eager import eagerly


@contextmanager
def keeping(model: nn.Module) -> Iterator[None]:
    """Put the buffers back at the end, running statistics for one."""
    buffers = [
        (m, name, b, b.detach().clone()) for m in model.modules() for name, b in m._buffers.items() if b is not None
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer.copy_(value)


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """One pass with gradients that draws the random numbers that are next, and leaves them there; uncompiled."""
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices), torch.inference_mode(False), torch.enable_grad(), eagerly():
        yield


def require_scalar(loss: Any, allowed: str) -> Tensor:
    """Return what a loss function returned.

    Raises:
        RequestError: It is not a tensor of one element; `allowed` says what the function should be.
    """
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return loss
    raise RequestError(
        "The loss is not one number.",
        key="loss_fn",
        found=f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__,
        allowed=allowed,
    )
