"""Statistics of each layer's output in the forward pass, and of the gradient with respect to that output."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import unserializable_hook

from stabletrain.signal.kernels.reduce import measure_tensors
from stabletrain.signal.layer_names import layer_name
from stabletrain.signal.layer_statistics import Arrays, Measures, merge
from stabletrain.signal.sources.source import Source
from stabletrain.torch_tools.eager import is_compiled_in_place
from stabletrain.torch_tools.module_hooks import ModuleHooks
from stabletrain.vocabulary.signals import ACTIVATION, DELTA

_WEIGHT = re.compile(r"(^|\.)parametrizations\.")  # of spectral and weight norm, whose output is a weight
PASS_THROUGH = (nn.Identity, nn.Dropout, nn.Flatten, nn.Unflatten)  # modules that pass their input on


class OutputStatistics(Source):
    """Measures the outputs of a model's layers while it trains, and the gradients with respect to these outputs.

    A layer is a module that has parameters of its own or no children, which includes the model itself. If the output
    is a tuple, as that of recurrent layers, its first tensor is measured. Several calls before `collect` are merged:
    micro-batches, or a layer that is used twice. Passes in evaluation mode or without a graph are not measured. The
    hooks are active between `open` and `close`.

    If an output is a view (such as that of `nn.Linear` for inputs with three axes) and is then overwritten in place,
    its gradient is not measured, since autograd does not compute it.

    Args:
        model: Any module.
        signals: `activation`, `delta`, or both.
    """

    signals = (ACTIVATION, DELTA)

    def __init__(self, model: nn.Module, signals: Sequence[str]) -> None:
        super().__init__(model, signals)
        self._requested = [signal for signal in self.signals if signal in signals]
        self._model = model
        self._modules = watched_modules(model)
        self._order: dict[str, int] = {}  # path: position in forward order
        self._parts: dict[str, dict[str, list[Measures]]] = {signal: {} for signal in self._requested}
        self._hooks = ModuleHooks(after=OutputStatistics._measure_output)
        self._histograms = True
        self._num_parts = 1
        self.seconds = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the hooks are active."""
        return self._hooks.is_open

    def open(self, *, histograms: bool = True, num_parts: int = 1) -> None:
        """Activate the hooks, and discard measurements that were not collected.

        Args:
            histograms: Whether to compute histograms.
            num_parts: Number of processes whose losses are averaged: `delta` of this process is divided by it.
        """
        self._histograms, self._num_parts = histograms, num_parts
        for parts in self._parts.values():
            parts.clear()
        if self._requested and not self.is_open and not is_compiled_in_place(self._model):
            self._hooks.open(self, after=[(module, path) for path, module in self._modules.items()])

    def expect(self, wanted: bool, *, histograms: bool = True, num_parts: int = 1) -> None:
        """Activate the hooks if the coming forward pass is to be measured; otherwise deactivate them."""
        self.open(histograms=histograms, num_parts=num_parts) if wanted else self.close()

    def close(self) -> None:
        """Deactivate the hooks."""
        self._hooks.close()

    def collect(self, loss_scale: float = 1.0) -> Mapping[str, Measures]:
        """Return the measurements since `open` or the last `collect`, by signal; `loss_scale` divides `delta`."""
        found = {signal: self._merged(parts) for signal, parts in self._parts.items() if parts}
        for parts in self._parts.values():
            parts.clear()
        if loss_scale != 1.0 and DELTA in found:
            found[DELTA] = found[DELTA].shifted(-round(math.log2(loss_scale)))
        return found

    def _measure_output(self, path: str, module: nn.Module, _: Any, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is None or not module.training or not torch.is_grad_enabled():
            return
        if not path and tensor.dim() == 0:  # a loss; under data parallelism, the LightningModule itself is called
            return
        self._order.setdefault(path, len(self._order))
        if ACTIVATION in self._requested:
            self._add(ACTIVATION, path, tensor)
        if DELTA in self._requested and tensor.requires_grad:
            num_parts = self._num_parts
            hook = unserializable_hook(lambda gradient: self._add(DELTA, path, _divide(gradient, num_parts)))
            tensor.register_hook(hook)

    def _add(self, signal: str, path: str, tensor: Tensor) -> None:
        start = time.perf_counter()
        measures = measure_tensors([path], [tensor], histograms=self._histograms)
        self._parts[signal].setdefault(path, []).append(measures)
        self.seconds += time.perf_counter() - start

    def _merged(self, parts: Mapping[str, Sequence[Measures]]) -> Measures:
        paths = sorted(parts, key=self._order.__getitem__)
        names = [layer_name(self._order[path], path, len(self._modules)) for path in paths]
        sizes = np.array([sum(int(m.sizes[0]) for m in parts[path]) for path in paths])

        def join() -> Arrays:
            rows = [merge_calls(parts[path]) for path in paths]
            counts, special = (
                np.concatenate([getattr(row, name) for row in rows]) if rows[0].counts is not None else None
                for name in ("counts", "special")
            )
            rms, nonfinite = (np.concatenate([getattr(row, name) for row in rows]) for name in ("rms", "num_nonfinite"))
            return Arrays(rms, nonfinite, counts, special)

        parts = {path: list(parts[path]) for path in paths}
        on_device = any(call.on_device for calls in parts.values() for call in calls)
        return Measures(names, sizes, join, with_counts=self._histograms, on_device=on_device)


def merge_calls(calls: Sequence[Measures]) -> Arrays:
    """Return the statistics over several calls of one layer."""
    if len(calls) == 1:
        return calls[0].arrays
    return merge([m.arrays for m in calls], [m.sizes for m in calls])


def watched_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers by path, each once: modules that have parameters of their own or no children."""
    return {path: m for path, m in model.named_modules() if _is_watched(m) and not _WEIGHT.search(path)}


def _is_watched(module: nn.Module) -> bool:
    has_own = next(module.parameters(recurse=False), None) is not None
    is_leaf = next(module.children(), None) is None
    return (has_own or is_leaf) and not isinstance(module, PASS_THROUGH)


def _divide(gradient: Tensor, num_parts: int) -> Tensor:
    return gradient if num_parts == 1 else gradient.detach() / num_parts


def first_tensor(value: Any) -> Tensor | None:
    """Return the first tensor of a module's inputs or output; None unless it is floating point or complex."""
    while isinstance(value, tuple | list) and value:
        value = value[0]
    if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()):
        return value
    return None
