"""Measure the gradient through time of recurrent layers, which weight gradients hide since they sum over all steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stabletrain.signal.layer_names import clean_name
from stabletrain.signal.time_gradient import REVERSE, TimeGradient
from stabletrain.signal.unfused_rnn import FUSED, replay
from stabletrain.torch_tools.isolation import differentiable, isolated, require_scalar
from stabletrain.torch_tools.module_hooks import ModuleHooks
from stabletrain.torch_tools.replacements import replaced_forward, replaced_method

CELLS = (nn.RNNCell, nn.LSTMCell, nn.GRUCell)
States = dict[str, list[Tensor]]  # by layer, in the order in which they were computed


def gradient_through_time(model: nn.Module, inputs: Any, loss_fn: Callable[[Any], Tensor]) -> tuple[TimeGradient, ...]:
    """Compute ‖∂L/∂h_t‖ for every recurrent layer and every t, on one small batch.

        ∂L/∂h_t = ∂L/∂y_t ∂y_t/∂h_t + ∂L/∂h_{t+1} ∂h_{t+1}/∂h_t

    The two terms are the paths through the output and through the next state. The fused kernels of torch do not expose
    h_t; here they are computed step by step from the same weights. Covered are `nn.RNN`, `nn.LSTM`, `nn.GRU`,
    subclasses that extend their `forward`, their cells, and subclasses of `nn.RNNBase` with a method `step` that
    returns the new state. Several calls of one module are treated as consecutive in time. For an LSTM, h is measured
    but not c: the path from c_t to c_{t+1} does not start at h_t.

    The loss is differentiated as it is given: for a mean over B examples, the norms are 1/B of those for the sum.

    Meanwhile the modules are in evaluation mode, without dropout and with fixed running statistics, and compiled
    functions run eagerly. No gradient is written, and random states, modes and forward methods are restored. Hooks on
    the model run, and a model that keeps state between calls has been called once more.

    Args:
        model: Any module.
        inputs: Arguments of the model: a tensor, or a tuple.
        loss_fn: Maps the model's outputs to a scalar.

    Returns:
        One entry for each recurrent layer and direction, in forward order; empty if the model has none. The norm is
        0 where no path leads to the loss.

    Raises:
        RequestError: The input of a layer is a packed sequence, or the loss is not a scalar.

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
            module.training = False  # not by `eval()`, which a model may override, for example to merge weights
        for path, module in model.named_modules():
            stack.enter_context(_recorded(path, module, states))
        loss = loss_fn(model(*map(_for_autograd, inputs if isinstance(inputs, tuple) else (inputs,))))
        computed = {layer: len(found) for layer, found in states.items()}  # before checkpointed layers rerun
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
        norms[list(found)] = torch.stack(list(found.values())).cpu().numpy()  # waits for a GPU only once
    return norms[::-1].copy() if layer.endswith(REVERSE) else norms


def _for_autograd(x: Any) -> Any:
    """Copy tensors that were created under `torch.inference_mode`, which autograd does not accept."""
    if isinstance(x, Tensor):
        return x.clone() if x.is_inference() else x
    return type(x)(map(_for_autograd, x)) if type(x) in (tuple, list) else x


@contextmanager
def _recorded(path: str, module: nn.Module, states: States) -> Iterator[None]:
    """Record the states of a recurrent module inside the block."""

    def note(name: str, state: Tensor) -> Tensor:
        state = state if state.requires_grad else state.requires_grad_()  # frozen weights, and inputs without a graph
        layer = clean_name(".".join(part for part in (path, name) if part))
        states.setdefault(layer, []).append(state)
        return state

    if isinstance(module, FUSED):
        kind = next(kind for kind in FUSED if isinstance(module, kind))
        with replaced_forward(module, kind, lambda *args, **kwargs: replay(module, note, *args, **kwargs)):
            yield
    elif isinstance(module, nn.RNNBase) and hasattr(module, "step"):
        step: Any = module.step

        def noted_step(key: str, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
            state = step(key, *args, **kwargs)
            return note(key, state[0]), *state[1:]

        with replaced_method(module, "step", noted_step):
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


def _note_cell(note: Callable[[str, Tensor], Tensor], _: None, __: nn.Module, ___: Any, output: Any) -> Any:
    """Record h of a cell, and return a copy, which the model may overwrite."""
    return (note("", output[0]).clone(), *output[1:]) if isinstance(output, tuple) else note("", output).clone()
