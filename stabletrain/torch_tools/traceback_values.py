"""What an exception says about numbers: the variables of its frames that are NaN."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor

MAX_SIZE = 2**24  # elements; a larger tensor is not read


class NonFiniteVariable(NamedTuple):
    """A variable that is not finite.

    Attributes:
        name: Of the variable, such as `loss`.
        function: The function that it is local to.
        file: The file of that function.
        line: Line that the function was at.
    """

    name: str
    function: str
    file: str
    line: int


def find_nonfinite(error: BaseException) -> NonFiniteVariable | None:
    """Return the first variable, from the innermost function out, that shows that training met a NaN.

    Many programs guard their training with `if not torch.isfinite(loss): raise`. What counts is a NaN in any tensor, or
    an Inf in a tensor with one element. A Python float counts if it is NaN; `best = inf` is how many programs begin. An
    Inf in a larger tensor may be an attention mask.

    Args:
        error: An exception that was raised. Nothing is changed, and nothing keeps a reference to its frames.

    Example:
        >>> def check(loss):
        ...     if not torch.isfinite(loss):
        ...         raise ValueError("stop")
        >>> try:
        ...     check(torch.tensor(float("nan")))
        ... except ValueError as error:
        ...     find_nonfinite(error).name
        'loss'
    """
    if isinstance(error, KeyboardInterrupt):  # says nothing about numbers
        return None
    for frame, line in reversed([*_frames(error)]):
        for name, value in [*frame.f_locals.items()]:
            if _is_bad(value):
                return NonFiniteVariable(name, frame.f_code.co_name, frame.f_code.co_filename, line)
    return None


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    step = error.__traceback__
    while step is not None:
        yield step.tb_frame, step.tb_lineno
        step = step.tb_next


@torch.no_grad()
def _is_bad(value: Any) -> bool:
    if isinstance(value, float):
        return math.isnan(value)
    if type(value) not in (Tensor, torch.nn.Parameter) or not value.is_floating_point():
        return False
    if value.layout is not torch.strided or value.is_meta or value.numel() > MAX_SIZE:
        return False
    return not bool(value.isfinite().all()) if value.numel() == 1 else bool(value.isnan().any())
