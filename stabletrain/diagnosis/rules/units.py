"""Units that are never active, or that operate on the flat ends of their activation."""

from __future__ import annotations

import numpy as np

from stabletrain.diagnosis import remedies
from stabletrain.diagnosis.observations import About, Observations
from stabletrain.diagnosis.progress import progress_of, share_done
from stabletrain.diagnosis.windows import last_stretch
from stabletrain.vocabulary.finding import Finding
from stabletrain.vocabulary.kinds import DEAD_UNITS, SATURATION, Kind
from stabletrain.vocabulary.signals import DEAD, SATURATED

SHARE = 0.5  # of a layer's units: AutoTrainer's dying ReLU, SageMaker Debugger's threshold_layer
CRITICAL_SHARE = 0.9  # almost nothing passes
MIN_MEASUREMENTS = 1  # each is over at least 512 samples, see signal/sources/unit_activity
NUM_MEASUREMENTS = 3
PERSISTENCE = 0.6
GAP = 3
PATIENCE = 0.03  # of the training budget
AT_START = 20  # steps: units that were never active before were not killed by a step
LEAKY = remedies.Remedy(
    "activation=leaky_relu init=he",
    "A slope below zero keeps units alive (Maas et al. 2013), weights of the matching scale wake them.",
    'st.replace_activations_(model, "leaky_relu") with st.initialize_(model, "he")',
    overwrites=True,
)


@DEAD_UNITS.rule
def find_dead_units(observations: Observations) -> list[Finding]:
    """Find the first layer more than half of whose units are active on less than 1% of the samples.

    Units are counted, not elements: the outputs of a healthy ReLU layer are up to 80% zeros (Glorot et al. 2011,
    section 3).
    """
    return _find(observations, DEAD, DEAD_UNITS)


@SATURATION.rule
def find_saturation(observations: Observations) -> list[Finding]:
    """Find the first layer more than half of whose units are beyond 99% of their range on half of the samples.

    The gates of LSTM and GRU are not measured: they saturate by design.
    """
    return _find(observations, SATURATED, SATURATION)


def _find(observations: Observations, share_of: str, kind: Kind) -> list[Finding]:
    table = observations.units.get(share_of)
    if table is None or not len(table.steps):
        return []
    hit = []
    for layer, column in zip(table.layers, table.values.T, strict=True):
        known = ~np.isnan(column)
        steps, shares = table.steps[known], column[known]
        length = min(NUM_MEASUREMENTS, max(MIN_MEASUREMENTS, len(shares)))
        start = last_stretch(shares > SHARE, PERSISTENCE, length, GAP)
        if start is not None:
            hit.append((layer, int(steps[start]), int(steps[-1]), float(np.median(shares[start:]))))
    if not hit:
        return []
    layer, _, last, _ = hit[0]
    return [
        Finding(
            kind=kind.name,
            severity=_severity(observations, max(share for *_, share in hit), last),
            layer=layer,
            first_step=min(first for _, first, _, _ in hit),
            last_step=last,
            evidence={
                "share_of_units": round(hit[0][3], 3),
                "threshold": SHARE,
                "layers": {name: round(share, 3) for name, _, _, share in hit},
            },
        )
    ]


def _severity(observations: Observations, share: float, step: int) -> str:
    progress = progress_of(observations)
    is_unhealthy = progress is not None and (progress.lags if share > CRITICAL_SHARE else progress.suffers)
    if progress is not None and not progress.is_measure:
        is_unhealthy = share > CRITICAL_SHARE  # no loss shows that the layer learns nevertheless
    if progress is not None and not (is_unhealthy and share_done(observations, step) >= PATIENCE):
        return "info"
    return "critical" if share > CRITICAL_SHARE else "warning"


@DEAD_UNITS.remedy
def remedy_dead_units(finding: Finding, about: About) -> list[remedies.Remedy]:
    """Propose a slope below zero with the matching scale, then what keeps units from dying.

    The gradient of a network whose units wake is as large as at the start of any training: what was measured before
    says nothing about the steps that it can bear, so that those of gradient descent are clipped. A lower learning rate
    wakes no unit that was dead from the start: then it comes last.
    """
    is_fixed = about.choices.get("model") == remedies.CUSTOM or remedies.is_recurrent(about)
    first = remedies.initialization(about) if is_fixed else [remedies.clipped(LEAKY, about)]
    smaller, normalized = remedies.lower_lr(about), remedies.norm(about)
    others = [*normalized, *smaller] if finding.first_step < AT_START else [*smaller, *normalized]
    return [*first, *others, *remedies.initialization(about)]


@SATURATION.remedy
def remedy_saturation(finding: Finding, about: About) -> list[remedies.Remedy]:
    """Propose what keeps pre-activations small, then an activation that does not saturate."""
    scale = [*remedies.initialization(about), *remedies.norm(about)]
    return [*scale, *remedies.rectified(about), *remedies.lower_lr(about)]
