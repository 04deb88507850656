"""Keeps account of what happens to gradients: when they are added, clipped, used by an optimizer's step, and reset.

Hooks on a few parameters see each gradient before it is added to `p.grad`; torch's hooks on all optimizers see each
step, and `torch_tools.clip_calls` each clipping.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stabletrain.torch_tools import step_hooks
from stabletrain.torch_tools.clip_calls import ignore_clipping, listen_to_clipping

MAX_WATCHED = 8  # parameters with a hook: what is done to gradients is done to those of a whole optimizer
MAX_HELD = 2**18  # elements of a gradient that is kept until the next backward pass
SMALLER, ROUNDING = 0.999, 1e-3  # the factor of a clipping, the same for all elements up to this relative error
UNSCALED = 2.0**-6  # a gradient that is made smaller than this after it was clipped had the scale of half precision
MAX_SAMPLE = 16  # elements of a parameter that show whether it has changed


@dataclass
class Clips:
    """How often the gradient of a parameter was clipped, and when.

    Attributes:
        right: Between the backward pass and the step.
        early: While there was no gradient, or a gradient of zeros.
        late: After a step had used it, and before the next backward pass.
        before_unscaling: Before it was divided by the scale of half precision.
    """

    right: int = 0
    early: int = 0
    late: int = 0
    before_unscaling: int = 0


class _Arriving(NamedTuple):
    """What a gradient found when it arrived: no `p.grad`, or one that is not zero; and whether it is nonzero itself."""

    found_none: bool
    found_nonzero: bool
    is_nonzero: bool


class Account:
    """The account of one parameter.

    Attributes:
        path: Path of the parameter.
        num_added: Backward passes that gave it a nonzero gradient.
        num_steps: Optimizer steps, or updates by hand, after the first of them.
        num_used: Optimizer steps that found a nonzero gradient.
        num_lost: Optimizer steps before which its gradient was reset.
        num_discarded: Backward passes before which an unused gradient had been reset.
        num_stale: Steps whose gradient included that of an earlier step.
        num_late: Steps after which its gradient was made smaller, too late for the optimizer.
        clips: Number of clippings by when they came; see `Clips`.
    """

    def __init__(self, path: str, parameter: nn.Parameter) -> None:
        self.path, self.parameter = path, parameter
        self.num_added = self.num_steps = self.num_used = self.num_lost = self.num_discarded = self.num_stale = 0
        self.num_late = 0
        self.clips = Clips()
        self.has_optimizer = False
        self._sample = sample_of(parameter)
        self._was_stepped = self._is_unused = self._is_stale = False
        self._held: tuple[Tensor, int, tuple[float, ...]] | None = None  # the gradient of a step, and its numbers
        self._clipped: tuple[float, ...] | None = None  # numbers of the gradient when it was clipped last
        ref = weakref.ref(self)
        self._arriving: _Arriving | None = None
        added = parameter.register_post_accumulate_grad_hook(_Added(ref))
        self._handles = (parameter.register_hook(_Hook(ref)), added)

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def arrive(self, gradient: Tensor) -> None:
        """Note a gradient, which is added to `p.grad` next; not so that of `torch.autograd.grad`, which returns it."""
        self._look_for_late_scaling()
        if not self.has_optimizer:
            self._look_for_update()
        before = self.parameter.grad
        is_nonzero = (self._was_stepped or self._is_stale) and _is_nonzero(before)
        self._arriving = _Arriving(before is None, is_nonzero, not self._is_unused and _is_nonzero(gradient))

    def add(self) -> None:
        """Note that the gradient which has arrived was added."""
        arrived, self._arriving = self._arriving, None
        if arrived is None:
            return
        if self._was_stepped or self._is_stale:
            self._is_stale = arrived.found_nonzero
        if self._is_unused and not self._was_stepped and arrived.found_none:
            self.num_discarded += 1
        self._was_stepped = False
        if arrived.is_nonzero:
            self._is_unused = True
            self.num_added += 1

    def step(self) -> None:
        """Note an optimizer's step before it is taken."""
        self.has_optimizer = True
        if self._is_unused:
            used = _is_nonzero(self.parameter.grad)
            self.num_used += used
            self.num_lost += not used
        self._judge_clip()
        gradient = self.parameter.grad
        if gradient is not None and not gradient.is_sparse and gradient.numel() <= MAX_HELD:
            self._held = gradient, gradient._version, sample_of(gradient)
        self._note_step()

    def clip(self) -> None:
        """Note that its gradient has just been clipped."""
        gradient = self.parameter.grad
        if not self._is_unused:
            self.clips.early += not _is_nonzero(gradient)
            self.clips.late += _is_nonzero(gradient)
        elif gradient is not None and not gradient.is_sparse:
            self._clipped = sample_of(gradient)

    def _judge_clip(self) -> None:
        """Note whether the gradient that an optimizer is about to use is the one that was clipped."""
        clipped, self._clipped = self._clipped, None
        gradient = self.parameter.grad
        if clipped is None or gradient is None or gradient.is_sparse or sum(map(bool, clipped)) < 2:
            return  # a single number may be multiplied by anything
        factor = _common_factor(clipped, sample_of(gradient))
        if factor is not None and 0 < factor < UNSCALED:
            self.clips.before_unscaling += 1
        else:
            self.clips.right += 1

    def _note_step(self) -> None:
        self.num_steps += self.num_added > 0
        self.num_stale += self._is_stale
        self._is_unused = self._is_stale = False
        self._was_stepped = True

    def _look_for_late_scaling(self) -> None:
        """Note that the gradient of the last step was multiplied since by a number below 1, as clipping does."""
        if self._held is None:
            return
        gradient, version, before = self._held
        self._held = None
        if gradient._version == version:
            return
        factor = _common_factor(before, sample_of(gradient))
        self.num_late += factor is not None and 0 < factor < SMALLER

    def _look_for_update(self) -> None:
        """Note an update that no optimizer made, as in `p.data -= lr * p.grad`."""
        sample = sample_of(self.parameter)
        if sample != self._sample:
            self._sample = sample
            self.num_used += self._is_unused
            self._note_step()


