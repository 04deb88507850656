"""Clips that are computed on the device, so that the host reads all their norms at once.

Reading a tensor's value on the host (`float(norm)`, `if norm > limit`) makes the host wait for an accelerator. A
`DeviceClip` uses `torch.where` instead, and acts only where the norm is ordinary: within the range in which squares
in the gradients' precision neither overflow nor underflow. The host reads the norms once, at the end. If it finds one
that is not ordinary, that clip and those after it have changed nothing yet, and they are applied again, with exact
norms and as many reads as those take.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from stabletrain.gradient.clip_base import Clip
from stabletrain.gradient.norms import exact_norm, is_ordinary, measure_norm
from stabletrain.gradient.scale import SMALLEST_LIMIT
from stabletrain.torch_tools.local_shards import gradients_of, select

Call = Callable[[list[nn.Parameter]], Tensor]  # `__call__` of a user-defined clip


class Norm(NamedTuple):
    """The total norm of the gradients that `DeviceClip.limit_` is about to clip.

    Attributes:
        value: Scalar tensor, on the device of the first gradient.
        applies: Scalar bool tensor. Where it is false, `limit_` must leave every gradient as it is.
        host: The value on the host, finite and above 0; None if it has not been read. After a clip that scaled the
            gradients by a known factor, it follows from that factor and agrees with `value` up to rounding.
    """

    value: Tensor
    applies: Tensor
    host: float | None = None


class Clipped(NamedTuple):
    """The total norm of all gradients before and after clipping.

    Attributes:
        norm: Before, as a scalar tensor.
        before: Before, on the host. Inf or NaN if a gradient is; then no gradient has been changed.
        after: After, on the host; NaN if it is unknown because it was not asked for.
    """

    norm: Tensor
    before: float
    after: float


class OneReadClip(Clip):
    """A clip, or several in turn, whose norms the host reads at once."""

    @abstractmethod
    def steps(self) -> list[DeviceClip | Call]:
        """Return the clips that are applied in turn."""

    def __call__(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Clip the gradients of `parameters` and return their total norm before clipping."""
        return _run(self.steps(), parameters, measure_after=False).norm


class DeviceClip(OneReadClip):
    """A clip that follows from the gradients and their total norm.

    Attributes:
        norm_type: p of the total norm that `limit_` receives.
        smallest_limit: The smallest number that norms are compared with.
        needs_host: Whether `limit_` needs `Norm.host`, for a history of norms say.
    """

    norm_type: float = 2.0
    smallest_limit: float = math.inf
    needs_host: ClassVar[bool] = False

    @abstractmethod
    def limit_(self, parameters: list[nn.Parameter], norm: Norm) -> Tensor | float | None:
        """Clip the gradients of `parameters`, which all have one, without reading the device.

        Returns:
            The total norm after clipping where it follows from the norm before, else None: it is measured if needed.
        """

    def steps(self) -> list[DeviceClip | Call]:
        """Return the clip itself."""
        return [self]


def steps_of(clip: Clip) -> list[DeviceClip | Call]:
    """Return the clips that `clip` applies in turn; a user-defined `__call__` is one step."""
    if isinstance(clip, OneReadClip) and type(clip).__call__ is OneReadClip.__call__:
        return clip.steps()
    return [clip.__call__]


def clip_and_measure_(clip: Clip, parameters: Iterable[nn.Parameter]) -> Clipped:
    """Clip the gradients of `parameters` and return their total norm before and after.

    Ordinary norms are read from the device once; twice in a chain where `value`, `layer` or `adaptive` follows a
    statistical clip, whose history needs the norm before these are applied, and on steps in which one statistical
    clip has scaled the gradients and another follows.
    """
    return _run(steps_of(clip), parameters, measure_after=True)


def _run(steps: Sequence[DeviceClip | Call], parameters: Iterable[nn.Parameter], *, measure_after: bool) -> Clipped:
    run = _Run(select(parameters))
    for step in steps:
        if isinstance(step, DeviceClip):
            run.apply_(step)
        else:
            run.call_(step)
    return run.finish(measure_after)


