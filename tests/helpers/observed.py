"""Create observations from given values."""

from __future__ import annotations

import numpy as np

from stabletrain.diagnosis.observations import About, Observations, Series, Table, Waves
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.signals import GRADIENT


def table(values, steps=None, layers=None) -> Table:
    """Return (T, L) values as a table; a single row is repeated for ten measurements."""
    values = np.array(values, np.float64)
    values = np.tile(values, (10, 1)) if values.ndim == 1 else values
    steps = np.arange(len(values)) if steps is None else np.array(steps)
    return Table(steps, tuple(layers or (f"L{i:02d}.w" for i in range(values.shape[1]))), values)


def series(values, steps=None) -> Series:
    values = np.array(values, np.float64)
    return Series(np.arange(len(values)) if steps is None else np.array(steps), values)


def observed(
    gradient=None, losses=None, num_steps=None, prior_loss=None, *, units=None, time=None, choices=None, **more
) -> Observations:
    """Return observations of a gradient, losses, and other signals by name; `scalars` are added unchanged."""
    scalars = {name: series(values) for name, values in more.pop("scalars", {}).items()}
    if losses is not None:
        scalars[names.TRAIN_LOSS] = series(losses)
    rms = {name: table(values) for name, values in more.items() if name != "settings"}
    if gradient is not None:
        rms[GRADIENT] = table(gradient)
    about = About(choices=choices or {}, settings=more.get("settings", {}), num_steps=num_steps, prior_loss=prior_loss)
    waves = {layer: Waves(np.arange(len(v)), np.array(v, np.float64)) for layer, v in (time or {}).items()}
    return Observations(
        rms=rms, units={k: table(v) for k, v in (units or {}).items()}, time=waves, scalars=scalars, about=about
    )
