"""The gradient through time of recurrent layers, which no weight's gradient shows: it sums over all steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stabletrain.signal.layers import clean_name
from stabletrain.signal.replay import FUSED, replay
from stabletrain.signal.time_gradient import REVERSE, TimeGradient

CELLS = (nn.RNNCell, nn.LSTMCell, nn.GRUCell)
States = dict[str, list[Tensor]]  # by layer, in the order in which they were computed


def gradient_through_time(model: nn.Module, inputs: Any, loss_fn: Callable[[Any], Tensor]) -> tuple[TimeGradient, ...]:
    """Return ‖∂L/∂h_t‖ of every recurrent layer and every t, on one small batch.

    ∂L/∂h_t = ∂L/∂y_t ∂y_t/∂h_t + ∂L/∂h_{t+1} ∂h_{t+1}/∂h_t: through the output and through the next state. torch's
    fused kernels keep h_t to themselves; here they are replayed step by step on the same weights. Found are `nn.RNN`,
    `nn.LSTM`, `nn.GRU`, their cells, and subclasses of `nn.RNNBase` with a method `step` that returns the new state.
    Calls of one module follow each other in time.

    The model is in evaluation mode meanwhile: no dropout, running statistics as they are. No gradient is written, and
    random states, modes and forward passes are left as they were.

    Args:
        model: Any module.
        inputs: What it is called with: a tensor, or a tuple of arguments.
        loss_fn: Maps the model's outputs to a scalar.

    Returns:
        One entry for each recurrent layer and direction, in forward order; none if the model has none, or if no
        state leads to the loss.

    Example:
        >>> model = nn.RNN(1, 4, batch_first=True)
        >>> found = gradient_through_time(model, torch.ones(2, 10, 1), lambda outputs: outputs[0][:, -1].sum())
        >>> [(x.layer, len(x.norms)) for x in found]
        [('l0', 10)]

    References:
        Pascanu, Mikolov and Bengio 2013, On the difficulty of training recurrent neural networks, eq. 3–5.
    """
    states: States = {}
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.is_cuda})
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_evaluating(model))
        for path, module in model.named_modules():
            stack.enter_context(_recording(path, module, states))
        loss = loss_fn(model(*arguments))
        found = [state for layer in states.values() for state in layer]
        if not found or not loss.requires_grad:
            return ()
        gradients = iter(torch.autograd.grad(loss, found, allow_unused=True))
    return tuple(
        TimeGradient(layer, _norms([next(gradients) for _ in computed], layer)) for layer, computed in states.items()
    )


def _norms(gradients: Sequence[Tensor | None], layer: str) -> np.ndarray:
    zero = torch.zeros((), dtype=torch.float64)
    norms = [zero if g is None else torch.linalg.vector_norm(g, dtype=torch.float64).cpu() for g in gradients]
    norms = torch.stack(norms).numpy()
    return norms[::-1].copy() if layer.endswith(REVERSE) else norms


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _recording(path: str, module: nn.Module, states: States) -> Iterator[None]:
    """Have a recurrent module note its states, as long as this is open."""

    def note(name: str, state: Tensor) -> Tensor:
        state = state if state.requires_grad else state.requires_grad_()  # frozen weights, and inputs without a graph
        layer = clean_name(".".join(part for part in (path, name) if part))
        states.setdefault(layer, []).append(state)
        return state

    if type(module).forward in FUSED:
        with _replaced(module, "forward", lambda *args, **kwargs: replay(module, note, *args, **kwargs)):
            yield
    elif isinstance(module, nn.RNNBase) and hasattr(module, "step"):
        step: Any = module.step
        with _replaced(module, "step", lambda key, *args, **kwargs: _noted(note, key, step(key, *args, **kwargs))):
            yield
    elif isinstance(module, CELLS):
        handle = module.register_forward_hook(lambda _, __, output: _noted_cell(note, output))
        try:
            yield
        finally:
            handle.remove()
    else:
        yield


def _noted(note: Callable[[str, Tensor], Tensor], key: str, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (note(key, state[0]), *state[1:])


def _noted_cell(note: Callable[[str, Tensor], Tensor], output: Any) -> None:
    note("", output[0] if isinstance(output, tuple) else output)


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
