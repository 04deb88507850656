"""Gradients that add up over steps or are clipped in the wrong place, and parameters that no optimizer steps."""

from __future__ import annotations

import gc

from torch import nn
from torch.optim import Optimizer

from stabletrain.inspection.inspector import Inspector, StepView
from stabletrain.inspection.mistakes import graph
from stabletrain.inspection.mistakes.cadence import EVERY
from stabletrain.inspection.mistakes.clip_order import find_misplaced_clip
from stabletrain.inspection.mistakes.fresh import is_fresh
from stabletrain.inspection.mistakes.ledger import Ledger, sample_of, trainable
from stabletrain.inspection.mistakes.wording import listed
from stabletrain.vocabulary.kinds import GRADIENTS_ACCUMULATE, NOT_OPTIMIZED
from stabletrain.vocabulary.notice import ADVICE, CERTAIN, CERTAINTY, DETAIL, LIKELY, POSSIBLE, REMEDY, Notice

ENOUGH = 2  # stale steps; one may be the end of an accumulation
NUM_STEPS = 4  # optimizer steps of a parameter, after which its account is closed
BEGIN = 3  # the step from which parameters are compared
PATIENCE = 10  # steps, of the loop and of any optimizers, during which nothing changed
LONG_PATIENCE = 200  # … where an optimizer for these parameters exists: it may step rarely, as in games
AGAIN = (20, 50)  # steps on which gradients are followed again, beside every 100th
BETWEEN = "the gradients are reset between the backward pass and the optimizer's step"


