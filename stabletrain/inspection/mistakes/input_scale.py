"""Inputs far from mean 0 and standard deviation 1, or the same for all examples."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage]

from stabletrain.inspection.inspector import Inspector, StepView
from stabletrain.inspection.mistakes import graph
from stabletrain.inspection.mistakes.cadence import FIRST
from stabletrain.inspection.nonfinite.model_call import outputs_in
from stabletrain.torch_tools.module_hooks import ModuleHooks
from stabletrain.vocabulary.kinds import INPUT_SCALE
from stabletrain.vocabulary.notice import ADVICE, CERTAINTY, DETAIL, LIKELY, POSSIBLE, REMEDY, Notice

LARGE = 10.0  # root mean square of a feature: standardized data has 1, pixels in 0…1 have at most 1, in 0…255 about 100
VERY_LARGE = 25.0  # … at which it is likely to be forgotten
SMALL = 0.01  # … of all features
FAR = 20.0  # |mean| over standard deviation
MAX_ROWS = 256  # examples that are looked at
MAX_NUMBERS = 2**18
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Scale:
    """The scale of a batch of inputs.

    Attributes:
        path: Path of the layer that takes them.
        mean: Mean of all numbers, or of the feature with the largest root mean square.
        std: Standard deviation of the same.
        feature: Index of that feature; None for all numbers.
        is_constant: Whether all examples are equal.
        is_small: Whether all numbers are small.
        is_far: Whether most features are far from zero in comparison with their spread.
        is_given: Whether the numbers are an argument of the model.
    """

    path: str
    mean: float
    std: float
    feature: int | None
    is_constant: bool
    is_small: bool
    is_far: bool
    is_given: bool = False

    @property
    def is_large(self) -> bool:
        """Whether the root mean square is above the limit."""
        return self.mean**2 + self.std**2 > LARGE**2


class InputScaleInspector(Inspector):
    """Measures what the first layers are given: inputs that need no gradient, of layers that learn.

    Inputs that the model itself normalizes before its first layer, or in a first normalization layer, are measured
    after it. Token ids are no numbers, and are left out.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._hooks = ModuleHooks(before=InputScaleInspector._enter)
        self._scales: list[Scale] = []
        self._given: set[int] = set()  # addresses of the model's arguments
        self._varies = False  # whether one of them differs between examples
        self._num_constant = 0
        self._constant: Counter[str] = Counter()  # steps on which one of several inputs was the same for all examples
        self._has_tokens = False
        self._is_done = graph.is_compiled(model)

    def expect(self, step: int) -> None:
        """Look at the inputs of the first steps."""
        self._scales, self._given, self._varies = [], set(), False
        if step == 0 and not self._is_done:
            layers = {path: m for path, m in self.model.named_modules() if _takes_numbers(m) or not path}
            self._hooks.open(self, before=[(m, path) for path, m in layers.items()])
        elif step >= FIRST:
            self._is_done = True
            self._hooks.close()

    def inspect(self, view: StepView) -> list[Notice]:
        """Return inputs that are off scale."""
        if self._is_done:
            return []
        scales = self._scales
        self._num_constant += bool(scales) and not self._has_tokens and all(scale.is_constant for scale in scales)
        if self._num_constant == FIRST:
            return [_constant(scales[0], view)]
        if self._num_constant:
            return []
        self._constant.update(scale.path for scale in scales if scale.is_constant and scale.is_given)
        same = next((scale for scale in scales if self._constant[scale.path] == FIRST), None)
        if same is not None:
            return [_constant(same, view, POSSIBLE)]
        wrong = [s for s in scales if s.is_large] or [s for s in scales if s.is_far or s.is_small]
        if not wrong or not (wrong[0].is_large or len(wrong) == len(scales)):
            return []
        is_extreme = not wrong[0].is_large or wrong[0].mean ** 2 + wrong[0].std ** 2 > VERY_LARGE**2
        return [_notice(wrong[0], view, LIKELY if is_extreme else POSSIBLE)]

    def detach(self) -> None:
        """Remove all hooks."""
        self._hooks.close()

    def _enter(self, path: str, module: nn.Module, inputs: Any) -> None:
        if module is self.model:
            arguments = [*outputs_in(inputs)]
            self._given |= {x.data_ptr() for x in arguments}
            self._varies |= any(len(x) > 1 and bool((x[1:] != x[:1]).any()) for x in arguments if x.dim())
        given = inputs[0] if isinstance(inputs, tuple) and inputs else inputs
        if not isinstance(given, Tensor) or given.requires_grad or not given.numel():
            return
        if not torch.is_grad_enabled() or not _takes_numbers(module):
            return
        if not given.is_floating_point():
            self._has_tokens = True
        elif self._varies and given.data_ptr() not in self._given and not given.any():
            return  # zeros that the model made itself, such as an absent context or a first state
        elif not any(scale.path == path for scale in self._scales):
            self._scales.append(replace(measure(path, given), is_given=given.data_ptr() in self._given))


