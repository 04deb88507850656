"""A call of the model by the training loop, with what is needed to repeat it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import unserializable_hook

from stabletrain.signal.domains import is_bad
from stabletrain.signal.operations import tensors_in
from stabletrain.signal.user_code import Place, here

MAX_KEPT = 4_000_000  # elements: a larger output is not kept, and of a larger gradient only whether it is finite


@dataclass(eq=False)
class ModelCall:
    """One call. It holds references to the inputs and outputs until the step has been inspected, and no copies.

    A loop that adds up the gradients of many micro-batches would free their outputs, such as the logits of a language
    model: large ones are referenced weakly.

    Attributes:
        module: The module that was called.
        args: Its arguments.
        kwargs: Its keyword arguments.
        random: State of torch's CPU generator before the call; None if it was not noted.
        device_random: State of the current GPU's generator, None without a GPU.
        autocast: Device and data type of an active autocast, None without one.
        place: Line of the call.
        ends: Nodes of autograd's graph that computed the outputs.
        gradients: Gradient of an output by its index, as it arrived in the backward pass; of a large one, a tensor
            that says whether it is finite.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    random: Tensor | None
    device_random: Tensor | None
    autocast: tuple[str, torch.dtype] | None
    place: Place | None
    ends: list[Any] = field(default_factory=list)
    gradients: dict[int, Tensor] = field(default_factory=dict)
    is_dropped: bool = False
    _outputs: list[Callable[[], Tensor | None]] = field(default_factory=list)
    _version: int = 0

    @classmethod
    def begin(
        cls, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, briefly: bool = False
    ) -> ModelCall:
        """Note a call that is about to run; `briefly` without the random state, the place and the gradients."""
        if briefly:
            return cls(module, args, kwargs, None, None, None, None)
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
    def is_brief(self) -> bool:
        """Whether the random state before the call is not known."""
        return self.random is None

    @property
    def outputs(self) -> list[Tensor]:
        """Floating point tensors in the output, as far as they are still there."""
        return [x for known in self._outputs if (x := known()) is not None]

    @property
    def size(self) -> int:
        """Number of elements of the arguments."""
        return sum(x.numel() for x in tensors_in((self.args, self.kwargs)))

    @property
    def was_changed(self) -> bool:
        """Whether an argument was changed in place since the call."""
        return self._version != _version_of((self.args, self.kwargs))

    def drop(self) -> None:
        """Release the arguments: the call cannot be repeated any more."""
        self.args, self.kwargs, self.is_dropped = (), {}, True

    def end(self, output: Any) -> None:
        """Note the outputs, and listen for their gradients."""
        outputs = [*outputs_in(output)]
        self.ends = [x.grad_fn for x in outputs if x.grad_fn is not None]
        self._outputs = [weakref.ref(x) if x.numel() > MAX_KEPT else _Held(x) for x in outputs]
        self._version = _version_of((self.args, self.kwargs))
        gradients = self.gradients  # the hooks know only this: a reference to the outputs would be a cycle
        for index, x in enumerate(outputs):
            if x.requires_grad and not self.is_brief:
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
        if self.random is not None:
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


class _Held:
    """A reference, in the form of a weak one."""

    def __init__(self, value: Tensor) -> None:
        self._value = value

    def __call__(self) -> Tensor:
        return self._value


def _version_of(value: Any) -> int:
    """Return a number that grows when one of the tensors is changed in place."""
    return sum(x._version for x in tensors_in(value) if not x.is_inference())


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