class _Run:
    """Clips applied in turn to the gradients of one step, and what the host has yet to read about them."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self._parameters = parameters
        self._gradients = gradients_of(parameters)
        self._unread: list[tuple[DeviceClip, Norm]] = []
        self._first: tuple[Tensor, float] | None = None  # the norm before all clips
        self._unchanged: Norm | None = None  # a norm that was read, if no gradient has changed since
        self._after: Tensor | float | None = None  # the norm after the last clip, if that knows it,
        self._after_type = 2.0  # and its p
        self._is_over = False  # the norm is 0 or not finite: there is nothing to clip

    def apply_(self, clip: DeviceClip) -> None:
        """Apply a clip; if its norm has not been read, only where that is ordinary and all unread ones before are."""
        if self._is_over:
            return
        if self._unchanged is not None and clip.norm_type == 2.0:
            self._limit_(clip, self._unchanged)
            return
        norm = self._measure(clip.norm_type)
        if clip.needs_host or clip.smallest_limit < SMALLEST_LIMIT:
            self._unread.append((clip, norm))
            self._read()
            return
        norm = norm._replace(host=self._estimate(clip.norm_type))
        if norm.host is None:
            self._unread.append((clip, norm))
        self._limit_(clip, norm)

    def call_(self, step: Call) -> None:
        """Call a user-defined clip, which may read and change anything."""
        self._read()
        norm = step(self._parameters)
        self._first = self._first or (norm, float(norm))
        self._gradients = gradients_of(self._parameters)
        self._unchanged, self._after, self._is_over = None, None, False

    def finish(self, measure_after: bool) -> Clipped:
        """Read what has not been read, with the norm after clipping if it is asked for."""
        if not measure_after:
            self._read()
            assert self._first is not None, "a run has at least one clip"
            return Clipped(*self._first, math.nan)
        measured = measure_norm(self._gradients) if self._after is None else None
        unread = self._after if isinstance(self._after, Tensor) else measured
        after = self._read(unread)
        assert self._first is not None, "a run has at least one clip"
        if after is None:  # known before, or changed by a clip that was applied again
            return Clipped(*self._first, self._read_after())
        return Clipped(*self._first, after if measured is None else self._exact_after(measured, after))

    def _read_after(self) -> float:
        if self._after is not None:
            return float(self._after)
        norm = measure_norm(self._gradients)
        return self._exact_after(norm, float(norm))

    def _exact_after(self, norm: Tensor, value: float) -> float:
        return exact_norm(self._gradients, 2.0, norm, value)[1]

    def _measure(self, norm_type: float) -> Norm:
        value = measure_norm(self._gradients, norm_type)
        applies = is_ordinary(value, norm_type)
        return Norm(value, applies & self._unread[-1][1].applies if self._unread else applies)

    def _estimate(self, norm_type: float) -> float | None:
        """Return the norm on the host where it follows from earlier clips, and is ordinary beyond doubt."""
        known = self._after if isinstance(self._after, float) else math.nan
        return known if norm_type == self._after_type == 2.0 and 1e-12 < known < 1e16 else None

    def _limit_(self, clip: DeviceClip, norm: Norm) -> None:
        self._after, self._after_type = clip.limit_(self._parameters, norm), clip.norm_type
        if not isinstance(self._after, float) or self._after != norm.host:
            self._unchanged = None

    def _read(self, after: Tensor | None = None) -> float | None:
        """Read all norms that have not been read; return that of `after`, None if a clip had to be applied again."""
        unread, self._unread = self._unread, []
        scalars = [scalar for _, norm in unread for scalar in (norm.value, norm.applies)]
        values = _read_scalars(scalars if after is None else [*scalars, after])
        is_stale = False
        for (clip, norm), value, applies in zip(unread, values[::2], values[1::2], strict=False):
            if not applies:
                self._repeat_(clip, None if is_stale else (norm.value, value))
                is_stale = True
                continue
            self._first = self._first or (norm.value, value)
            if clip.needs_host or clip.smallest_limit < SMALLEST_LIMIT:
                self._unchanged = norm._replace(host=value)
                self._limit_(clip, self._unchanged)
        return None if after is None or is_stale else values[-1]

    def _repeat_(self, clip: DeviceClip, measured: tuple[Tensor, float] | None) -> None:
        """Apply a clip that has changed nothing yet, by the exact norm."""
        if self._is_over:
            return
        if measured is None:
            norm = measure_norm(self._gradients, clip.norm_type)
            measured = norm, float(norm)
        norm, value = exact_norm(self._gradients, clip.norm_type, *measured)
        self._first = self._first or (norm, value)
        if value == 0.0 or not math.isfinite(value):
            self._is_over, self._after = True, value
            return
        self._limit_(clip, Norm(norm, torch.ones_like(norm, dtype=torch.bool), value))


def _read_scalars(scalars: list[Tensor]) -> list[float]:
    """Copy scalar tensors to the host in one read."""
    if not scalars:
        return []
    widest = max((s.dtype for s in scalars if s.is_floating_point()), key=lambda dtype: torch.finfo(dtype).bits)
    return torch.stack([s.detach().to(scalars[0].device, widest) for s in scalars]).tolist()
