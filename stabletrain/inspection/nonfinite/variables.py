"""Tensors among the local variables of the user's functions: those that are running, or that an exception ended."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from stabletrain.signal.domains import has_nan, is_bad
from stabletrain.signal.user_code import ENDS, SKIPPED

MAX_FRAMES = 40
MAX_TENSORS = 10_000  # of one function: a data set may be a list of tensors
MAX_SIZE = 2**24  # elements; a larger tensor is not read


def running_frames() -> list[FrameType]:
    """Return the frames of the user's functions that are running, innermost first."""
    found, frame = [], sys._getframe(1)
    for _ in range(MAX_FRAMES):
        if frame is None:
            break
        found.append(frame)
        frame = frame.f_back
    return [frame for frame in found if _is_users(frame)]


def raised_frames(error: BaseException) -> list[FrameType]:
    """Return the frames of the user's functions that an exception passed through, innermost first."""
    found, step = [], error.__traceback__
    while step is not None:
        found.append(step.tb_frame)
        step = step.tb_next
    return [frame for frame in reversed(found) if _is_users(frame)]


def find_loss(frames: list[FrameType]) -> Tensor | None:
    """Return a loss that is not finite: a variable with one element and a graph."""
    return next((x for _, x in _variables(frames) if x.numel() == 1 and x.grad_fn is not None and _is(is_bad, x)), None)


def find_bad(frames: list[FrameType]) -> list[Tensor]:
    """Return the variables that contain Inf or NaN."""
    return [x for _, x in _variables(frames) if _is(is_bad, x)]


def find_target(frames: list[FrameType], num_samples: int | None) -> tuple[str | None, Tensor | None]:
    """Return the name and the value of a variable that may be the targets: without a graph, and with NaN.

    Args:
        frames: Frames of the user's functions.
        num_samples: Length of the batch. A variable of this length is preferred; if there is none, the first one with
            NaN is returned.
    """
    found = [(name, x) for name, x in _variables(frames) if x.dim() and not x.requires_grad and _is(has_nan, x)]
    fitting = [pair for pair in found if len(pair[1]) == num_samples]
    return next(iter([*fitting, *found]), (None, None))


def _is_users(frame: FrameType) -> bool:
    return not frame.f_code.co_filename.startswith((*ENDS, *SKIPPED))


def _variables(frames: list[FrameType]) -> Iterator[tuple[str, Tensor]]:
    for frame in frames:
        num_left = MAX_TENSORS
        for name, value in list(frame.f_locals.items()):
            for x in _tensors(value, set()):
                num_left -= 1
                if num_left < 0:
                    break
                if x.layout is torch.strided and not x.is_meta and x.numel() <= MAX_SIZE:
                    yield name, x


def _is(condition: Callable[[Tensor], bool], x: Tensor) -> bool:
    try:
        return condition(x)
    except (RuntimeError, NotImplementedError):  # a tensor without values of its own
        return False


def _tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists and dictionaries, which may contain themselves."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list | dict) and id(value) not in seen:
        seen.add(id(value))
        for part in list(value.values()) if isinstance(value, dict) else value:
            yield from _tensors(part, seen)
