"""What the rules read: the measurements of a run as arrays, whether it is in progress or has ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from stabletrain.vocabulary.notice import Notice


class Series(NamedTuple):
    """A scalar over the steps."""

    steps: np.ndarray  # (T,) int64, increasing
    values: np.ndarray  # (T,) float64

    def until(self, step: int) -> Series:
        """Return the measurements up to and including `step`."""
        end = int(np.searchsorted(self.steps, step, side="right"))
        return Series(self.steps[:end], self.values[:end])


class Table(NamedTuple):
    """A statistic of each layer over the steps."""

    steps: np.ndarray  # (T,) int64, increasing
    layers: tuple[str, ...]  # L names in forward order
    values: np.ndarray  # (T, L) float64, NaN where nothing was measured

    def until(self, step: int) -> Table:
        """Return the measurements up to and including `step`."""
        end = int(np.searchsorted(self.steps, step, side="right"))
        return Table(self.steps[:end], self.layers, self.values[:end])

    def of(self, layers: tuple[str, ...]) -> Table:
        """Return the columns of some layers, in the given order; an unknown layer raises KeyError."""
        if layers == self.layers:
            return self
        places = {layer: place for place, layer in enumerate(self.layers)}
        return Table(self.steps, layers, self.values[:, [places[layer] for layer in layers]])


class Waves(NamedTuple):
    """A statistic of each time step of a recurrent layer, over the training steps."""

    steps: np.ndarray  # (T,) int64, increasing
    values: np.ndarray  # (T, n) float64, the first time step first

    def until(self, step: int) -> Waves:
        """Return the measurements up to and including `step`."""
        end = int(np.searchsorted(self.steps, step, side="right"))
        return Waves(self.steps[:end], self.values[:end])


@dataclass(frozen=True)
class About:
    """What is known of a run beside its measurements. Anything may be unknown.

    Attributes:
        choices: The option of each configuration group; empty if stabletrain did not compose the run.
        settings: Values by dotted key, such as `optimizer.lr`.
        num_steps: The training budget in optimizer steps.
        steps_per_epoch: Optimizer steps in one pass over the training data.
        num_dims: Number of axes of each parameter, by layer name; 1 for biases and gains.
        frozen_share: Fraction of the elements of all parameters that require no gradient.
        weight_gain: Median over the trained weights of rms(W) √fan_in at the beginning (`torch_tools.weight_gain`).
        prior_loss: Loss of the best constant prediction: the entropy of the labels, or the variance of the targets.
        prior_is_measured: Whether the prior loss was inferred from the loss itself, so that it is on the loss's scale.
        is_game: Whether optimizers of different networks step in turn, as in a GAN, where the level of the loss does
            not show what was learned.
        is_open_ended: Whether `num_steps` is the number of steps so far, of a training whose budget nobody told.
        client: Whose words advice is given in, where stabletrain did not compose the run: `lightning`, `huggingface`,
            or `loop` for your own training loop.
    """

    choices: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    num_steps: int | None = None
    steps_per_epoch: int | None = None
    num_dims: Mapping[str, int] = field(default_factory=dict)
    frozen_share: float = 0.0
    weight_gain: float | None = None
    prior_loss: float | None = None
    prior_is_measured: bool = False
    is_game: bool = False
    is_open_ended: bool = False
    client: str | None = None


def num_dims_by_layer(layers: Iterable[str], num_dims: Mapping[str, int]) -> dict[str, int]:
    """Return the number of axes of each parameter by layer name, given it by parameter path."""
    paths = {layer: layer.partition(".")[2] for layer in layers}
    return {layer: num_dims[path] for layer, path in paths.items() if path in num_dims}


@dataclass(frozen=True)
class Observations:
    """The numbers of a run or of its beginning.

    Attributes:
        rms: Root mean square over the finite elements by signal (`gradient`, `delta`, `activation`, `weight`,
            `update`, `moment`, `clip`; see `signal.snapshot`).
        nonfinite: Number of Inf and NaN, by signal.
        units: Shares from 0 to 1: `dead` and `saturated` units of each layer (see `signal.units`).
        time: ‖∂L/∂h_t‖ by recurrent layer.
        scalars: Everything with one number a step: `train/loss`, `val/loss`, `val/accuracy`, `gradient/norm/total`,
            `clip/norm_after`, `lr`, …
        notices: What was seen during training itself, such as mistakes in the code.
        about: What is known beside.
    """

    rms: Mapping[str, Table] = field(default_factory=dict)
    nonfinite: Mapping[str, Table] = field(default_factory=dict)
    units: Mapping[str, Table] = field(default_factory=dict)
    time: Mapping[str, Waves] = field(default_factory=dict)
    scalars: Mapping[str, Series] = field(default_factory=dict)
    notices: tuple[Notice, ...] = ()
    about: About = field(default_factory=About)

    def until(self, step: int) -> Observations:
        """Return what was known once `step` was done: a rule sees the past alone."""
        cut = {
            name: {key: x.until(step) for key, x in getattr(self, name).items()}
            for name in ("rms", "nonfinite", "units", "time", "scalars")
        }
        notices = tuple(notice.until(step) for notice in self.notices if notice.first_step <= step)
        return replace(self, notices=notices, **cut)
