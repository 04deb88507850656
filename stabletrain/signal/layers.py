"""The layers of any model, named in the order in which its forward pass reaches them."""

from __future__ import annotations

import re

from torch import nn

_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9_\-.]")  # what both MLflow and TensorBoard take in a name


def layer_name(index: int, path: str, total: int) -> str:
    """Return `L<index, zero-padded>.<path>`, e.g. `L03.rnn.weight_hh_l0`, which sorts in forward order.

    Args:
        index: Place in forward order, from 0.
        path: Parameter path; characters that tracking servers refuse become `_`.
        total: Number of layers; sets the padding (at least two digits).
    """
    width = max(2, len(str(max(total - 1, 0))))
    return f"L{index:0{width}d}.{_NOT_ALLOWED.sub('_', path)}"


class ForwardOrder:
    """Finds the order in which a model's parameters are reached, from its first forward pass.

    Light hooks note each module that owns parameters when it is first called, and go after the first complete
    pass. Parameters that no pass reached come last, in the order of definition. A shared parameter counts once,
    where it is first used.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._reached: list[nn.Module] = []
        owners = [m for m in model.modules() if next(m.parameters(recurse=False), None) is not None]
        self._handles = [m.register_forward_pre_hook(self._note) for m in owners]
        self._handles.append(model.register_forward_hook(self._finish))

    def _note(self, module: nn.Module, _: object) -> None:
        if not any(module is m for m in self._reached):
            self._reached.append(module)

    def _finish(self, *_: object) -> None:
        self.detach()

    def detach(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Return all parameters under their layer names, in forward order."""
        paths = {id(p): name for name, p in self._model.named_parameters()}
        ordered: dict[int, nn.Parameter] = {}
        reached = [p for module in self._reached for p in module.parameters(recurse=False)]
        for parameter in [*reached, *self._model.parameters()]:
            ordered.setdefault(id(parameter), parameter)
        return {layer_name(i, paths[key], len(ordered)): p for i, (key, p) in enumerate(ordered.items())}
