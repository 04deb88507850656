"""Targets that have nothing to do with the inputs, such as labels that were shuffled apart from their examples."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stabletrain.inspection.inspector import Inspector, StepView
from stabletrain.inspection.mistakes import graph
from stabletrain.inspection.mistakes.loss_terms import BINARY, CLASSES, Term, terms_of
from stabletrain.inspection.mistakes.relation import MAX_ROWS, MIN_ROWS, are_related
from stabletrain.torch_tools.backward_calls import ignore_backward, observe_backward
from stabletrain.torch_tools.module_hooks import ModuleHooks
from stabletrain.vocabulary.kinds import INPUT_SCALE, NO_PROGRESS
from stabletrain.vocabulary.notice import ADVICE, CERTAINTY, DETAIL, MEMORIZES, POSSIBLE, REMEDY, Notice

NUM_STEPS = 10  # first steps, from which inputs and targets are collected
LATER, LENGTH = (60, 100), 5  # steps from which on it is asked what was learned, and how many are put together
EVERY = 100  # … and every so many steps
LEARNED = 0.05  # share of the targets' entropy or variance that the outputs explain
MEMORIZED = 0.5  # … below which they may have memorized examples that came several times
MAX_TERMS = 4
CONSTANT = 0.5  # share of the input features that are the same for all examples: then they are what is wrong
DIMS = (2, 4)  # of the inputs: tables and images, in which neighbors are alike; a sequence may be shifted


class LabelInspector(Inspector):
    """Compares targets with inputs in the first steps and, where nothing connects them, with the outputs later on.

    Said only where the targets of near neighbors are no more alike than any, no input correlates with them, and the
    outputs explain few of them after 60 and after 100 steps: a network that sees examples repeatedly memorizes them.
    Sequences, token ids and several inputs are left out: of them, neighbors need not have targets that are alike.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._hooks = ModuleHooks(before=LabelInspector._enter)
        self._inputs: list[Tensor] = []  # since the last backward pass
        self._last: tuple[list[Tensor], list[Term]] = ([], [])  # inputs and terms of that
        self._is_unfit = False  # token ids or sequences
        self._rows: list[np.ndarray] = []
        self._collected: list[list[Term]] = []
        self._suspects: list[int] = []  # terms without a relation
        self._share_constant = 0.0  # of the input features
        self._late: list[list[Term]] = []
        self._num_looks = 0
        self._is_done = graph.is_compiled(model)

    def expect(self, step: int) -> None:
        """Look at the inputs of the first steps, and at the outputs of some later ones."""
        self._inputs, self._last = [], ([], [])
        if self._is_done:
            return
        if step == 0:
            self._hooks.open(self, before=[(m, path) for path, m in self.model.named_modules() if _has_own(m)])
        if step == 0 or _begins(step):
            ignore_backward(self.before_backward)
            observe_backward(self.before_backward)
            self._late = []

    def before_backward(self, loss: Tensor) -> None:
        """Read the outputs and targets of a loss."""
        if loss.grad_fn is not None:
            self._last, self._inputs = (self._inputs, terms_of(loss)[:MAX_TERMS]), []

    def inspect(self, view: StepView) -> list[Notice]:
        """Return targets that the inputs do not determine."""
        if self._is_unfit and not self._is_done:
            self.detach()
        if self._is_done:
            return []
        try:
            if view.step >= NUM_STEPS:
                return self._look_again(view)
            self._collect()
            if view.step == NUM_STEPS - 1 and not self._is_done:
                self._compare()
        except Exception as error:  # shapes that change, too little memory: training goes on as without the doctor
            logging.getLogger(__name__).warning("targets are no longer compared with inputs: %s", error)
            self.detach()
        return []

    def detach(self) -> None:
        """Remove all hooks, and forget what was seen."""
        self._is_done = True
        self._hooks.close()
        ignore_backward(self.before_backward)
        self._inputs, self._last = [], ([], [])
        self._rows, self._collected, self._late = [], [], []

    def _enter(self, path: str, module: nn.Module, inputs: Any) -> None:
        given = inputs[0] if isinstance(inputs, tuple) and inputs else inputs
        if not isinstance(given, Tensor) or not torch.is_grad_enabled() or given.requires_grad or not given.numel():
            return
        if not given.is_floating_point() or given.dim() not in DIMS:
            self._is_unfit = True
        elif not any(given is other for other in self._inputs):
            self._inputs.append(given)
            self._is_unfit |= len(self._inputs) > 1  # pairs, such as two images that are compared

    def _collect(self) -> None:
        """Keep the inputs and targets of a step, if each example has one row in both."""
        inputs, terms = self._last
        if not terms or not inputs:
            return
        if any(len(term.targets) != len(inputs[0]) for term in terms):
            self.detach()
        elif sum(map(len, self._rows)) < MAX_ROWS:
            self._rows.append(_numbers(inputs[0]))
            self._collected.append(terms)

    def _compare(self) -> None:
        """Find the terms whose targets have no relation with the inputs."""
        self._hooks.close()
        ignore_backward(self.before_backward)
        num_terms = {len(terms) for terms in self._collected}
        if sum(map(len, self._rows)) < MIN_ROWS or len(num_terms) != 1 or len({x.shape[1] for x in self._rows}) != 1:
            self.detach()
            return
        inputs = np.concatenate(self._rows)[:MAX_ROWS]
        self._share_constant = float((inputs == inputs[:1]).all(0).mean())
        for place in range(num_terms.pop()):
            targets = [_targets(terms[place]) for terms in self._collected]
            is_known = len({y.shape[1] for y in targets}) == 1 and not _is_repeated(targets)
            if is_known and are_related(inputs, np.concatenate(targets)[:MAX_ROWS]) is False:
                self._suspects.append(place)
        self._rows, self._collected = [], []
        if not self._suspects:
            self.detach()

    def _look_again(self, view: StepView) -> list[Notice]:
        _, terms = self._last
        if terms:
            self._late.append(terms)
        if len(self._late) < LENGTH:
            return []
        late, self._late = self._late, []
        ignore_backward(self.before_backward)
        known = [place for place in self._suspects if all(len(terms) > place for terms in late)]
        shares = {place: explained([terms[place] for terms in late]) for place in known}
        self._suspects = [place for place, share in shares.items() if share < MEMORIZED]
        self._num_looks += 1
        if not self._suspects:
            self.detach()
        if not self._suspects or self._num_looks < len(LATER):
            return []
        place = min(self._suspects, key=lambda place: shares[place])
        if self._share_constant > CONSTANT:
            notice = _constant_features(view, self._share_constant)
        else:
            notice = _notice(view, late[0][place], len(late[0]), shares[place])
        self.detach()
        return [notice]


