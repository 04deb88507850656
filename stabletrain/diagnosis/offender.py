"""What a replay of the last step found, as part of what was noticed in the training itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stabletrain.diagnosis.observations import Observations
from stabletrain.diagnosis.progress import last_step
from stabletrain.vocabulary import origins
from stabletrain.vocabulary.kinds import NONFINITE
from stabletrain.vocabulary.notice import Notice

FOLDER = "offender"  # in that of a run; `training/callbacks/offender_bundle.py` writes both files
OFFENDER, BUNDLE = f"{FOLDER}/offender.json", f"{FOLDER}/bundle.pt"
KEYS = (
    *(origins.ORIGIN, origins.WHY, origins.PHASE, origins.OPERATION, origins.MODULE, origins.LINE, origins.TENSOR),
    *(origins.SAMPLES, origins.SAMPLES_ARE, origins.CLEAN),
)


def with_offender(observations: Observations, offender: Mapping[str, Any]) -> Observations:
    """Return the observations with an offender as a notice, or as part of the notice of its step.

    What was noticed in the step itself counts, unless its origin is unknown. The replay adds what only it knows: the
    last finite layer, the indices of the samples in the training set, and the bundle that repeats the step.

    Args:
        observations: What was measured.
        offender: The content of `offender/offender.json`; empty if no step was replayed.
    """
    if not offender:
        return observations
    found = {key: offender[key] for key in KEYS if offender.get(key) not in (None, [])}
    is_found = found.get(origins.PHASE) is not None
    if origins.SAMPLES not in found:
        found.pop(origins.SAMPLES_ARE, None)
    if not is_found:
        found[origins.WHY] = origins.NOT_AGAIN
    again = {origins.REPRODUCIBLE: is_found}
    step = int(offender["step"])
    known = next((n for n in observations.notices if n.kind == NONFINITE.name and n.first_step == step), None)
    found[origins.BUNDLE] = BUNDLE
    if known is None and step < last_step(observations):
        return observations  # it stopped an earlier part of the run, which was resumed since
    if known is None:
        notice = Notice(NONFINITE.name, step, step, offender.get("layer"), found | again)
        return replace(observations, notices=(*observations.notices, notice))
    noticed = {key: value for key, value in known.evidence.items() if value is not None}
    if origins.ORIGIN not in noticed and is_found:
        joined = replace(known, layer=offender.get("layer"), evidence={**known.evidence, **found, **again})
    else:
        samples = {key: found.pop(key) for key in (origins.SAMPLES, origins.SAMPLES_ARE) if origins.SAMPLES in found}
        evidence = {**known.evidence, **found, **again, **noticed, **samples}
        joined = replace(known, layer=known.layer or offender.get("layer"), evidence=evidence)
    return replace(observations, notices=tuple(joined if n is known else n for n in observations.notices))
