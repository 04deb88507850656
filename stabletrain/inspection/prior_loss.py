"""Estimate the loss of the best constant prediction (chance level) from the first training steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import unserializable_hook

from stabletrain.inspection.loss_kinds import Targets, recognize, recognize_sum
from stabletrain.torch_tools.module_hooks import ModuleHooks

MAX_NUMEL = 2**20  # outputs with more elements, such as those of a large language model, are not looked at
MAX_OUTPUTS = 8  # of one step
MAX_ATTEMPTS = 10  # steps that are looked at
CONSTANT = 1e-6  # variance of targets, relative to their mean square, that is rounding alone
MIN_RECOGNIZED = 3  # of these, with one kind of loss
ENOUGH, ENOUGH_PER_CLASS = 4096, 16  # targets, after which no further step is looked at


class PriorLoss:
    """The targets' entropy or variance, on the scale of the loss, from the outputs of a few steps and their gradients.

    The loss function need not be known: see `loss_kinds`. Open it before the forward pass of a step, and call `see`
    after the backward pass. Nothing is estimated if the loss is not recognized. Of several outputs, such as logits and
    hidden states, the loss must be recognized by exactly one, or be a sum over them, as where one network has several
    tasks; a loss that the model itself returns is left out.

    Args:
        models: The modules that the training loop calls.

    Attributes:
        value: The estimate; None if there is none yet.

    Example:
        >>> model = nn.Linear(2, 3)
        >>> prior = PriorLoss([model])
        >>> for _ in range(3):
        ...     prior.open()
        ...     loss = nn.functional.cross_entropy(model(torch.randn(300, 2)), torch.arange(300) % 3)
        ...     loss.backward()
        ...     prior.see(loss)
        >>> abs(prior.value - math.log(3)) < 0.01
        True
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.value: float | None = None
        self._models = models
        self._hooks = ModuleHooks(after=PriorLoss._keep)
        self._seen: list[tuple[Tensor, list[Tensor]]] = []  # outputs, and their gradients
        self._sources: list[Any] = []  # what computed them: a part may return the tensor that the whole returns
        self._num_attempts = 0
        self._batches: list[tuple[Targets, ...]] = []  # of each batch, the terms of the loss
        self._has_enough = False

    @property
    def is_done(self) -> bool:
        """Whether further steps would change nothing."""
        return self._num_attempts >= MAX_ATTEMPTS or self._has_enough

    def open(self) -> None:
        """Look at the coming forward pass."""
        self._seen, self._sources = [], []
        if not self.is_done and not self._hooks.is_open:
            self._hooks.open(self, after=[(model, None) for model in self._models])

    def close(self) -> None:
        """Remove the hooks."""
        self._hooks.close()
        self._seen, self._sources = [], []

    def see(self, loss: Tensor | float | None) -> None:
        """Look at the outputs of a step and their gradients, after its backward pass."""
        if not self._hooks.is_open:
            return
        seen = [(z, gradients[0]) for z, gradients in self._seen if len(gradients) == 1]
        self.close()
        if loss is None or not seen:
            return
        self._num_attempts += 1
        value = float(loss.detach() if isinstance(loss, Tensor) else loss)
        with torch.no_grad():
            found = [(x,) for x in (recognize(z, g, value) for z, g in seen[:MAX_OUTPUTS]) if x is not None]
            joint = None if found else recognize_sum(seen[:MAX_OUTPUTS], value)
        self._batches += found if len(found) == 1 else [joint] if joint is not None else []
        same = [batch for batch in self._batches if _form(batch) == _form(self._batches[-1])]
        if len(same) >= MIN_RECOGNIZED and 2 * len(same) >= self._num_attempts:
            terms = [*zip(*same, strict=True)]
            # if all targets are equal, there is nothing to learn but a constant
            self.value = sum(map(_prior, terms)) or None
            self._has_enough = all(map(_are_enough, terms))

    def _keep(self, _: None, module: nn.Module, __: Any, output: Any) -> None:
        if not module.training or not torch.is_grad_enabled():
            return
        for tensor in _tensors(output):
            is_output = tensor.requires_grad and tensor.is_floating_point() and tensor.dim() > 0
            if is_output and 0 < tensor.numel() <= MAX_NUMEL and not any(tensor.grad_fn is x for x in self._sources):
                self._sources.append(tensor.grad_fn)
                gradients: list[Tensor] = []
                self._seen.append((tensor.detach().clone(), gradients))
                tensor.register_hook(_keep_in(gradients))


def _keep_in(gradients: list[Tensor]) -> Any:
    return unserializable_hook(lambda gradient: gradients.append(gradient.detach().clone()))


def _tensors(output: Any) -> list[Tensor]:
    """Return all tensors in what a module returned."""
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _form(terms: Sequence[Targets]) -> list[tuple[str, int]]:
    return [(term.kind, term.num_classes) for term in terms]


def _are_enough(batches: Sequence[Targets]) -> bool:
    num_targets = sum(len(batch.values) for batch in batches)
    return num_targets >= max(ENOUGH, ENOUGH_PER_CLASS * batches[-1].num_classes)


def _prior(batches: Sequence[Targets]) -> float:
    scale = sorted(batch.scale for batch in batches)[len(batches) // 2]
    values = torch.cat([batch.values for batch in batches])
    if batches[0].kind == "classes":
        counts = torch.bincount(values).double()
        p = counts[counts > 0] / len(values)
        # Miller and Madow 1955: the entropy of n samples is too small by (classes - 1) / 2n on average
        found = float(-(p * p.log()).sum()) + (len(p) - 1) / (2 * len(values))
        return scale * min(found, math.log(batches[0].num_classes))
    if batches[0].kind == "binary":
        p = values.double().mean(dim=0)
        return scale * float(-(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)).mean())
    variance, size = float(values.double().var(dim=0, correction=0).mean()), float(values.double().square().mean())
    return scale * variance if variance > CONSTANT * size else 0.0
