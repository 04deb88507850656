"""Inf and NaN in a gradient."""

from __future__ import annotations

from stabletrain.diagnosis.finding import Finding
from stabletrain.diagnosis.observations import Observations
from stabletrain.diagnosis.remedies import advise


def find_nonfinite(observations: Observations) -> list[Finding]:
    """Find the first layer, in forward order, whose gradient was ever Inf or NaN.

    One is enough: a single non-finite element spreads to every weight with the next step. All layers that were
    hit on the same first step are in the evidence.
    """
    hit = [(s.step, [x for x in s.layers if x.num_nonfinite]) for s in observations.snapshots]
    hit = [(step, layers) for step, layers in hit if layers]
    if not hit:
        return []
    first_step, layers = hit[0]
    return [
        Finding(
            kind="nonfinite",
            severity="critical",
            layer=layers[0].layer,
            first_step=first_step,
            last_step=hit[-1][0],
            evidence={
                "num_nonfinite": layers[0].num_nonfinite,
                "size": layers[0].size,
                "layers": [x.layer for x in layers],
            },
            **advise("nonfinite", observations.choices, observations.learning_rate),
        )
    ]
