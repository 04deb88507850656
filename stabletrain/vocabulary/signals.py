"""The signals that are measured on every layer, in the order in which a training step produces them."""

from __future__ import annotations

GRADIENT = "gradient"  # of the loss with respect to the parameter, before clipping
DELTA = "delta"  # of the loss with respect to a layer's output
ACTIVATION = "activation"  # a layer's output
WEIGHT = "weight"  # before the step
UPDATE = "update"  # what the step adds to the weight
MOMENT = "moment"  # the optimizer's second moment, after the step
CLIP = "clip"  # the gradient that the optimizer sees, after clipping
UNITS = "units"  # shares of dead and saturated units; the others are statistics over elements
SIGNALS = (GRADIENT, DELTA, ACTIVATION, WEIGHT, UPDATE, MOMENT, CLIP, UNITS)

DEAD, SATURATED, EQUAL = "dead", "saturated", "equal"  # shares of units
