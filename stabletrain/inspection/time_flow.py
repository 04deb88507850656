"""Measure the gradient through time of the recurrent layers during training itself, without running the model again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import unserializable_hook

from stabletrain.signal.layer_names import clean_name
from stabletrain.signal.time_gradient import REVERSE, TimeGradient
from stabletrain.signal.unfused_rnn import FUSED, replay
from stabletrain.torch_tools.module_hooks import ModuleHooks

CELLS = (nn.RNNCell, nn.LSTMCell, nn.GRUCell)
MAX_EXAMPLES = 4  # of the batch, computed once more: norms differ far less between examples than between times


class _Call(NamedTuple):
    """One call of a fused recurrent layer: a few examples of its inputs, its outputs' gradients as they arrive."""

    module: Any
    inputs: Tensor
    state: Any  # h, or (h, c), or None
    gradients: dict[int, Tensor]  # by position among `_tensors(output)`


class TimeFlow:
    """Measures ‖∂L/∂h_t‖ of every recurrent layer, from the gradients that training computes anyway.

    The states of a cell (`nn.RNNCell`, …) are outputs of modules, whose gradients hooks receive. Fused layers
    (`nn.RNN`, `nn.LSTM`, `nn.GRU`) hide their states: these layers alone are computed once more, step by step, for
    four examples of their inputs, and the gradient that arrived at their outputs is passed back. No code of the model
    runs again.

    Open it before the forward pass, and call `collect` after the backward pass. Packed sequences are left out.

    Args:
        model: Any module.

    Example:
        >>> model = nn.RNN(1, 4, batch_first=True)
        >>> flow = TimeFlow(model)
        >>> flow.open()
        >>> model(torch.ones(2, 10, 1))[0][:, -1].sum().backward()
        >>> [(x.layer, len(x.norms)) for x in flow.collect()]
        [('l0', 10)]
    """

    def __init__(self, model: nn.Module) -> None:
        self._fused = {path: m for path, m in model.named_modules() if type(m) in FUSED}
        self._cells = {path: m for path, m in model.named_modules() if isinstance(m, CELLS)}
        self._hooks = ModuleHooks(after=TimeFlow._note)
        self._calls: dict[str, list[_Call]] = {}
        self._states: dict[str, list[list[Tensor]]] = {}  # by cell and call: the gradient of h, once it is known

    @property
    def is_recurrent(self) -> bool:
        """Whether the model has a recurrent layer."""
        return bool(self._fused or self._cells)

    def open(self) -> None:
        """Look at the coming forward pass, and forget what was not collected."""
        self._calls, self._states = {}, {}
        if self.is_recurrent and not self._hooks.is_open:
            modules = {**self._fused, **self._cells}
            self._hooks.open(self, after=[(module, path) for path, module in modules.items()])

    def close(self) -> None:
        """Remove the hooks."""
        self._hooks.close()
        self._calls, self._states = {}, {}

    def collect(self) -> list[TimeGradient]:
        """Return the norms by layer, and close; nothing for a layer that no gradient reached."""
        calls, states = self._calls, self._states
        self.close()
        found = [x for path, of_layer in calls.items() if len(of_layer) == 1 for x in _replayed(path, of_layer[0])]
        for path, gradients in states.items():
            norms = np.array([float(g[0].norm()) if g else 0.0 for g in gradients])
            if len(norms) > 1 and norms.any():
                found.append(TimeGradient(clean_name(path), norms))
        return found

    def _note(self, path: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if not torch.is_grad_enabled() or not module.training:
            return
        if isinstance(module, CELLS):
            state = output[0] if isinstance(output, tuple) else output
            if state.requires_grad:
                gradients: list[Tensor] = []
                self._states.setdefault(path, []).append(gradients)
                state.register_hook(unserializable_hook(lambda g: gradients.append(g.detach().clone())))
            return
        x = inputs[0] if inputs else None
        if not isinstance(x, Tensor) or x.dim() != 3:
            return
        axis = 0 if getattr(module, "batch_first", False) else 1
        state = inputs[1] if len(inputs) > 1 else None
        call = _Call(module, _few(x, axis), _few_of(state), {})
        self._calls.setdefault(path, []).append(call)
        for place, tensor in enumerate(_tensors(output)):
            if tensor.requires_grad:
                tensor.register_hook(_keep(call.gradients, place, axis if place == 0 else 1))


def _keep(gradients: dict[int, Tensor], place: int, axis: int) -> Any:
    return unserializable_hook(lambda gradient: gradients.__setitem__(place, _few(gradient, axis)))


def _few(x: Tensor, axis: int) -> Tensor:
    return x.detach().narrow(axis, 0, min(MAX_EXAMPLES, x.shape[axis])).clone()


def _few_of(state: Any) -> Any:
    if isinstance(state, Tensor):
        return _few(state, 1)
    return tuple(_few(part, 1) for part in state) if isinstance(state, tuple | list) else None


def _tensors(output: Any) -> list[Tensor]:
    """Return the outputs, h and, for an LSTM, c."""
    outputs, state = output
    return [outputs, state] if isinstance(state, Tensor) else [outputs, *state]


def _replayed(path: str, call: _Call) -> list[TimeGradient]:
    """Return the norms of a layer's states, by stacked layer and direction."""
    if not call.gradients:
        return []
    states: dict[str, list[Tensor]] = {}

    def note(name: str, state: Tensor) -> Tensor:
        state = state if state.requires_grad else state.requires_grad_()
        states.setdefault(name, []).append(state)
        return state

    with torch.enable_grad():
        outputs = _tensors(replay(call.module, note, call.inputs, call.state))
        loss = sum(((outputs[place] * g).sum() for place, g in call.gradients.items()), outputs[0].new_zeros(()))
        gradients = iter(torch.autograd.grad(loss, [s for of in states.values() for s in of], allow_unused=True))
    found = []
    for name, of_layer in states.items():
        norms = _norms([next(gradients) for _ in of_layer])
        layer = clean_name(".".join(part for part in (path, name) if part))
        found.append(TimeGradient(layer, norms[::-1].copy() if name.endswith(REVERSE) else norms))
    return found if any(x.norms.any() for x in found) else []


def _norms(gradients: Sequence[Tensor | None]) -> np.ndarray:
    norms = [torch.linalg.vector_norm(g, dtype=torch.float64) for g in gradients if g is not None]
    values = iter(torch.stack(norms).tolist() if norms else [])  # waits for a GPU only once
    return np.array([0.0 if g is None else next(values) for g in gradients])