@torch.no_grad()
def measure(path: str, inputs: Tensor) -> Scale:
    """Return the scale of a batch of inputs; of two axes, the second are features."""
    some = inputs.detach()[:MAX_ROWS]
    is_constant = len(some) > 1 and bool((some[1:] == some[:1]).all())
    if some.dim() == 2:
        numbers = some[:, : max(1, MAX_NUMBERS // len(some))].double()
        means, stds = numbers.mean(0), numbers.std(0, correction=0)
        sizes = (means**2 + stds**2).sqrt()
        worst = int(sizes.argmax())
        varying = stds > 0
        far = means[varying].abs() > FAR * stds[varying]
        is_far = bool(varying.any()) and bool(far.float().mean() > 0.5) and bool(means[varying].abs().max() > 1)
        feature = worst if some.shape[1] > 1 else None
        mean, std = float(means[worst]), float(stds[worst])
        is_small = 0 < float(sizes[worst]) < SMALL
        return Scale(path, mean, std, feature, is_constant, is_small, is_far)
    numbers = some.reshape(-1)
    numbers = numbers[:: max(1, numbers.numel() // MAX_NUMBERS)].double()
    mean, std = float(numbers.mean()), float(numbers.std(correction=0))
    size = (mean**2 + std**2) ** 0.5
    return Scale(path, mean, std, None, is_constant, 0 < size < SMALL, abs(mean) > max(1.0, FAR * std) and std > 0)


def _notice(scale: Scale, view: StepView, certainty: str) -> Notice:
    evidence: dict[str, Any] = {CERTAINTY: certainty, "mean": scale.mean, "std": scale.std, "into": scale.path}
    if scale.feature is not None:
        evidence["feature"] = scale.feature
    which = "The inputs" if scale.feature is None else f"Feature {scale.feature} of the inputs"
    verb = "have" if scale.feature is None else "has"
    evidence[DETAIL] = f"{which} {verb} mean {scale.mean:.3g} and standard deviation {scale.std:.3g}."
    if scale.feature is None and scale.std > 0:
        evidence[REMEDY] = f"x = (x - {scale.mean:.4g}) / {scale.std:.4g}"
    return Notice(INPUT_SCALE.name, view.step, view.step, evidence=evidence)


def _constant(scale: Scale, view: StepView, certainty: str = LIKELY) -> Notice:
    evidence: dict[str, Any] = {CERTAINTY: certainty, "mean": scale.mean, "std": 0.0, "into": scale.path}
    evidence[DETAIL] = "The inputs are the same for all examples."
    if certainty != LIKELY:
        evidence[DETAIL] = f"The inputs of {scale.path} are the same for all examples."
    evidence[ADVICE] = "The loss cannot depend on them: look at how the batches are made."
    evidence[REMEDY] = "assert not torch.equal(x[0], x[1]), for the examples of a batch"
    return Notice(INPUT_SCALE.name, max(0, view.step - FIRST + 1), view.step, evidence=evidence)


def _takes_numbers(module: nn.Module) -> bool:
    """Return whether a module has a weight matrix that learns; a normalization layer takes numbers of any scale."""
    own = [p for p in module.parameters(recurse=False) if p.requires_grad]
    return any(p.dim() > 1 for p in own) and not isinstance(module, NORMS)
