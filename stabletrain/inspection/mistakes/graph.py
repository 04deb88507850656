"""Reads the autograd graph of a loss: which functions computed it, from what, and in which shapes.

After the backward pass the graph is still there; only its saved tensors have been freed. A node is the backward
function of one operation; `next_functions` lead to the operations that computed its inputs, and `AccumulateGrad`
nodes stand for parameters. Node names and metadata are internals of torch (checked with torch 2.13.0).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from stabletrain.torch_tools.eager import is_compiled as is_compiled_itself

Node = Any  # torch.autograd.graph.Node
MAX_NODES = 50_000  # of a graph; the part nearest to the loss is walked
SAME_VALUES = (  # operations that pass the same numbers on, in another shape, order or precision
    *("View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "T", "Permute", "Clone", "Alias"),
    *("ToCopy", "Slice", "Select", "Index", "Split", "Unbind", "Contiguous", "AsStrided"),
)


def name_of(node: Node) -> str:
    """Return the name of the operation, e.g. `Softmax` for `SoftmaxBackward0`; "" for None."""
    return "" if node is None else node.name().rpartition(":")[2].partition("Backward")[0].lstrip("_")


def inputs_of(node: Node) -> list[Node]:
    """Return the nodes that computed the inputs of an operation; constants have none."""
    return [child for child, _ in node.next_functions if child is not None]


def shape_of(node: Node) -> tuple[int, ...] | None:
    """Return the shape of an operation's first output; None if it is not known."""
    metadata = getattr(node, "_input_metadata", ())
    return tuple(metadata[0].shape) if metadata else None


def walk(loss: Any) -> Iterator[Node]:
    """Yield the nodes of a loss, those nearest to it first."""
    root = loss.grad_fn if isinstance(loss, Tensor) else None
    level, seen = [root] if root is not None else [], {root}
    while level and len(seen) <= MAX_NODES:
        yield from level
        following: dict[Node, None] = dict.fromkeys(child for node in level for child in inputs_of(node))
        level = [node for node in following if node not in seen]
        seen.update(level)


def skip_reshapes(node: Node) -> Node:
    """Return the nearest node at or below `node` that changes values; a node with several inputs is not passed."""
    while node is not None and name_of(node) in SAME_VALUES:
        node = next(iter(inputs_of(node)), None)
    return node


def only_input(node: Node) -> Node | None:
    """Return the operation that computed the first input of `node`, reshapes skipped; None for a constant."""
    child = node.next_functions[0][0] if node.next_functions else None
    return skip_reshapes(child)


def parameters_of(loss: Any) -> set[int]:
    """Return `id` of every leaf tensor that a loss depends on."""
    return {id(node.variable) for node in walk(loss) if hasattr(node, "variable")}


def is_compiled(module: torch.nn.Module) -> bool:
    """Return whether a module or a part of it is compiled: hooks would change how it is computed."""
    return any(hasattr(part, "_orig_mod") or is_compiled_itself(part) for part in module.modules())
