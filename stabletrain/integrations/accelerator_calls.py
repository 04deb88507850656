"""What passes through accelerate's `Accelerator`, which the Hugging Face `Trainer` does not show to its callbacks."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from accelerate import Accelerator
from torch import Tensor


class AcceleratorCalls:
    """Notes the losses passed to `Accelerator.backward` and the norms that `Accelerator.clip_grad_norm_` returns.

    The two methods are wrapped between `open` and `close`; what they do and return stays the same. They are wrapped in
    the class, since neither the model nor the optimizer knows the accelerator.

    Attributes:
        graph: The last loss with its graph, until `take`; None before.
        after_backward: Called with each loss once its backward pass is done; None for nothing.
    """

    def __init__(self) -> None:
        self.graph: Tensor | None = None
        self.after_backward: Callable[[Tensor], object] | None = None
        self._losses: list[Tensor] = []
        self._norm: Any = None
        self._undo: list[Callable[[], None]] = []

    def open(self) -> None:
        """Begin to note."""
        if not self._undo:
            me: weakref.ref[AcceleratorCalls] = weakref.ref(self)
            self._undo = [_wrap("backward", me), _wrap("clip_grad_norm_", me)]

    def close(self) -> None:
        """End it, and restore the methods."""
        while self._undo:
            self._undo.pop()()
        self.graph, self._losses, self._norm = None, [], None

    @property
    def num_losses(self) -> int:
        """Number of losses since the last `take`: the micro-batches of the step."""
        return len(self._losses)

    def take(self) -> tuple[Tensor | None, Any]:
        """Return the sum of the losses since the last call, which is the step's loss, and the norm before clipping.

        The trainer divides each loss by the number of micro-batches, or by that of their tokens, before its backward
        pass. Either is None if there was none. Nothing waits for a GPU here.
        """
        losses, norm = self._losses, self._norm
        self.graph, self._losses, self._norm = None, [], None
        return (sum(losses[1:], losses[0]) if losses else None), norm

    def _before(self, name: str, value: Any) -> None:
        if name == "backward" and isinstance(value, Tensor) and value.numel() == 1:
            self.graph = value
            self._losses.append(value.detach().float())

    def _after(self, name: str, value: Any, result: Any) -> None:
        if name == "clip_grad_norm_":
            self._norm = result.detach() if isinstance(result, Tensor) else result
        elif self.after_backward is not None and isinstance(value, Tensor) and value.numel() == 1:
            self.after_backward(value.detach())


def _wrap(name: str, me: weakref.ref[AcceleratorCalls]) -> Callable[[], None]:
    """Wrap a method of the class; return what restores it."""
    original = Accelerator.__dict__[name]

    def wrapped(self: Accelerator, *args: Any, **kwargs: Any) -> Any:
        owner, value = me(), args[0] if args else kwargs.get("loss")
        if owner is not None:
            owner._before(name, value)
        result = original(self, *args, **kwargs)
        if owner is not None:
            owner._after(name, value, result)
        return result

    setattr(Accelerator, name, wrapped)

    def restore() -> None:
        if Accelerator.__dict__.get(name) is wrapped:  # else somebody has wrapped it since, and ours does nothing more
            setattr(Accelerator, name, original)

    return restore
