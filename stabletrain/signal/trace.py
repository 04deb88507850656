"""Run one forward and backward pass, and count non-finite values layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.hooks import unserializable_hook

from stabletrain.signal.layer_names import ForwardOrder, layer_name
from stabletrain.signal.sources.output_statistics import first_tensor, watched_modules
from stabletrain.torch_tools.module_hooks import ModuleHooks

INPUT, OUTPUT = "input", "output"


class NonFinite(NamedTuple):
    """Number of Inf and NaN in a tensor, and its number of elements."""

    num_nonfinite: int
    size: int


def count_nonfinite(x: Tensor) -> NonFinite:
    """Count Inf and NaN; in a sparse tensor, among its values. An active `OperationTrace` does not see it."""
    with _disable_current_modes():
        values = x.detach()
        values = values.coalesce().values() if x.is_sparse else values
        return NonFinite(values.numel() - int(values.isfinite().sum()), values.numel())


@dataclass(eq=False)
class Call:
    """One call of a module: counts for its tensors (`input`, `output`) and for their gradients."""

    path: str
    module: nn.Module
    values: dict[str, NonFinite] = field(default_factory=dict)
    gradients: dict[str, NonFinite] = field(default_factory=dict)

    def is_bad(self, place: str) -> bool:
        """Return whether the input or output is not finite."""
        return place in self.values and self.values[place].num_nonfinite > 0


class BadTensor(NamedTuple):
    """A tensor that is not finite, between two layers or within one.

    Attributes:
        layer: Layer of the tensor; None if it belongs to no layer.
        tensor: Name of the tensor, such as `output` or `gradient of the input`.
        clean: The nearest layer whose tensors are finite.
        nonfinite: Number of non-finite elements, and size.
        call: The call in which it was found.
    """

    layer: str | None
    tensor: str
    clean: str | None
    nonfinite: NonFinite
    call: Call

    def bad_buffer(self) -> tuple[str, NonFinite] | None:
        """Return a buffer of the module that makes its output non-finite; −Inf is allowed, since masks contain it."""
        module = self.call.module
        if self.tensor != OUTPUT or (isinstance(module, nn.modules.batchnorm._NormBase) and module.training):
            return None
        for name, buffer in module.named_buffers(recurse=False):
            if bool((buffer.isnan() | buffer.isposinf()).any()):
                return name, count_nonfinite(buffer)
        return None


class Trace:
    """Records every call of a layer of a model inside a `with` block; `differentiate` adds the gradients.

    Args:
        model: Any module.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._modules = watched_modules(model)
        self._events: list[tuple[str, Call]] = []  # each call twice: at its beginning and at its end
        self._open: list[Call] = []
        self._order: dict[str, int] = {}
        self._hooks = ModuleHooks(before=Trace._begin, after=Trace._end)
        self.loss: NonFinite | None = None
        self.gradients: dict[int, Tensor] = {}  # of the loss, by id of the parameter
        self.parameters: Mapping[str, nn.Parameter] = {}  # in forward order

    def __enter__(self) -> Trace:
        self._forward_order = ForwardOrder(self._model)
        modules = {**self._modules, "": self._model}
        watched = [(module, path) for path, module in modules.items()]
        self._hooks.open(self, before=watched, after=watched)
        return self

    def __exit__(self, *_: object) -> None:
        self._forward_order.detach()
        self._hooks.close()

    def differentiate(self, loss: Tensor) -> None:
        """Check the loss, and compute all gradients without writing to `p.grad`."""
        self.parameters = self._forward_order.named_parameters()
        self.loss = count_nonfinite(loss)
        wanted = [p for p in self.parameters.values() if p.requires_grad]
        if loss.requires_grad and wanted:
            found = torch.autograd.grad(loss, wanted, allow_unused=True)
            self.gradients = {id(p): g for p, g in zip(wanted, found, strict=True) if g is not None}

    @property
    def is_finite(self) -> bool:
        """Whether the loss and all gradients are free of Inf and NaN."""
        assert self.loss is not None
        if self.loss.num_nonfinite:
            return False
        return not any(count_nonfinite(g).num_nonfinite for g in self.gradients.values())

    @property
    def last_layer(self) -> str | None:
        """The layer that ran last."""
        return next((name for place, call in reversed(self._events) if (name := self._name(call))), None)

    def first_bad_output(self) -> BadTensor | None:
        """Return the first tensor of the forward pass that is not finite and is not made finite by a later layer.

        For example, softmax maps masked scores of −Inf to finite outputs.
        """
        found, clean = None, None
        for place, call in self._events:
            if call.is_bad(place):
                if found is None and (place == OUTPUT or self._name(call) is not None):
                    found = BadTensor(self._name(call), place, clean, call.values[place], call)
            elif place == OUTPUT and OUTPUT in call.values:
                found = None if call.is_bad(INPUT) else found
                clean = self._name(call) or clean if found is None else clean
        return found

    def first_bad_gradient(self) -> BadTensor | None:
        """Return the first gradient that is not finite, in the order of backpropagation.

        If all following layers are finite and the gradient of an output is not, the cause lies in between: in the loss
        or in functions. If the gradient of an output is finite and that of the input or of a parameter is not, the
        cause is the layer itself.
        """
        clean = None
        for place, call in reversed(self._events):
            nonfinite = call.gradients.get(place)
            if nonfinite is not None and nonfinite.num_nonfinite:
                return BadTensor(self._name(call), f"gradient of the {place}", clean, nonfinite, call)
            if place == INPUT:
                for name, parameter in call.module.named_parameters(recurse=False):
                    nonfinite = self._bad_gradient(parameter)
                    if nonfinite is not None:
                        return BadTensor(self._name(call), f"gradient of {name}", clean, nonfinite, call)
                clean = self._name(call) or clean
        for layer, parameter in self.parameters.items():  # of modules that are used without being called
            nonfinite = self._bad_gradient(parameter)
            if nonfinite is not None:
                return BadTensor(layer, "gradient", None, nonfinite, Call(layer, self._model))
        return None

    def _bad_gradient(self, parameter: nn.Parameter) -> NonFinite | None:
        """Return the counts of a parameter's gradient; None if it has none or if it is finite."""
        gradient = self.gradients.get(id(parameter))
        nonfinite = None if gradient is None else count_nonfinite(gradient)
        return nonfinite if nonfinite is not None and nonfinite.num_nonfinite else None

    def _name(self, call: Call) -> str | None:
        """Return the layer name of a call; None if the module is not a layer."""
        order = self._order.get(call.path)
        return None if order is None else layer_name(order, call.path, len(self._modules))

    def _begin(self, path: str, module: nn.Module, inputs: Any) -> Any:
        if self.loss is not None:  # a checkpointed layer runs again in the backward pass
            return None
        call = Call(path, module)
        self._open.append(call)
        self._events.append((INPUT, call))
        x = first_tensor(inputs)
        if x is None:
            return None
        call.values[INPUT] = count_nonfinite(x)
        if not x.requires_grad:
            return None
        if x is not inputs[0] or getattr(module, "inplace", False):
            _count_gradient(x, call, INPUT)
            return None
        copy = x.clone()  # its gradient comes from this call alone
        _count_gradient(copy, call, INPUT)
        return copy, *inputs[1:]

    def _end(self, path: str, module: nn.Module, _: Any, output: Any) -> None:
        if self.loss is not None:
            return
        call = self._open.pop()
        assert call.module is module
        self._events.append((OUTPUT, call))
        y = first_tensor(output)
        if y is None:
            return
        if call.path in self._modules and not (not call.path and y.dim() == 0):
            self._order.setdefault(call.path, len(self._order))
        call.values[OUTPUT] = count_nonfinite(y)
        if y.requires_grad:
            _count_gradient(y, call, OUTPUT)


def _count_gradient(x: Tensor, call: Call, place: str) -> None:
    def count(gradient: Tensor) -> None:
        call.gradients[place] = count_nonfinite(gradient)

    x.register_hook(unserializable_hook(count))
