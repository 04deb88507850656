"""Gradients that are clipped where they are not what the optimizer uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from stabletrain.inspection.inspector import StepView
from stabletrain.inspection.mistakes.ledger import Account, Ledger
from stabletrain.vocabulary.kinds import CLIP_INEFFECTIVE
from stabletrain.vocabulary.notice import ADVICE, CERTAIN, CERTAINTY, DETAIL, LIKELY, REMEDY, Notice

ENOUGH = 2  # clippings in the wrong place, and none in the right one


class Misplaced(NamedTuple):
    """A wrong place to clip gradients.

    Attributes:
        when: The place.
        count_of: How often an account saw it.
        certainty: How certain that is.
        detail: What happens then.
        advice: What to do.
        remedy: The lines in the right order.
    """

    when: str
    count_of: Callable[[Account], int]
    certainty: str
    detail: str
    advice: str
    remedy: str


IN_ORDER = "loss.backward(); torch.nn.utils.clip_grad_norm_(model.parameters(), {limit}); optimizer.step()"
AFTER_STEP = Misplaced(
    when="after the optimizer's step",
    count_of=lambda account: account.clips.late,
    certainty=CERTAIN,
    detail="The gradients are clipped after the optimizer's step has used them.",
    advice="Clip between the backward pass and the step.",
    remedy=IN_ORDER,
)
MISPLACED = (
    AFTER_STEP._replace(
        when="before the backward pass",
        count_of=lambda account: account.clips.early,
        detail="The gradients are clipped before the backward pass has computed them.",
    ),
    AFTER_STEP,
    Misplaced(
        when="before the scale of half precision is removed",
        count_of=lambda account: account.clips.before_unscaling,
        certainty=CERTAIN,
        detail="The gradients are clipped while they are multiplied by the scale of half precision, and divided by "
        "it afterwards: the steps are as many times too small.",
        advice="Unscale them first.",
        remedy="scaler.unscale_(optimizer); torch.nn.utils.clip_grad_norm_(model.parameters(), {limit}); "
        "scaler.step(optimizer)",
    ),
    AFTER_STEP._replace(  # by a function that is not PyTorch's
        count_of=lambda account: account.num_late,
        certainty=LIKELY,
        detail="The gradients are made smaller after the optimizer's step has used them.",
    ),
)


def find_misplaced_clip(view: StepView, ledger: Ledger) -> list[Notice]:
    """Return where gradients are clipped in vain; a single clipping in the right place is enough to say nothing."""
    if any(account.clips.right for account in ledger.accounts):
        return []
    seen = [account for account in ledger.accounts if account.num_added]  # elsewhere the gradient is always zero
    for place in MISPLACED:
        count = max(map(place.count_of, seen), default=0)
        if count >= ENOUGH:
            limit = "1.0" if ledger.max_norm is None else f"{ledger.max_norm:g}"
            evidence = {
                CERTAINTY: place.certainty,
                "num_steps": count,
                "mistake": f"the gradients are clipped {place.when}",
                DETAIL: place.detail,
                ADVICE: place.advice,
                REMEDY: place.remedy.format(limit=limit),
            }
            return [Notice(CLIP_INEFFECTIVE.name, 0, view.step, evidence=evidence)]
    return []
