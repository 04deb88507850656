"""One plan for a run: what all of its findings propose together, without contradictions.

Each setting has at most one proposed value in all findings of a run: the first finding that proposes one decides, and
causes come first. No finding can therefore propose to raise what another one proposes to lower. A symptom proposes what
its cause does, since that is what fixes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from stabletrain.diagnosis.breaks import find_break
from stabletrain.diagnosis.circumstances import circumstances_of
from stabletrain.diagnosis.joint import joint_remedy
from stabletrain.diagnosis.observations import About, Observations
from stabletrain.diagnosis.remedies import LR, Remedy, is_pretrained, remedies_for
from stabletrain.vocabulary.finding import RECOVERED, Finding
from stabletrain.vocabulary.kinds import (
    CLIP_ALWAYS,
    CLIP_INEFFECTIVE,
    DEAD_UNITS,
    EXPLODING,
    KINDS,
    LOSS_SPIKE,
    LR_TOO_HIGH,
    LR_TOO_LOW,
    NO_PROGRESS,
    NONFINITE,
    OSCILLATION,
    SATURATION,
    TIME_EXPLODING,
)
from stabletrain.vocabulary.origins import advice_for

OPTIMIZER = "optimizer"
CLIP = "clip.max_norm"
DIRECTIONS = {  # kinds whose advice says that a setting is to be raised (+1) or lowered (−1)
    **{LR_TOO_HIGH.name: (LR, -1), OSCILLATION.name: (LR, -1), LR_TOO_LOW.name: (LR, +1)},
    **{CLIP_INEFFECTIVE.name: (CLIP, -1), CLIP_ALWAYS.name: (CLIP, +1)},
}
IN_WORDS = {LR: "learning rate", CLIP: "threshold of the clipping"}
BROKEN = tuple(
    kind.name
    for kind in (
        *(LR_TOO_HIGH, EXPLODING, TIME_EXPLODING, LOSS_SPIKE, OSCILLATION, NO_PROGRESS, NONFINITE, CLIP_INEFFECTIVE),
        *(DEAD_UNITS, SATURATION),
    )
)
BROKE_ON = "broke_on_step"  # in the evidence: the step after which nothing was as before
RESTART = (
    "The training went well until step {step} and broke within one step, while learning rate, gradients and updates "
    "were as usual: a batch, or the state of the optimizer, was damaged. Go back to a checkpoint from before that "
    "step, with a new optimizer, and leave out the batches around it (Chowdhery et al. 2022, section 5.1). In code: "
    "model.load_state_dict(torch.load(path)), with a new optimizer."
)
PRETRAINED = "The weights were trained before, or are frozen: do not initialize them again."


@dataclass
class Plan:
    """What the findings of a run have proposed so far.

    Attributes:
        values: The one proposed value of each setting.
        directions: +1 for a setting that is to be raised, −1 for one that is to be lowered.
    """

    values: dict[str, str] = field(default_factory=dict)
    directions: dict[str, int] = field(default_factory=dict)

    def take(self, remedies: Sequence[Remedy]) -> list[Remedy]:
        """Return the remedies that do not contradict what was proposed before, and remember their values."""
        taken: list[Remedy] = []
        for remedy in remedies:
            claims = _claims(remedy)
            is_new = remedy.override not in (other.override for other in taken)
            if is_new and not any(self._contradicts(key, value) for key, value in claims.items()):
                self.values |= claims
                taken.append(remedy)
        return taken

    def note(self, setting: str, direction: int, taken: Sequence[Remedy]) -> None:
        """Remember in which direction a finding and its remedies move the learning rate and the clipping."""
        for remedy in taken:
            for key in _claims(remedy):
                if key in (LR, CLIP, CLIP.partition(".")[0]):
                    self.directions.setdefault(LR if key == LR else CLIP, remedy.direction)
        if setting:
            self.directions.setdefault(setting, direction)

    def _contradicts(self, key: str, value: str) -> bool:
        """Return whether another value, or another option of the same group, was proposed before."""
        group, _, name = key.partition(".")
        if name:
            is_other = group != OPTIMIZER and group in self.values
        else:
            is_other = key != OPTIMIZER and any(k.startswith(f"{key}.") for k in self.values)
        return is_other or self.values.get(key, value) != value


def with_plan(findings: Sequence[Finding], observations: Observations) -> list[Finding]:
    """Return the findings with their advice and remedies, which together are one plan.

    Args:
        findings: Ordered by cause.
        observations: What they were found in.
    """
    broke_on = find_break(observations) if any(finding.alarms for finding in findings) else None
    return with_remedies(findings, circumstances_of(observations), broke_on)


def with_remedies(findings: Sequence[Finding], about: About, broke_on: int | None = None) -> list[Finding]:
    """Return the findings with their advice and remedies, given what is known of the run.

    Args:
        findings: Ordered by cause.
        about: What is known of the run.
        broke_on: The step within which a training that had gone well broke (`diagnosis.breaks`); None if none did.
    """
    plan, advised = Plan(), []
    causes: dict[str, Finding] = {}
    joint = None if about.choices else joint_remedy(findings, about)
    for finding in findings:
        cause = causes.get(finding.because_of or "")
        if cause is not None:
            advised.append(_as_symptom(finding, cause))
        elif broke_on is not None and _is_broken(finding, broke_on):
            advised.append(_restart(finding, broke_on))
        else:
            advised.append(_advise(finding, about, plan, joint if finding.alarms else None))
            joint = None if finding.alarms else joint
        if cause is None:
            causes.setdefault(finding.kind, advised[-1])
    return advised


def _is_broken(finding: Finding, broke_on: int) -> bool:
    """Return whether a finding is what a training looks like that broke, and nothing else explains it."""
    is_event = finding.kind in BROKEN and "lr_before" not in finding.evidence and not advice_for(finding.evidence)
    return finding.alarms and is_event and finding.last_step >= broke_on


def _restart(finding: Finding, broke_on: int) -> Finding:
    evidence = finding.evidence | {BROKE_ON: broke_on}
    return replace(finding, advice=RESTART.format(step=f"{broke_on:,}"), evidence=evidence, overrides=[], reasons=[])


def _advise(finding: Finding, about: About, plan: Plan, joint: Remedy | None = None) -> Finding:
    about_setting, direction = DIRECTIONS.get(finding.kind, ("", -1))
    if plan.directions.get(about_setting, direction) != direction:
        return replace(finding, advice=_against(about_setting, -direction))
    taken = plan.take([*([joint] if joint else []), *remedies_for(finding, about)])
    plan.note(about_setting, direction, taken)
    advice = finding.advice or _words(finding)
    if is_pretrained(about) and finding.alarms:
        advice = f"{advice} {PRETRAINED}"
    if about.choices:
        return replace(finding, advice=advice, overrides=[r.override for r in taken], reasons=[r.why for r in taken])
    kind = KINDS[finding.kind]
    others = [r for r in taken if r is joint or joint is None or r.in_code not in joint.in_code]
    calls = "; ".join(r.in_code for r in others if r.in_code) if kind.remedies else kind.in_code
    return replace(finding, advice=f"{advice} In code: {calls}." if calls else advice)


def _as_symptom(finding: Finding, cause: Finding) -> Finding:
    """Return a finding that follows from another one, with the remedies of its cause."""
    advice = f"It follows from {cause.kind}: {cause.advice}"
    return replace(finding, advice=advice, overrides=[*cause.overrides], reasons=[*cause.reasons])


def _words(finding: Finding) -> str:
    if finding.kind == LOSS_SPIKE.name and finding.evidence.get(RECOVERED):
        return "The loss jumped and came back by itself: nothing needs to be done unless it happens often."
    return KINDS[finding.kind].advice


def _against(setting: str, direction: int) -> str:
    others = "lowers" if direction < 0 else "raises"
    return f"It says nothing while another finding {others} the {IN_WORDS[setting]}: see there, then look again."


def _claims(remedy: Remedy) -> dict[str, str]:
    """Return the values that a remedy proposes; the rate of another optimizer is not comparable."""
    words = remedy.words
    return {key: value for key, value in words.items() if not (key == LR and OPTIMIZER in words)}
