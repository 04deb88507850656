"""One forward and backward pass, looked at from layer to layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import unserializable_hook

from stabletrain.signal.layer_names import ForwardOrder, layer_name
from stabletrain.signal.sources.output_statistics import first_tensor, watched_modules
from stabletrain.torch_tools.module_hooks import ModuleHooks

INPUT, OUTPUT = "input", "output"


class Seen(NamedTuple):
    """How much of a tensor is not finite."""

    num_nonfinite: int
    size: int


def see(x: Tensor) -> Seen:
    """Count Inf and NaN; of a sparse tensor in its values."""
    values = x.coalesce().values() if x.is_sparse else x
    return Seen(values.numel() - int(values.isfinite().sum()), values.numel())


@dataclass(eq=False)
class Call:
    """One call of a module: what was seen of its tensors (`input`, `output`) and of their gradients."""

    path: str
    module: nn.Module
    values: dict[str, Seen] = field(default_factory=dict)
    gradients: dict[str, Seen] = field(default_factory=dict)

    def is_bad(self, place: str) -> bool:
        """Whether the input or output is not finite."""
        return place in self.values and self.values[place].num_nonfinite > 0


class Found(NamedTuple):
    """A tensor that is not finite, between two layers or in one."""

    layer: str | None
    tensor: str
    clean: str | None
    seen: Seen
    call: Call

    def bad_buffer(self) -> tuple[str, Seen] | None:
        """Return a buffer of the module that spoils its output; those of masks may hold −Inf."""
        module = self.call.module
        if self.tensor != OUTPUT or (isinstance(module, nn.modules.batchnorm._NormBase) and module.training):
            return None
        for name, buffer in module.named_buffers(recurse=False):
            if bool((buffer.isnan() | buffer.isposinf()).any()):
                return name, see(buffer)
        return None


class Trace:
    """Notes, within `with`, every call of a layer of a model; `differentiate` adds the gradients.

    Args:
        model: Any module.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._modules = watched_modules(model)
        self._events: list[tuple[str, Call]] = []  # each call twice: as it begins, and as it ends
        self._open: list[Call] = []
        self._order: dict[str, int] = {}
        self._hooks = ModuleHooks(before=Trace._begin, after=Trace._end)
        self.loss: Seen | None = None
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
        """Look at the loss, and at all gradients from it down; none is written."""
        self.parameters = self._forward_order.named_parameters()
        self.loss = see(loss.detach())
        wanted = [p for p in self.parameters.values() if p.requires_grad]
        if loss.requires_grad and wanted:
            found = torch.autograd.grad(loss, wanted, allow_unused=True)
            self.gradients = {id(p): g for p, g in zip(wanted, found, strict=True) if g is not None}

    @property
    def is_finite(self) -> bool:
        """Whether neither the loss nor a gradient holds Inf or NaN."""
        assert self.loss is not None
        return not self.loss.num_nonfinite and not any(see(g).num_nonfinite for g in self.gradients.values())

    @property
    def last_layer(self) -> str | None:
        """The layer that ran last."""
        return next((name for place, call in reversed(self._events) if (name := self._name(call))), None)

    def first_bad_output(self) -> Found | None:
        """Return the first tensor of the forward pass that is not finite, and stays so.

        A layer that takes Inf and puts out finite numbers has mended it: a softmax, of scores that are masked.
        """
        found, clean = None, None
        for place, call in self._events:
            if call.is_bad(place):
                if found is None and (place == OUTPUT or self._name(call) is not None):
                    found = Found(self._name(call), place, clean, call.values[place], call)
            elif place == OUTPUT and OUTPUT in call.values:
                found = None if call.is_bad(INPUT) else found
                clean = self._name(call) or clean if found is None else clean
        return found

    def first_bad_gradient(self) -> Found | None:
        """Return the first gradient, from the loss down, that is not finite.

        That of an output, when all layers behind are clean, comes from what lies between: the loss, or functions. That
        of an input or a parameter, when the output's is finite, comes from the layer itself.
        """
        clean = None
        for place, call in reversed(self._events):
            seen = call.gradients.get(place)
            if seen is not None and seen.num_nonfinite:
                return Found(self._name(call), f"gradient of the {place}", clean, seen, call)
            if place == INPUT:
                for name, parameter in call.module.named_parameters(recurse=False):
                    gradient = self.gradients.get(id(parameter))
                    if gradient is not None and see(gradient).num_nonfinite:
                        return Found(self._name(call), f"gradient of {name}", clean, see(gradient), call)
                clean = self._name(call) or clean
        for layer, parameter in self.parameters.items():  # that of a module that is used without being called
            gradient = self.gradients.get(id(parameter))
            if gradient is not None and see(gradient).num_nonfinite:
                return Found(layer, "gradient", None, see(gradient), Call(layer, self._model))
        return None

    def _name(self, call: Call) -> str | None:
        """Return a layer's name; a model without parameters of its own is no layer."""
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
        call.values[INPUT] = see(x.detach())
        if not x.requires_grad:
            return None
        if x is not inputs[0] or getattr(module, "inplace", False):
            _note(x, call, INPUT)
            return None
        own = x.clone()  # its gradient is what this call alone sends back
        _note(own, call, INPUT)
        return own, *inputs[1:]

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
        call.values[OUTPUT] = see(y.detach())
        if y.requires_grad:
            _note(y, call, OUTPUT)


def _note(x: Tensor, call: Call, place: str) -> None:
    def look(gradient: Tensor) -> None:
        call.gradients[place] = see(gradient)

    x.register_hook(unserializable_hook(look))
