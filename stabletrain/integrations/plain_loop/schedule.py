"""On which steps the doctor of a plain loop measures more than the gradient."""

from __future__ import annotations

from torch import nn

from stabletrain.signal.cadence import is_due
from stabletrain.signal.sources.output_statistics import watched_modules

FIRST, EVERY = 10, 10  # the first steps, which show the initialization; then as in conf/watch/default.yaml
DEEP = 64  # layers: what is measured costs as much for each of them, however little the layer itself computes
FIRST_DEEP, EVERY_DEEP = 4, 150  # each time, units are counted on the following steps too, until there are enough
TIME_STEPS = (0, 1, 3)  # a recurrent layer is computed once more then, step by step: an eighth of the time of a step
TIME_EVERY, TIME_EARLY, TIME_EVERY_LATER = 10, 30, 50  # up to step 30, and from then on


class Schedule:
    """Which steps are measured, by the size of the model alone: the same on every machine.

    Measuring the outputs of a small layer takes longer than computing them. A step of a network of 100 layers of 128
    takes two and a half times as long while it is measured, one of a transformer of 6 layers 1.1 times as long
    (`benchmarks/doctor_cost.py --bare`).

    Args:
        model: The model that is trained.
    """

    def __init__(self, model: nn.Module) -> None:
        is_deep = len(watched_modules(model)) > DEEP
        self._first, self._every = (FIRST_DEEP, EVERY_DEEP) if is_deep else (FIRST, EVERY)

    def is_measured(self, step: int) -> bool:
        """Return whether all signals are measured on a step."""
        return step < self._first or is_due(step, self._every)

    def follows_time(self, step: int) -> bool:
        """Return whether the gradient through time is measured on a step without being asked for."""
        return step in TIME_STEPS or is_due(step, TIME_EVERY if step < TIME_EARLY else TIME_EVERY_LATER)
