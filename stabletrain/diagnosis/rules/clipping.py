"""Clipping that never acts although the gradient explodes, or that acts on every step."""

from __future__ import annotations

import numpy as np

from stabletrain.diagnosis import remedies
from stabletrain.diagnosis.observations import About, Observations
from stabletrain.diagnosis.progress import progress_of
from stabletrain.diagnosis.rates import rate_of
from stabletrain.diagnosis.rules.depth import find_exploding, find_norm_explosion
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import Finding
from stabletrain.vocabulary.kinds import CLIP_ALWAYS, CLIP_INEFFECTIVE

ALWAYS = 0.95  # of the measurements
MIN_MEASUREMENTS = 20
CONSTANT = 0.01  # relative deviation of the norm after clipping: below, it counts as constant
HARD = 10.0  # norm before over norm after: nine tenths of each step are removed
PATIENCE = 0.3  # of the training budget
ACTS = 1e-4  # relative: a smaller reduction of the norm is rounding


@CLIP_ALWAYS.rule
def find_clip_always(observations: Observations) -> list[Finding]:
    """Find clipping that acts on more than 95% of the last 20 measurements and leaves a constant norm.

    With SGD every step then has the length lr · max_norm, whatever the gradient: the threshold acts as the learning
    rate (Pascanu et al. 2013, section 3.2). Where it removes nine tenths of each step, a loss that is still falling at
    the end is held against it; adaptive optimizers undo a constant factor.
    """
    found = _norms(observations)
    if found is None or len(found[0]) < MIN_MEASUREMENTS:
        return []
    steps, before, after = found
    acts = after < before * (1 - ACTS)
    last = slice(-MIN_MEASUREMENTS, None)
    level = float(np.median(after[last]))
    if acts[last].mean() <= ALWAYS or np.median(np.abs(after[last] - level)) > CONSTANT * level:
        return []
    factor = float(np.median(before[last] / np.maximum(after[last], 1e-30)))
    suffers = factor > HARD and _suffers(observations)
    start = len(acts) - 1
    while start and acts[start - 1]:
        start -= 1
    return [
        Finding(
            kind=CLIP_ALWAYS.name,
            severity="warning" if suffers else "info",
            layer=None,
            first_step=int(steps[start]),
            last_step=int(steps[-1]),
            evidence={"share_clipped": round(float(acts.mean()), 3), "norm_before_over_after": round(factor, 2)},
        )
    ]


def _suffers(observations: Observations) -> bool:
    """Return whether training suffers, or the steps of gradient descent end before it is done."""
    progress = progress_of(observations)
    if progress is None or progress.share < PATIENCE:
        return False
    is_unfinished = progress.is_planned and progress.lags and progress.is_falling
    return progress.suffers or (is_unfinished and rate_of(observations).is_adaptive is False)


@CLIP_INEFFECTIVE.rule
def find_clip_ineffective(observations: Observations) -> list[Finding]:
    """Find clipping that is configured and never acts, although the gradient explodes."""
    found = _norms(observations)
    chosen = observations.about.choices.get("clip", "none")
    if found is None or chosen == "none" or len(found[0]) < MIN_MEASUREMENTS:
        return []
    steps, before, after = found
    exploding = [f for f in find_norm_explosion(observations) + find_exploding(observations) if f.alarms]
    if (after < before * (1 - ACTS)).any() or not exploding:
        return []
    return [
        Finding(
            kind=CLIP_INEFFECTIVE.name,
            severity="warning",
            layer=None,
            first_step=exploding[0].first_step,
            last_step=int(steps[-1]),
            evidence={"share_clipped": 0.0, "largest_norm": float(before.max()), "clip": chosen},
        )
    ]


def _norms(observations: Observations) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return the steps on which both norms were measured, and the norms before and after clipping."""
    before, after = (observations.scalars.get(name) for name in (names.NORM_TOTAL, names.NORM_AFTER))
    if before is None or after is None:
        return None
    steps, rows, columns = np.intersect1d(before.steps, after.steps, assume_unique=True, return_indices=True)
    return (steps, before.values[rows], after.values[columns]) if len(steps) else None


@CLIP_INEFFECTIVE.remedy
def remedy_clip_ineffective(finding: Finding, about: About) -> list[remedies.Remedy]:
    """Propose a threshold that acts, then a lower rate."""
    return [*remedies.clip(about), *remedies.lower_lr(about)]


@CLIP_ALWAYS.remedy
def remedy_clip_always(finding: Finding, about: About) -> list[remedies.Remedy]:
    """Propose a higher threshold, one that follows the run's norms, then a lower rate."""
    max_norm = about.settings.get("clip.max_norm")
    why = "A threshold that only unusual steps reach."
    value = f"{max_norm / remedies.CLIP_FACTOR:.3g}" if max_norm else "tenfold"
    higher = [remedies.Remedy(f"clip.max_norm={value}", why, "raise max_norm tenfold", direction=+1)]
    higher = higher if max_norm or not about.choices else []
    percentile = remedies.Remedy("clip=percentile", "It follows the run's own norms (Seetharaman et al. 2020).")
    return [*higher, percentile, *remedies.lower_lr(about)]
