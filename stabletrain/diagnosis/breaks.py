"""Training that went well and broke within a single step, for no reason that its settings give.

A bad batch, a damaged state of the optimizer or of the weights: no other setting would have prevented it.
"""

from __future__ import annotations

import numpy as np

from stabletrain.diagnosis.observations import Observations, Series
from stabletrain.diagnosis.progress import EARLY_FALL, WORSE, progress_of
from stabletrain.diagnosis.weight_tables import row_medians, update_ratios
from stabletrain.vocabulary import metric_names as names

BEFORE, AFTER = 20, 10  # losses that are compared
LEAP = 5.0  # factor from the largest of the losses before to the next one
LATEST, CALM = 5, 3.0  # gradients that may exceed the largest of those before, and by which factor
SMALL = 0.05  # ‖ΔW‖/‖W‖ of the last measured step before: such a step cannot multiply the loss
SAME_RATE = 1.5  # factor between learning rates that are taken for the same


def find_break(observations: Observations) -> int | None:
    """Return the last step before the loss leapt within one step and stayed there; None if it did not.

    Before the leap, something had been learned, and neither the gradient, nor the updates, nor the learning rate had
    grown. Runs that diverge because their steps are too large grow over several steps, or move their weights further.
    """
    losses, progress = observations.scalars.get(names.TRAIN_LOSS), progress_of(observations)
    if losses is None or progress is None or not progress.is_measure or len(losses.steps) <= BEFORE:
        return None
    values = losses.values
    windows = np.lib.stride_tricks.sliding_window_view(values, BEFORE)[:-1]
    highest = windows.max(axis=1)  # of the losses before place BEFORE, BEFORE + 1, …
    rises = values[BEFORE:] - highest > WORSE * abs(progress.baseline)
    leaps = np.flatnonzero(rises & (values[BEFORE:] > LEAP * highest))
    if not leaps.size:
        return None
    place = int(leaps[0]) + BEFORE
    usual, later = np.median(values[place - BEFORE : place]), np.median(values[place : place + AFTER])
    has_learned = usual < (1 - EARLY_FALL) * progress.baseline
    stays = later > highest[leaps[0]] and progress.now > highest[leaps[0]]
    step = int(losses.steps[place])
    if has_learned and stays and _was_calm(observations, step):
        return int(losses.steps[place - 1])
    return None


def _was_calm(observations: Observations, step: int) -> bool:
    """Return whether gradient, updates and learning rate were as usual until `step`."""
    norms, ratios = observations.scalars.get(names.NORM_TOTAL), update_ratios(observations)
    if norms is None or ratios is None or _rose(observations.scalars.get(names.LR), step):
        return False
    before = norms.values[norms.steps < step][-BEFORE:]
    sizes = row_medians(ratios)[ratios.steps < step]
    if len(before) < BEFORE or not sizes.size or not sizes[-1] <= SMALL:
        return False
    return bool(before[-LATEST:].max() <= CALM * before[:-LATEST].max())


def _rose(rates: Series | None, step: int) -> bool:
    """Return whether the learning rate rose in the last steps; it is recorded where it changes."""
    if rates is None:
        return False
    start = max(0, int(np.searchsorted(rates.steps, step - BEFORE, side="right")) - 1)
    values = rates.until(step).values[start:]
    return len(values) > 1 and bool(values.max() > SAME_RATE * values[0])