class UpdateInspector(Inspector):
    """Follows gradients from the backward pass to the optimizer, until it has seen a few steps of the optimizer.

    Gradients may cease to be reset later on, for example in a branch of the loop that is taken rarely: it follows a few
    steps again now and then.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._ledger: Ledger | None = Ledger(model)
        self._begin: tuple[int, int] | None = None  # step, and optimizer steps, since which samples are compared
        self._samples: dict[str, tuple[float, ...]] = {}
        self._is_parting_done = False
        self._opened = 0  # step
        self._was_clean_until = 0  # step until which gradients were reset
        self._is_over = graph.is_compiled(model)

    def inspect(self, view: StepView) -> list[Notice]:
        """Return gradients that add up, and parameters that are not updated."""
        ledger = self._ledger
        if ledger is None:
            self._look_again(view)
            return []
        is_first = self._opened == 0
        notices = self._find_stale(view, ledger)
        if is_first:
            notices = notices or self._find_lost(view, ledger) or self._find_unowned(view, ledger)
            notices = notices or find_misplaced_clip(view, ledger)
        used = [account for account in ledger.accounts if account.has_optimizer]
        is_done = used and all(account.num_steps >= NUM_STEPS for account in used)
        if notices:
            self.detach()
        elif is_done and (self._is_parting_done or not is_first):
            self._was_clean_until = view.step - 1
            self._close()
        elif view.step - self._opened > 2 * LONG_PATIENCE:
            self.detach()
        return notices

    def detach(self) -> None:
        """Remove all hooks, for good."""
        self._is_over = True
        self._close()

    def _close(self) -> None:
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None
            self._samples = {}

    def _look_again(self, view: StepView) -> None:
        if not self._is_over and (view.step in AGAIN or view.step % EVERY == 0):
            self._ledger, self._opened = Ledger(self.model), view.step

    def _find_stale(self, view: StepView, ledger: Ledger) -> list[Notice]:
        stale = [account for account in ledger.accounts if account.num_stale >= ENOUGH]
        if not stale:
            return []
        evidence = {
            "num_steps": max(account.num_stale for account in stale),
            "parameters": [account.path for account in stale],
            DETAIL: "When the gradients of a step are added, those that the optimizer has used before are still there.",
            ADVICE: "Reset them on each step.",
        }
        first = self._was_clean_until + 1
        if self._opened:
            evidence[DETAIL] += (
                f" Until step {self._was_clean_until} they were reset; on step {view.step} they are not."
            )
        return [Notice(GRADIENTS_ACCUMULATE.name, first, view.step, evidence={CERTAINTY: CERTAIN, **evidence})]

    def _find_lost(self, view: StepView, ledger: Ledger) -> list[Notice]:
        lost = [account for account in ledger.accounts if account.num_lost > ENOUGH]
        if not lost or any(account.num_used for account in ledger.accounts):
            return []
        evidence = {
            "num_steps": max(account.num_lost for account in lost),
            "mistake": BETWEEN,
            DETAIL: f"Nothing is updated: {BETWEEN}.",
            ADVICE: "Reset them after the step, or before the backward pass.",
            REMEDY: "optimizer.zero_grad(); loss.backward(); optimizer.step()",
        }
        return [Notice(NOT_OPTIMIZED.name, 0, view.step, evidence={CERTAINTY: CERTAIN, **evidence})]

    def _find_unowned(self, view: StepView, ledger: Ledger) -> list[Notice]:
        """Find parameters that receive gradients, are in no optimizer that steps, and do not change."""
        if self._is_parting_done or view.step < BEGIN:
            return []
        waiting = {path: p for path, p in trainable(self.model) if id(p) not in ledger.owned and p.grad is not None}
        if self._begin is None:
            self._begin = (view.step, ledger.num_steps)
            self._samples = {path: sample_of(p) for path, p in waiting.items()}
            self._is_parting_done = not waiting and ledger.num_steps > 0
            return []
        since, steps_then = self._begin
        if view.step - since < PATIENCE or (view.step - since) % PATIENCE:
            return []
        same = {path: p for path, p in waiting.items() if self._samples.get(path) == sample_of(p)}
        same = {path: p for path, p in same.items() if p.grad is not None and bool(p.grad.any())}
        if any(not bool(p.grad.isfinite().all()) for p in same.values()):
            self._begin = None  # such steps are skipped, by a loss scaler or by hand: count from the next one
            return []
        has_steps = ledger.num_steps - steps_then >= PATIENCE
        is_reset = any(account.num_discarded >= PATIENCE for account in ledger.accounts)
        if not same:
            self._is_parting_done = True
            return []
        is_late = view.step - since >= LONG_PATIENCE
        if not has_steps and not is_reset and not is_late:
            return []  # gradients are collected for a step to come
        idle = _idle_optimizer(same, ledger)
        if has_steps and idle is not None and not is_late:
            return []
        self._is_parting_done = True
        return [self._unowned(view, ledger, same, idle)]

    def _unowned(self, view: StepView, ledger: Ledger, same: dict[str, nn.Parameter], idle: Optimizer | None) -> Notice:
        others = [(path, p) for path, p in trainable(self.model) if path not in same]
        changed = [p for path, p in others if id(p) in ledger.owned or self._samples.get(path) != sample_of(p)]
        certainty, why = self._certainty(ledger, same, changed)
        if not changed:
            named = "no parameter of the model is in an optimizer that steps"
            if idle is not None or not ledger.num_steps:
                named = "the parameters receive gradients, and no optimizer takes a step"
        else:
            named = f"{listed([*same])} {'is' if len(same) == 1 else 'are'} in no optimizer that steps{why}"
        evidence = {
            "num_parameters": len(same),
            "of": len(same) + len(others),
            "parameters": [*same][:20],
            DETAIL: f"{named[0].upper()}{named[1:]}.",
        }
        if idle is not None or not ledger.num_steps:
            evidence[REMEDY] = "call optimizer.step() after loss.backward()"
        return Notice(NOT_OPTIMIZED.name, 0, view.step, evidence={CERTAINTY: certainty, **evidence})

    def _certainty(self, ledger: Ledger, same: dict[str, nn.Parameter], changed: list[nn.Parameter]) -> tuple[str, str]:
        """Return how certainly it is a mistake, and what shows it.

        It is one if the last layers are left out. Others are often left out on purpose if they were trained before.
        """
        if not changed:
            return CERTAIN, ""
        own = {id(p) for p in self.model.parameters()}
        for optimizer in ledger.optimizers:
            held = [p for group in optimizer.param_groups for p in group["params"]]
            if any(id(p) in own for p in held):
                orphans = [p for p in held if id(p) not in own and p.grad is None]
                if any(p.shape == q.shape for p in orphans for q in same.values()) or len(orphans) >= len(same):
                    return CERTAIN, ", which holds parameters that have been replaced"
        order = [path for path, p in trainable(self.model) if path in same or p.grad is not None]
        if all(path in same for path in order[-len(same) :]):
            return CERTAIN, ""
        ids = {id(p) for p in same.values()}
        owners = [m for m in self.model.modules() if any(id(p) in ids for p in m.parameters(recurse=False))]
        return (LIKELY if any(is_fresh(module) for module in owners) else POSSIBLE), ""


def _idle_optimizer(parameters: dict[str, nn.Parameter], ledger: Ledger) -> Optimizer | None:
    """Return an optimizer that holds one of some parameters and has taken no step; searched among all objects."""
    ids = {id(p) for p in parameters.values()}
    idle = [x for x in gc.get_objects() if issubclass(type(x), Optimizer) and x not in ledger.optimizers]
    holds = (any(id(p) in ids for group in found.param_groups for p in group["params"]) for found in idle)
    return next((found for found, does in zip(idle, holds, strict=True) if does), None)
