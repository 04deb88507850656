"""Name the layers of any model in the order in which its forward pass reaches them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn

from stabletrain.torch_tools.eager import is_compiled_in_place
from stabletrain.torch_tools.module_hooks import ModuleHooks

_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9_\-.]")  # all but these are allowed by both MLflow and TensorBoard


def layer_name(index: int, path: str, total: int) -> str:
    """Return `L<index, zero-padded>.<path>`, e.g. `L03.rnn.weight_hh_l0`, which sorts in forward order.

    Args:
        index: Position in forward order, from 0.
        path: Parameter path; characters that tracking servers reject become `_`.
        total: Number of layers; sets the padding (at least two digits).
    """
    width = max(2, len(str(max(total - 1, 0))))
    return f"L{index:0{width}d}.{clean_name(path)}"


def clean_name(path: str) -> str:
    """Return `path` with each character that tracking servers reject replaced by `_`."""
    return _NOT_ALLOWED.sub("_", path)


class ForwardOrder:
    """Finds the order in which a model's first forward pass reaches its parameters.

    Hooks record each module when it is first called, and are removed after the first complete pass. A module that is
    used without being called (`nn.MultiheadAttention` multiplies by its `out_proj.weight` itself) follows its parent
    module. Parameters that the pass did not reach come last, in the order of definition. A shared parameter is listed
    once, where it is first used.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._reached: dict[int, nn.Module] = {}  # by id, since a module may define its own equality
        self._hooks = ModuleHooks(before=ForwardOrder._note, after=ForwardOrder._finish)
        if not is_compiled_in_place(model):
            self._hooks.open(self, before=[(module, None) for module in model.modules()], after=[(model, None)])

    def _note(self, _: None, module: nn.Module, inputs: object) -> None:
        self._reached.setdefault(id(module), module)

    def _finish(self, *_: object) -> None:
        self.detach()

    def detach(self) -> None:
        """Remove the hooks."""
        self._hooks.close()

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Return all parameters by layer name, in forward order."""
        paths = {id(p): name for name, p in self.model.named_parameters()}
        ordered: dict[int, nn.Parameter] = {}
        reached = [p for module in self._reached.values() for p in self._parameters_of(module)]
        for parameter in [*reached, *self.model.parameters()]:
            if id(parameter) in paths:  # the module may have been removed from the model since
                ordered.setdefault(id(parameter), parameter)
        return {layer_name(i, paths[key], len(ordered)): p for i, (key, p) in enumerate(ordered.items())}

    def _parameters_of(self, module: nn.Module) -> Iterator[nn.Parameter]:
        """Yield a module's own parameters, then those of its children that were never called."""
        yield from module.parameters(recurse=False)
        if module is not self.model:  # direct children of the model that were never called are most likely unused
            for child in module.children():
                if id(child) not in self._reached:
                    yield from self._parameters_of(child)