class _Hook:
    """A hook of a parameter. It is not pickled with the parameter, and does not keep its account alive."""

    __torch_unserializable__ = True  # read by torch when it saves a tensor with hooks

    def __init__(self, account: Callable[[], Account | None]) -> None:
        self._account = account

    def __call__(self, gradient: Tensor) -> None:
        account = self._account()
        if account is not None:
            with torch.no_grad():
                account.arrive(gradient)

    def __deepcopy__(self, memo: Any) -> _Hook:
        return _Hook(_gone)  # a copy of the model keeps no account

    def __reduce__(self) -> Any:
        return _Hook, (_gone,)


class _Added(_Hook):
    """The same, called once the gradient was added."""

    def __call__(self, parameter: Tensor) -> None:
        account = self._account()
        if account is not None:
            with torch.no_grad():
                account.add()


def _gone() -> None:
    return None


class Ledger:
    """Accounts of some parameters, and the optimizers that have taken a step.

    Args:
        model: The model that is trained.

    Attributes:
        accounts: Those of parameters spread over the model.
        num_steps: Steps of any optimizer.
        owned: `id` of each parameter of an optimizer that has taken a step.
        optimizers: Those optimizers.
        max_norm: Limit of the last clipping.
    """

    def __init__(self, model: nn.Module) -> None:
        named = [(path, p) for path, p in model.named_parameters() if p.requires_grad and p.numel()]
        count = min(MAX_WATCHED, len(named))
        chosen = [named[round(i * (len(named) - 1) / max(1, count - 1))] for i in range(count)]
        self.accounts = [Account(path, p) for path, p in chosen]
        self.num_steps = 0
        self.owned: set[int] = set()
        self.optimizers: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._of: weakref.WeakKeyDictionary[Optimizer, list[Account]] = weakref.WeakKeyDictionary()
        self.max_norm: float | None = None
        step_hooks.listen(self)
        listen_to_clipping(self.clip)

    def end(self, optimizer: Optimizer) -> None:
        """Count a step."""
        self.num_steps += 1

    def begin(self, optimizer: Optimizer) -> None:
        """Note the gradients that an optimizer is about to use."""
        if optimizer not in self.optimizers:
            ids = {id(p) for group in optimizer.param_groups for p in group["params"]}
            self.owned |= ids
            self.optimizers.add(optimizer)
            self._of[optimizer] = [account for account in self.accounts if id(account.parameter) in ids]
        for account in self._of[optimizer]:
            account.step()

    def clip(self, parameters: Sequence[Tensor], limit: float) -> None:
        """Note that the gradients of some parameters were clipped."""
        ids = {id(p) for p in parameters}
        clipped = [account for account in self.accounts if id(account.parameter) in ids]
        self.max_norm = limit if clipped else self.max_norm
        with torch.no_grad():
            for account in clipped:
                account.clip()

    def close(self) -> None:
        """Remove all hooks."""
        for account in self.accounts:
            account.close()
        step_hooks.ignore(self)
        ignore_clipping(self.clip)


def sample_of(parameter: Tensor) -> tuple[float, ...]:
    """Return a few elements, spread over the parameter."""
    flat = parameter.detach().reshape(-1)
    return tuple(flat[:: max(1, -(-flat.numel() // MAX_SAMPLE))].tolist())


def _common_factor(before: Sequence[float], after: Sequence[float]) -> float | None:
    """Return the factor by which all numbers were multiplied; None if it is not the same for all, or not known."""
    factors = [now / then for now, then in zip(after, before, strict=True) if then]
    is_common = len(factors) > 1 and max(factors) - min(factors) <= ROUNDING * abs(max(factors))
    return max(factors) if is_common else None


def _is_nonzero(gradient: Tensor | None) -> bool:
    if gradient is None:
        return False
    return bool(gradient._nnz() if gradient.is_sparse else gradient.any())


def trainable(model: nn.Module) -> Iterable[tuple[str, nn.Parameter]]:
    """Yield the parameters that require a gradient, by path."""
    return ((path, p) for path, p in model.named_parameters() if p.requires_grad)
