"""Inf and NaN, in any signal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from stabletrain.diagnosis import remedies
from stabletrain.diagnosis.observations import About, Observations
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import CRITICAL, INFO, Finding
from stabletrain.vocabulary.kinds import NONFINITE
from stabletrain.vocabulary.notice import Notice
from stabletrain.vocabulary.origins import ORIGIN, OVERFLOW, advice_for, is_unknown
from stabletrain.vocabulary.signals import ACTIVATION, DELTA, GRADIENT, MOMENT, UPDATE, WEIGHT

HARMLESS = (
    "Outputs of layers contain Inf or NaN, which reach neither the loss nor a gradient: nothing needs to be done."
)
IN_ORDER = (WEIGHT, ACTIVATION, GRADIENT, DELTA, UPDATE, MOMENT)  # of two on one step, the first is named


@NONFINITE.rule
def find_nonfinite(observations: Observations) -> list[Finding]:
    """Find the first layer, in forward order, that ever had an Inf or NaN.

    One element is enough: with the next step it spreads to every weight. The evidence lists all layers affected on that
    first step, and where the value came from, if that was noticed (`stabletrain.inspection.nonfinite`). If later
    gradients and losses are finite, the step was skipped, as loss scalers do to find their scale (Micikevicius et al.
    2018, section 3.2), and the finding is `info`. So it is if only outputs of layers are concerned, and neither the
    loss nor a gradient, as for masks, or for a call of the model that is no part of the training.
    """
    hits = {signal: _hits(observations, signal) for signal in IN_ORDER}
    hits = {signal: found for signal, found in hits.items() if found is not None}
    losses = observations.scalars.get(names.TRAIN_NONFINITE)
    noticed = min((n for n in observations.notices if n.kind == NONFINITE.name), key=_first, default=None)
    harm = [found[0] for signal, found in hits.items() if signal != ACTIVATION]
    harm += [int(losses.steps[0])] if losses and len(losses.steps) else []
    harm += [noticed.first_step] if noticed else []
    is_harmless = not harm
    if harm and ACTIVATION in hits and hits[ACTIVATION][0] < min(harm):
        del hits[ACTIVATION]  # masks, or outputs that nothing depends on: loss and gradients were finite with them
    firsts = [found[0] for found in hits.values()] + ([int(losses.steps[0])] if losses and len(losses.steps) else [])
    firsts += [noticed.first_step] if noticed else []
    if not firsts:
        return []
    first = min(firsts)
    signal = next((s for s in IN_ORDER if s in hits and hits[s][0] == first), None)
    layers = hits[signal][2] if signal else {}
    last = max(
        [found[1] for found in hits.values()]
        + ([int(losses.steps[-1])] if losses and len(losses.steps) else [])
        + ([noticed.last_step] if noticed else [])
    )
    evidence = noticed.evidence if noticed else {}
    is_located = evidence.get(ORIGIN) is not None
    return [
        Finding(
            kind=NONFINITE.name,
            severity=INFO if _was_skipped(observations, last - is_harmless) else CRITICAL,
            layer=noticed.layer if noticed and is_located else next(iter(layers), None),
            first_step=first,
            last_step=last,
            evidence={
                "signal": signal or "loss",
                "num_nonfinite": int(next(iter(layers.values()), 0)),
                "layers": list(layers),
                **evidence,
                **_growth(observations, first, evidence),
            },
            advice=HARMLESS if is_harmless else advice_for(evidence),
        )
    ]


def _first(notice: Notice) -> int:
    return notice.first_step


def _growth(observations: Observations, first: int, evidence: Mapping[str, Any]) -> dict[str, float]:
    """Return by how much the loss had grown before an overflow, as evidence."""
    losses = observations.scalars.get(names.TRAIN_LOSS)
    if evidence.get(ORIGIN) != OVERFLOW or losses is None:
        return {}
    before = np.abs(losses.values[(losses.steps < first) & np.isfinite(losses.values)])
    return {"growth": float(before.max() / max(before.min(), 1e-30))} if len(before) > 1 else {}


def _hits(observations: Observations, signal: str) -> tuple[int, int, dict[str, float]] | None:
    """Return the first and last step with non-finite elements, and their number by layer on the first."""
    table = observations.nonfinite.get(signal)
    if table is None:
        return None
    bad = np.nan_to_num(table.values) > 0
    rows = np.flatnonzero(bad.any(axis=1))
    if not rows.size:
        return None
    row = rows[0]
    layers = {layer: float(table.values[row, i]) for i, layer in enumerate(table.layers) if bad[row, i]}
    return int(table.steps[row]), int(table.steps[rows[-1]]), layers


def _was_skipped(observations: Observations, last: int) -> bool:
    """Return whether training continued with finite numbers."""
    gradient, losses = observations.rms.get(GRADIENT), observations.scalars.get(names.TRAIN_LOSS)
    return all(x is not None and len(x.steps) > 0 and x.steps[-1] > last for x in (gradient, losses))


@NONFINITE.remedy
def remedy_nonfinite(finding: Finding, about: About) -> list[remedies.Remedy]:
    """Propose clipping, a lower rate, a norm; nothing where the origin has an advice of its own."""
    if finding.advice == HARMLESS or (advice_for(finding.evidence) and not is_unknown(finding.evidence)):
        return []
    return [*remedies.clip(about), *remedies.lower_lr(about), *remedies.norm(about)]