def explained(terms: list[Term]) -> float:
    """Return the share of the targets' entropy or variance that the outputs explain; 0 or less if none."""
    outputs, targets = torch.cat([t.outputs for t in terms]).float(), torch.cat([t.targets for t in terms])
    with torch.no_grad():
        if terms[0].kind == CLASSES:
            p = F.one_hot(targets.clamp(min=0), outputs.shape[1]).double().mean(0)  # (…, classes), for each pixel
            left, prior = F.nll_loss(outputs, targets.clamp(min=0)), -torch.xlogy(p, p).sum(-1).mean()
        elif terms[0].kind == BINARY:
            y = targets.float()
            p = y.mean(0).double()
            prior = -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)).mean()
            is_logits = terms[0].function.endswith("logits")
            left = (F.binary_cross_entropy_with_logits if is_logits else F.binary_cross_entropy)(outputs, y)
        else:
            y = targets.float()
            limit = 5 * (y - y.median()).abs().median()  # of heavy tails only the middle
            if limit:
                y = y.clamp(y.median() - limit, y.median() + limit)
            left, prior = (outputs.clamp(y.min(), y.max()) - y).square().mean(), y.var(0, correction=0).mean()
    return 1.0 - float(left) / float(prior) if prior > 1e-12 else 1.0


def _notice(view: StepView, term: Term, num_terms: int, share: float) -> Notice:
    which = "" if num_terms == 1 else f" of {term.function}, one of {num_terms} terms of the loss,"
    detail = f"The targets{which} may have nothing to do with the inputs: examples with similar inputs have no more "
    detail += f"similar targets than any others, and after {view.step + 1} steps the outputs explain "
    detail += "none of them." if share < LEARNED else f"{share:.0%} of them, perhaps by memorizing single examples."
    evidence = {CERTAINTY: POSSIBLE, "function": term.function, "share_explained": round(share, 3), DETAIL: detail}
    evidence[MEMORIZES] = share >= LEARNED
    evidence[ADVICE] = "Check that each input is still stored beside its own target."
    evidence[REMEDY] = "for x, y in dataset: look at some pairs; shuffle inputs and targets by one permutation"
    return Notice(NO_PROGRESS.name, 0, view.step, evidence=evidence)


def _constant_features(view: StepView, share: float) -> Notice:
    detail = f"{share:.0%} of the input features are the same for all examples, and nothing connects the others with "
    detail += "the targets."
    evidence = {CERTAINTY: POSSIBLE, "share_constant": round(share, 3), DETAIL: detail}
    evidence |= {
        ADVICE: "Look at how the batches are made.",
        REMEDY: "assert not torch.equal(x[0], x[1]), for the examples of a batch",
    }
    return Notice(INPUT_SCALE.name, 0, view.step, evidence=evidence)


def _begins(step: int) -> bool:
    return step in LATER or (step > max(LATER) and step % EVERY == 0)


def _has_own(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters(recurse=False))


def _numbers(x: Tensor) -> np.ndarray:
    return x.detach().reshape(len(x), -1).float().cpu().numpy().astype(np.float64)


def _targets(term: Term) -> np.ndarray:
    """Return targets as numbers (n, K); of classes, as one-hot rows."""
    if term.kind == CLASSES:
        return _numbers(F.one_hot(term.targets.clamp(min=0), term.outputs.shape[1]))  # (n, …, classes)
    return _numbers(term.targets)


def _is_repeated(batches: list[np.ndarray]) -> bool:
    """Return whether all batches have the same targets, as in a contrastive loss."""
    return all(len(b) == len(batches[0]) and bool((b == batches[0]).all()) for b in batches[1:])
