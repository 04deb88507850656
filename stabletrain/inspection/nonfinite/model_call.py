"""A call of the model by the training loop, with what is needed to repeat it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import unserializable_hook

from stabletrain.signal.domains import is_bad
from stabletrain.signal.user_code import Place, here

MAX_KEPT = 4_000_000  # elements: of a larger gradient, only whether it is finite is kept


@dataclass(eq=False)
class ModelCall:
    """One call. It holds references to the inputs and outputs until the step has been inspected, and no copies.

    Attributes:
        module: The module that was called.
        args: Its arguments.
        kwargs: Its keyword arguments.
        random: State of torch's CPU generator before the call.
        device_random: State of the current GPU's generator, None without a GPU.
        autocast: Device and data type of an active autocast, None without one.
        place: Line of the call.
        outputs: Floating point tensors in the output.
        gradients: Gradient of an output by its index, as it arrived in the backward pass; of a large one, a tensor
            that says whether it is finite.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    random: Tensor
    device_random: Tensor | None
    autocast: tuple[str, torch.dtype] | None
    place: Place | None
    outputs: list[Tensor] = field(default_factory=list)
    gradients: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def begin(cls, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelCall:
        """Note a call that is about to run."""
        on_device = torch.cuda.is_initialized()
        return cls(
            module,
            args,
            kwargs,
            torch.get_rng_state(),
            torch.cuda.get_rng_state() if on_device else None,
            _autocast(on_device),
            here(4),
        )

    @property
    def ends(self) -> list[Any]:
        """The nodes of autograd's graph that computed the outputs."""
        return [x.grad_fn for x in self.outputs if x.grad_fn is not None]

    def end(self, output: Any) -> None:
        """Note the outputs, and listen for their gradients."""
        self.outputs = [*outputs_in(output)]
        gradients = self.gradients  # the hooks know only this: a reference to the outputs would be a cycle
        for index, x in enumerate(self.outputs):
            if x.requires_grad:
                x.register_hook(unserializable_hook(_Keep(gradients, index)))

    @property
    def has_bad_gradient(self) -> bool:
        """Whether a gradient that is not finite arrived at an output."""
        return any(not bool(g) if g.dtype is torch.bool else is_bad(g) for g in self.gradients.values())

    def repeat(self) -> tuple[list[Tensor], list[Tensor]]:
        """Run the call again, from the same random state.

        Returns:
            The floating point tensors of its output, and those of its inputs that require a gradient; both have no part
            in the graph of the training step.
        """
        inputs: list[Tensor] = []
        args, kwargs = _detached((self.args, self.kwargs), inputs)
        wraps = isinstance(self.module, nn.parallel.DistributedDataParallel)  # whose own call waits for other processes
        module: Any = self.module.module if wraps else self.module
        with self._conditions():
            return [*outputs_in(module(*args, **kwargs))], inputs

    @contextmanager
    def _conditions(self) -> Iterator[None]:
        torch.set_rng_state(self.random)
        if self.device_random is not None:
            torch.cuda.set_rng_state(self.device_random)
        with ExitStack() as stack:
            if self.autocast is not None:
                device, dtype = self.autocast
                stack.enter_context(torch.autocast(device, dtype=dtype, cache_enabled=False))
            yield


def _detached(value: Any, found: list[Tensor]) -> Any:
    """Return nested containers with tensors that share their memory but not their graph."""
    if isinstance(value, Tensor):
        if not value.requires_grad or isinstance(value, nn.Parameter):
            return value
        new = value.detach().requires_grad_()
        found.append(new)
        return new
    if isinstance(value, dict):
        return type(value)({key: _detached(part, found) for key, part in value.items()})
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(_detached(part, found) for part in value)
    return value


class _Keep:
    def __init__(self, gradients: dict[int, Tensor], index: int) -> None:
        self._gradients, self._index = gradients, index

    def __call__(self, gradient: Tensor) -> None:
        small = gradient.numel() <= MAX_KEPT
        self._gradients[self._index] = gradient.detach() if small else gradient.isfinite().all()


def outputs_in(value: Any) -> Iterator[Tensor]:
    """Yield the floating point tensors in a module's output: in tuples, lists, mappings and dataclasses."""
    if isinstance(value, Tensor):
        if value.is_floating_point() or value.is_complex():
            yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from outputs_in(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from outputs_in(part)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from outputs_in(getattr(value, name))


def _autocast(on_device: bool) -> tuple[str, torch.dtype] | None:
    for device in ("cuda", "cpu") if on_device else ("cpu",):
        if torch.is_autocast_enabled(device):
            return device, torch.get_autocast_dtype(device)
    return None
