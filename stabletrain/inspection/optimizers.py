"""Find the optimizers that step a model, whenever and wherever they are made, and see each of their steps."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from stabletrain.torch_tools import step_hooks

Hook = Callable[["Optimizers"], None]
ALTERNATIONS = 3  # turns with an optimizer of other parameters, after which the two are trained against each other


class Optimizers:
    """The optimizers that step parameters of a model, as far as they are known.

    An optimizer is recognized on its first step, by torch's global hooks on `Optimizer.step` and by its parameters.
    Nothing is attached to an optimizer or to the model, and neither the hooks nor this object keep an optimizer alive.
    After `detach`, or once this object is garbage-collected, it hears of no more steps.

    For `signal.watch.Watch`, this object is the one optimizer whose step is measured: the hooks that it accepts are
    called before the first and after the last of the optimizers that together step all parameters with a gradient.
    Where that cannot be known, because some parameters are never stepped, the next `settle` ends the step.

    Args:
        model: The model whose parameters are stepped.
        given: Optimizers that are known from the beginning, also wrapped ones such as those of `accelerate`.

    Attributes:
        others: Optimizers that were seen to step, and have no parameter of the model.
        on_first_step: Called with each optimizer that is found, before its first step.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizers = Optimizers(model)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> optimizers.known
        ()
        >>> optimizer.step()
        >>> optimizers.known == (optimizer,)
        True
    """

    def __init__(self, model: nn.Module, given: Iterable[Any] = ()) -> None:
        self._model = model
        self._given = tuple(map(weakref.ref, map(unwrap, given)))
        self._known: list[weakref.ref[Optimizer]] = [*self._given]
        self._matches: weakref.WeakKeyDictionary[Optimizer, tuple[int, bool]] = weakref.WeakKeyDictionary()
        self.others: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self.on_first_step: Callable[[Optimizer], None] | None = None
        self._before: dict[int, Hook] = {}
        self._after: dict[int, Hook] = {}
        self._num_hooks = 0
        self._awaited: frozenset[int] = frozenset()  # ids of the parameters that the pending step may change
        self._moved: set[int] = set()  # of these, the ones that were stepped
        self._stepped: weakref.WeakSet[Optimizer] = weakref.WeakSet()  # optimizers, on the pending step
        self._since: set[weakref.ref[Optimizer]] = set()  # that stepped since the last `settle`
        self._before_that: set[weakref.ref[Optimizer]] = set()
        self._num_turns, self._other_is_last = 0, False
        self.unmoved: frozenset[int] = frozenset()
        self.was_seen = False
        step_hooks.listen(self)

    @property
    def known(self) -> tuple[Optimizer, ...]:
        """The optimizers that step parameters of the model, in the order in which they were found."""
        return tuple(optimizer for ref in self._known if (optimizer := ref()) is not None)

    @property
    def takes_turns(self) -> bool:
        """Whether optimizers step in turn, as in a GAN: two of the model's, or one of them and one of others."""
        return self._num_turns >= ALTERNATIONS

    @property
    def state(self) -> Mapping[Tensor, Any]:
        """The state of each parameter, over all known optimizers."""
        return _States([optimizer.state for optimizer in self.known])

    def register_step_pre_hook(self, hook: Hook) -> _Handle:
        """Call `hook` before the next step; this also sets which parameters that step is expected to change."""
        parameters = self._model.parameters()
        self._awaited = frozenset(id(p) for p in parameters if p.grad is not None and p.requires_grad)
        self._moved.clear()
        self._stepped.clear()
        return self._add(self._before, hook)

    def register_step_post_hook(self, hook: Hook) -> _Handle:
        """Call `hook` after the next step."""
        return self._add(self._after, hook)

    def settle(self) -> None:
        """End the pending step: nothing will step these gradients any more.

        If no optimizer is known at all, the weights may have been changed by hand since, or not at all.
        """
        if self._stepped or not self.known:
            self._conclude()
        if self._since:
            self._num_turns += bool(self._before_that) and self._since != self._before_that
            self._since, self._before_that = set(), self._since

    def detach(self) -> None:
        """Hear of no more steps."""
        step_hooks.ignore(self)
        self._before.clear()
        self._after.clear()

    def steps(self, optimizer: Optimizer) -> bool:
        """Return whether an optimizer has a parameter of the model."""
        count = sum(len(group["params"]) for group in optimizer.param_groups)
        known = self._matches.get(optimizer)
        if known is None or known[0] != count:
            ids = set(map(id, self._model.parameters()))
            known = count, any(id(p) in ids for group in optimizer.param_groups for p in group["params"])
            self._matches[optimizer] = known
        return known[1]

    def __reduce__(self) -> Any:
        return Optimizers, (self._model,)  # a copy looks for the optimizers of the copied model

    def begin(self, optimizer: Optimizer) -> None:
        """Hear that an optimizer, of whatever parameters, begins a step."""
        if not self._is_ours(optimizer):
            self.others.add(optimizer)
            self._other_is_last = True
            return
        if not any(ref() is optimizer for ref in self._known):
            self._known.append(weakref.ref(optimizer))
            if self.on_first_step is not None:
                self.on_first_step(optimizer)
        if optimizer in self._stepped:  # its second step on these gradients: only the first one is measured
            self._conclude()
        for hook in [*self._before.values()]:
            hook(self)

    def end(self, optimizer: Optimizer) -> None:
        """Hear that it has taken the step."""
        if not self._is_ours(optimizer):
            return
        self._num_turns += self._other_is_last
        self._other_is_last = False
        self._since.add(weakref.ref(optimizer))
        if not self._after:
            return
        self._stepped.add(optimizer)
        self._moved.update(id(p) for group in optimizer.param_groups for p in group["params"])
        given = [ref() for ref in self._given]
        if self._awaited <= self._moved or (given and all(x in self._stepped for x in given if x is not None)):
            self._conclude()

    def _conclude(self) -> None:
        self.was_seen = bool(self._stepped)
        self.unmoved = frozenset() if self._given or not self._stepped else self._awaited - self._moved
        self._stepped.clear()
        for hook in [*self._after.values()]:
            hook(self)

    def _is_ours(self, optimizer: Optimizer) -> bool:
        return any(ref() is optimizer for ref in self._given) or self.steps(optimizer)

    def _add(self, hooks: dict[int, Hook], hook: Hook) -> _Handle:
        self._num_hooks += 1
        hooks[self._num_hooks] = hook
        return _Handle(hooks, self._num_hooks)


class _Handle:
    """Removes one hook."""

    def __init__(self, hooks: dict[int, Hook], key: int) -> None:
        self._hooks, self._key = hooks, key

    def remove(self) -> None:
        self._hooks.pop(self._key, None)


class _States(Mapping[Tensor, Any]):
    """The states of several optimizers; a parameter's is that of the first optimizer which has one."""

    def __init__(self, states: list[Mapping[Tensor, Any]]) -> None:
        self._states = states

    def __getitem__(self, parameter: Tensor) -> Any:
        for state in self._states:
            if parameter in state:
                return state[parameter]
        raise KeyError(parameter)

    def __iter__(self) -> Any:
        return iter({parameter: None for state in self._states for parameter in state})

    def __len__(self) -> int:
        return sum(1 for _ in self)


def unwrap(optimizer: Any) -> Any:
    """Return the optimizer of torch in a wrapper that keeps it as `optimizer`, such as accelerate's.

    The wrapper may be an instance of `torch.optim.Optimizer` itself, one that was never initialized.
    """
    while "_optimizer_step_pre_hooks" not in vars(optimizer) and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer
