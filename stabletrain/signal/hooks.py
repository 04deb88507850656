"""Taps: what a layer puts out in the forward pass, and the gradient that comes back to that output."""

from __future__ import annotations

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
from stabletrain.torch_tools.module_hooks import ModuleHooks
from stabletrain.vocabulary.signals import ACTIVATION, DELTA

TAPPED = (ACTIVATION, DELTA)
_WEIGHT = re.compile(r"(^|\.)parametrizations\.")  # of spectral and weight norm: it puts out a weight
SILENT = (nn.Identity, nn.Dropout, nn.Flatten, nn.Unflatten)  # they put out what came in


class Taps:
    """Measures the outputs of a model's layers while it trains, and the gradients at these outputs.

    A layer is a module with parameters of its own or without children, the model itself included. Of a tuple, as
    recurrent layers return it, the first tensor is taken. Several calls before `collect` add up: micro-batches, or a
    layer used twice. Passes in evaluation mode or without a graph are not measured. The hooks are on the model only
    between `open` and `close`. The gradient at an output that is a view (that of `nn.Linear` on three axes) and is then
    overwritten in place is left out: autograd does not pass there.

    Args:
        model: Any module.
        signals: `activation`, `delta`, or both.
    """

    def __init__(self, model: nn.Module, signals: Sequence[str]) -> None:
        self._signals = [signal for signal in TAPPED if signal in signals]
        self._modules = tapped_modules(model)
        self._order: dict[str, int] = {}  # path: place in forward order
        self._parts: dict[str, dict[str, list[Measures]]] = {signal: {} for signal in self._signals}
        self._hooks = ModuleHooks()
        self._histograms = True
        self._num_parts = 1
        self.seconds = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the hooks are on the model."""
        return self._hooks.is_open

    def open(self, *, histograms: bool = True, num_parts: int = 1) -> None:
        """Put the hooks on, and forget what was not collected.

        Args:
            histograms: Whether to count distributions.
            num_parts: Processes whose losses are averaged: `delta`, of one of them, is divided by it.
        """
        self._histograms, self._num_parts = histograms, num_parts
        for parts in self._parts.values():
            parts.clear()
        if self._signals and not self.is_open:
            self._hooks.open(after=[(module, self._hook(path)) for path, module in self._modules.items()])

    def close(self) -> None:
        """Take the hooks off."""
        self._hooks.close()

    def collect(self) -> Mapping[str, Measures]:
        """Return what was measured since `open` or the last `collect`, by signal."""
        found = {s: self._merged(parts) for s, parts in self._parts.items() if parts}
        for parts in self._parts.values():
            parts.clear()
        return found

    def _hook(self, path: str) -> Any:
        def look(module: nn.Module, _: Any, output: Any) -> None:
            tensor = first_tensor(output)
            if tensor is None or not module.training or not torch.is_grad_enabled():
                return
            if not path and tensor.dim() == 0:  # a loss: data parallelism calls the module for that too
                return
            self._order.setdefault(path, len(self._order))
            if ACTIVATION in self._signals:
                self._add(ACTIVATION, path, tensor)
            if DELTA in self._signals and tensor.requires_grad:
                num_parts = self._num_parts
                hook = unserializable_hook(lambda gradient: self._add(DELTA, path, _divide(gradient, num_parts)))
                tensor.register_hook(hook)

        return look

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


def tapped_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers by path: modules with parameters of their own or without children, each once."""
    return {path: m for path, m in model.named_modules() if _is_tapped(m) and not _WEIGHT.search(path)}


def _is_tapped(module: nn.Module) -> bool:
    has_own = next(module.parameters(recurse=False), None) is not None
    is_leaf = next(module.children(), None) is None
    return (has_own or is_leaf) and not isinstance(module, SILENT)


def _divide(gradient: Tensor, num_parts: int) -> Tensor:
    return gradient if num_parts == 1 else gradient.detach() / num_parts


def first_tensor(output: Any) -> Tensor | None:
    """Return the first tensor of what a module takes or puts out, None if it holds no fractions."""
    while isinstance(output, tuple | list) and output:
        output = output[0]
    if isinstance(output, Tensor) and (output.is_floating_point() or output.is_complex()):
        return output
    return None
