"""Clips whose limit follows from the norms of earlier steps."""

from __future__ import annotations

import math
from abc import abstractmethod
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from stabletrain.errors import RequestError, require_choice, require_range
from stabletrain.gradient.clip_base import Clip
from stabletrain.gradient.device_clip import DeviceClip, Norm
from stabletrain.gradient.scale import scale_

MODES = ("reciprocal", "max", "mean")


def percentile_of(ordered: Sequence[float], percentile: float) -> float:
    """Return a percentile of numbers in ascending order, interpolated linearly as by `numpy.percentile`.

    Example:
        >>> percentile_of([1.0, 2.0, 4.0], 75.0)
        3.0
    """
    place = (len(ordered) - 1) * percentile / 100.0
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def zscore_limit(norm: float, mean: float, std: float, z_threshold: float, mode: str = "reciprocal") -> float:
    """Return what a norm is clipped to: itself up to z = (‖g‖ − μ) / σ = z_threshold, else μ + z* σ.

    In mode `reciprocal`, z* is z_threshold² / z, lower for larger outliers; in `max`, z_threshold; in `mean`, 0.

    References:
        Kumar et al. 2025, ZClip: Adaptive Spike Mitigation for LLM Pre-Training, section 3.

    Example:
        >>> zscore_limit(2.0, mean=1.0, std=0.1, z_threshold=2.5), zscore_limit(1.2, 1.0, 0.1, 2.5)
        (1.0625, 1.2)
    """
    distance = norm - mean
    if distance <= z_threshold * std:
        return norm
    if mode == "reciprocal":
        return mean + z_threshold**2 * std * (std / distance)  # σ / z = σ² / (‖g‖ − μ), also where σ is 0
    return mean + (z_threshold * std if mode == "max" else 0.0)


class StatisticalClip(DeviceClip):
    """Scales all gradients by one factor, to a limit that follows from earlier norms.

    A norm that is zero or not finite is not added to the history: it says nothing about the gradient's scale, and a
    single one in a mean or among few percentiles would stop the training for good.
    """

    needs_host = True

    @abstractmethod
    def find_limit(self, norm: float) -> float:
        """Add a norm, finite and above 0, to the history and return what to clip it to."""

    def limit_(self, parameters: list[nn.Parameter], norm: Norm) -> float:
        """Clip by the norm of all gradients; return the norm after."""
        assert norm.host is not None, "a statistical clip needs the norm on the host"
        limit = self.find_limit(norm.host)
        if limit >= norm.host:
            return norm.host
        scale_(parameters, limit / norm.host)
        return limit


class PercentileClip(StatisticalClip, name="percentile"):
    """AutoClip: g ← g · min(1, c / ‖g‖), c the p-th percentile of all norms so far, including the current one.

    Most steps are clipped by design: nine of ten at the 10th percentile.

    Args:
        percentile: p, from 0 (the smallest norm so far) to 100 (never clips). 10 as in the paper, section 4.
        window: Number of most recent norms that count, from 1; None for all, as in the paper. Each takes eight bytes
            of a checkpoint.

    Raises:
        RequestError: A number is out of its range.

    References:
        Seetharaman et al. 2020, AutoClip: Adaptive Gradient Clipping for Source Separation Networks, algorithm 1.
    """

    def __init__(self, percentile: float = 10.0, window: int | None = None) -> None:
        self.percentile = require_range("percentile", percentile, 0.0, 100.0)
        self.window = window if window is None else require_range("window", window, 1)
        self._arrived: deque[float] = deque()
        self._ordered: list[float] = []

    def find_limit(self, norm: float) -> float:
        """Return the percentile of the norms so far, including this one."""
        if self.window is not None and len(self._arrived) >= self.window:
            del self._ordered[bisect_left(self._ordered, self._arrived.popleft())]
        self._arrived.append(norm)
        insort(self._ordered, norm)
        return percentile_of(self._ordered, self.percentile)

    def state_dict(self) -> dict[str, Any]:
        """Return the norms so far, oldest first."""
        return {"norms": torch.tensor(list(self._arrived), dtype=torch.float64)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state that `state_dict` returned."""
        _require_keys(self, state, self.state_dict())
        norms = state["norms"].tolist()
        self._arrived = deque(norms[-self.window :] if self.window else norms)
        self._ordered = sorted(self._arrived)


class ZScoreClip(StatisticalClip, name="zscore"):
    """ZClip: g ← g · c / ‖g‖ where (‖g‖ − μ) / σ > z_threshold; see `zscore_limit` for c.

    μ ← α μ + (1 − α) n and σ² ← α σ² + (1 − α) (n − μ)², n the norm after clipping. Both are initialized from the
    norms of the first `warmup_steps` steps, during which nothing is clipped.

    Args:
        z_threshold: Number of standard deviations above the mean beyond which a norm is a spike; above 0. 2.5 as in
            the paper, section 4.
        alpha: α, the decay of the moving mean and variance, from 0 to below 1. 0.97 as there.
        warmup_steps: Number of first steps that are not clipped, from 2. 25 as there.
        mode: What a spike is clipped to: `reciprocal`, `max` or `mean`, see `zscore_limit`.

    Raises:
        RequestError: A number or name is not allowed.

    References:
        Kumar et al. 2025, ZClip: Adaptive Spike Mitigation for LLM Pre-Training, section 3 and algorithm 1.
    """

    def __init__(
        self, z_threshold: float = 2.5, alpha: float = 0.97, warmup_steps: int = 25, mode: str = "reciprocal"
    ) -> None:
        self.z_threshold = require_range("z_threshold", z_threshold, 0.0, open_minimum=True)
        self.alpha = require_range("alpha", alpha, 0.0, 1.0, open_maximum=True)
        self.warmup_steps = require_range("warmup_steps", warmup_steps, 2)
        self.mode = require_choice("mode", mode, MODES)
        self._warmup: list[float] = []
        self._mean = 0.0
        self._variance = 0.0

    def find_limit(self, norm: float) -> float:
        """Return the norm itself, or what to clip it to if it is a spike."""
        if len(self._warmup) < self.warmup_steps:
            self._warmup.append(norm)
            self._mean = math.fsum(self._warmup) / len(self._warmup)
            self._variance = math.fsum((n - self._mean) ** 2 for n in self._warmup) / len(self._warmup)
            return norm
        limit = zscore_limit(norm, self._mean, math.sqrt(self._variance), self.z_threshold, self.mode)
        self._mean = self.alpha * self._mean + (1.0 - self.alpha) * limit
        self._variance = self.alpha * self._variance + (1.0 - self.alpha) * (limit - self._mean) ** 2
        return limit

    def state_dict(self) -> dict[str, Any]:
        """Return the mean, the variance, and the norms of the warm-up."""
        return {"mean": self._mean, "variance": self._variance, "warmup": list(self._warmup)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state that `state_dict` returned."""
        _require_keys(self, state, self.state_dict())
        self._mean, self._variance, self._warmup = state["mean"], state["variance"], list(state["warmup"])


def _require_keys(clip: Clip, state: dict[str, Any], expected: dict[str, Any]) -> None:
    if set(state) != set(expected):
        raise RequestError(
            f"The state does not belong to a {type(clip).__name__}.",
            key="clip",
            found=", ".join(state) or "none",
            allowed=", ".join(expected),
        )
