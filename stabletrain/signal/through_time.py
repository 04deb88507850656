"""The gradient through time of recurrent layers, which no weight's gradient shows: it sums over all steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from types import new_class
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stabletrain.signal.layer_names import clean_name
from stabletrain.signal.time_gradient import REVERSE, TimeGradient
from stabletrain.signal.unfused_rnn import FUSED, replay
from stabletrain.torch_tools.isolation import differentiable, isolated, require_scalar
from stabletrain.torch_tools.module_hooks import ModuleHooks

CELLS = (nn.RNNCell, nn.LSTMCell, nn.GRUCell)
States = dict[str, list[Tensor]]  # by layer, in the order in which they were computed


def gradient_through_time(model: nn.Module, inputs: Any, loss_fn: Callable[[Any], Tensor]) -> tuple[TimeGradient, ...]:
    """Return ‖∂L/∂h_t‖ of every recurrent layer and every t, on one small batch.

    ∂L/∂h_t = ∂L/∂y_t ∂y_t/∂h_t + ∂L/∂h_{t+1} ∂h_{t+1}/∂h_t: through the output and through the next state. torch's
    fused kernels keep h_t to themselves; here they are replayed step by step on the same weights. Found are `nn.RNN`,
    `nn.LSTM`, `nn.GRU`, what extends their `forward`, their cells, and subclasses of `nn.RNNBase` with a method `step`
    that returns the new state. Calls of one module follow each other in time. Of an LSTM it is h alone: what its c_t
    hands on to c_{t+1} is not a path from h_t.

    The norms are those of the loss as it is: of a mean over B examples, 1/B of what its sum would give.

    The modules are in evaluation mode meanwhile: no dropout, running statistics as they are; what was compiled runs
    as it was written. No gradient is written, and random states, modes and forward passes are left as they were. Hooks
    on the model run, and a model that keeps a state between its calls has had one call more.

    Args:
        model: Any module.
        inputs: What it is called with: a tensor, or a tuple of arguments.
        loss_fn: Maps the model's outputs to a scalar.

    Returns:
        One entry for each recurrent layer and direction, in forward order; none if the model has none. The norm is
        0 where no path leads to the loss.

    Raises:
        RequestError: A packed sequence, or a loss that is not one number.

    Example:
        >>> model = nn.RNN(1, 4, batch_first=True)
        >>> found = gradient_through_time(model, torch.ones(2, 10, 1), lambda outputs: outputs[0][:, -1].sum())
        >>> [(x.layer, len(x.norms)) for x in found]
        [('l0', 10)]

    References:
        Pascanu, Mikolov and Bengio 2013, On the difficulty of training recurrent neural networks, eq. 3–5.
    """
    states: States = {}
    with ExitStack() as stack:
        stack.enter_context(isolated(model))
        stack.enter_context(differentiable())
        for module in model.modules():
            module.training = False  # not by `eval()`, in which a model may do more: some merge weights there
        for path, module in model.named_modules():
            stack.enter_context(_recording(path, module, states))
        loss = loss_fn(model(*map(_usable, inputs if isinstance(inputs, tuple) else (inputs,))))
        computed = {layer: len(found) for layer, found in states.items()}  # a checkpointed layer runs again below
        gradients = iter(_differentiate(loss, [state for found in states.values() for state in found]))
    return tuple(TimeGradient(layer, _norms(list(islice(gradients, n)), layer)) for layer, n in computed.items())


def _differentiate(loss: Any, states: Sequence[Tensor]) -> Sequence[Tensor | None]:
    require_scalar(loss, "a function that returns a scalar tensor")
    if not states or not loss.requires_grad:
        return [None] * len(states)
    return torch.autograd.grad(loss, states, allow_unused=True)


def _norms(gradients: Sequence[Tensor | None], layer: str) -> np.ndarray:
    found = {t: torch.linalg.vector_norm(g, dtype=torch.float64) for t, g in enumerate(gradients) if g is not None}
    norms = np.zeros(len(gradients))
    if found:
        norms[list(found)] = torch.stack(list(found.values())).cpu().numpy()  # one wait for a GPU
    return norms[::-1].copy() if layer.endswith(REVERSE) else norms


def _usable(x: Any) -> Any:
    """Copy what was made under `torch.inference_mode`, which autograd does not take."""
    if isinstance(x, Tensor):
        return x.clone() if x.is_inference() else x
    return type(x)(map(_usable, x)) if type(x) in (tuple, list) else x


@contextmanager
def _recording(path: str, module: nn.Module, states: States) -> Iterator[None]:
    """Have a recurrent module note its states, as long as this is open."""

    def note(name: str, state: Tensor) -> Tensor:
        state = state if state.requires_grad else state.requires_grad_()  # frozen weights, and inputs without a graph
        layer = clean_name(".".join(part for part in (path, name) if part))
        states.setdefault(layer, []).append(state)
        return state

    if isinstance(module, FUSED):
        with _replayed(module, lambda *args, **kwargs: replay(module, note, *args, **kwargs)):
            yield
    elif isinstance(module, nn.RNNBase) and hasattr(module, "step"):
        step: Any = module.step
        with _replaced(module, "step", lambda key, *args, **kwargs: _noted(note, key, step(key, *args, **kwargs))):
            yield
    elif isinstance(module, CELLS):
        hooks = ModuleHooks(after=_note_cell)
        hooks.open(note, after=[(module, None)])
        try:
            yield
        finally:
            hooks.close()
    else:
        yield


def _noted(note: Callable[[str, Tensor], Tensor], key: str, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (note(key, state[0]), *state[1:])


def _note_cell(note: Callable[[str, Tensor], Tensor], _: None, __: nn.Module, ___: Any, output: Any) -> Any:
    """Note a cell's h, and hand on a copy, which the model may overwrite."""
    return (note("", output[0]).clone(), *output[1:]) if isinstance(output, tuple) else note("", output).clone()


@contextmanager
def _replayed(module: nn.Module, run: Callable[..., Any]) -> Iterator[None]:
    """Have `run` in the place of the fused kernel."""
    kind = next(kind for kind in FUSED if isinstance(module, kind))
    own = type(module)
    if own.forward is kind.forward:
        with _replaced(module, "forward", run):
            yield
        return
    fused = type(kind.__name__, (kind,), {"forward": lambda _, *args, **kwargs: run(*args, **kwargs)})
    object.__setattr__(module, "__class__", new_class(own.__name__, (own, fused)))  # its `super().forward` is `run`
    try:
        yield
    finally:
        object.__setattr__(module, "__class__", own)


@contextmanager
def _replaced(module: nn.Module, name: str, value: Callable[..., Any]) -> Iterator[None]:
    before = module.__dict__.get(name)
    object.__setattr__(module, name, value)
    try:
        yield
    finally:
        if before is None:
            object.__delattr__(module, name)
        else:
            object.__setattr__(module, name, before)
