"""Follow every operation of a forward and backward pass, and find the one from which a non-finite value comes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from stabletrain.signal.domains import Judgement, has_nan, has_positive_infinity, is_bad, judge
from stabletrain.signal.layer_names import layer_name
from stabletrain.signal.sources.output_statistics import first_tensor, watched_modules
from stabletrain.signal.user_code import Place, here
from stabletrain.torch_tools.module_hooks import ModuleHooks
from stabletrain.vocabulary.origins import INVALID, family_of

MASKING = ("masked_fill", "fill", "full", "full_like", "new_full", "where", "scalar_tensor", "copy")
FRESH = "lift_fresh"  # what makes a tensor of numbers in the code: it computes nothing
SOFTMAX = ("softmax", "log_softmax", "safe_softmax", "logsumexp", "sub", "exp", "scaled_dot_product")
UNNUMBERED = 2**63  # nodes that accumulate gradients have no sequence number of their own
ACCUMULATES = "AccumulateGrad"  # the node at a parameter, at which its hooks run
MAX_SINKS = 32


@dataclass(eq=False)
class Operation:
    """An operation whose output was not finite.

    Attributes:
        index: Its place in the order of execution.
        name: Name in ATen, without its overload.
        node: Name of autograd's node, such as `SqrtBackward0`; of the operation if there is none.
        in_backward: Whether it ran in the backward pass.
        module: Path of the innermost module in whose forward pass it ran, or whose derivative it computed; None for
            code outside of the model.
        place: Line of the user's code.
        output: The output.
        bad_inputs: Inputs that were not finite.
        nans: Whether each of them contained NaN.
        makers: The operations that made them; None for one that was there before.
        is_nan: Whether the output contained NaN.
        judgement: Why the output is not finite although the inputs are, up to an intended -Inf.
        is_intended: Whether it puts an infinity in place, as a mask does.
    """

    index: int
    name: str
    node: str
    in_backward: bool
    module: str | None
    place: Place | None
    output: Tensor
    bad_inputs: list[Tensor]
    nans: list[bool]
    makers: list[Operation | None]
    is_nan: bool
    judgement: Judgement
    is_intended: bool

    @property
    def reason(self) -> Judgement:
        """Why its output is not finite: of a derivative, in the words of the operation that it belongs to."""
        family = family_of(self.node) if self.in_backward else None
        if self.in_backward and self.node.endswith(ACCUMULATES):
            return self.judgement._replace(why=f"in a hook on a gradient: {self.judgement.why}")
        if family is None or self.judgement.origin != INVALID:
            return self.judgement
        return self.judgement._replace(why=family.backward)


@dataclass(eq=False)
class Leaf:
    """A tensor that was not finite before the pass, and the operation that first used it."""

    tensor: Tensor
    user: Operation


class _BadInputs(NamedTuple):
    tensors: list[Tensor]
    nans: list[bool]
    makers: list[Operation | None]


@dataclass
class _Scope:
    module: str | None = None
    place: Place | None = None


@dataclass
class _Names:
    """What is known of autograd's nodes by their sequence number."""

    nodes: dict[int, str] = field(default_factory=dict)
    scopes: dict[int, _Scope] = field(default_factory=dict)


class OperationTrace(TorchDispatchMode):
    """Records the operations in a `with` block whose outputs are not finite, with the module and the line of code.

    It looks at every tensor, which makes a pass several times slower: it is meant for a single one.

    Args:
        model: The model, for the paths of the modules.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> with OperationTrace(model) as trace:
        ...     loss = (model(torch.ones(3, 2)) * 0).log().sum()
        >>> found = trace.find([loss])
        >>> found.node, found.judgement.why
        ('LogBackward0', 'the logarithm of 0')
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._paths = [(module, path) for path, module in model.named_modules()]
        self._hooks = ModuleHooks(before=OperationTrace._enter, after=OperationTrace._leave)
        self._stack: list[str] = []
        self._layers = watched_modules(model)
        self._order: dict[str, int] = {}  # of the layers, by path
        self._names = _Names()
        self._makers: dict[int, Operation] = {}  # by id of the output, which the operation keeps alive
        self._by_storage: dict[int, Operation] = {}
        self._num = 0

    def __enter__(self) -> OperationTrace:
        self._hooks.open(self, before=self._paths, after=self._paths)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._hooks.close()

    def _enter(self, path: str, module: nn.Module, inputs: Any) -> None:
        self._stack.append(path)

    def _leave(self, path: str, module: nn.Module, inputs: Any, output: Any) -> None:
        while self._stack and self._stack.pop() != path:
            pass  # a module within raised an exception that was caught
        if path in self._layers and first_tensor(output) is not None:
            self._order.setdefault(path, len(self._order))

    def layer_of(self, path: str | None) -> str | None:
        """Return the name of a layer as in the activation signal; None if the module is none."""
        order = None if path is None else self._order.get(path)
        return None if order is None or path is None else layer_name(order, path, len(self._layers))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = list(tensors_in((args, kwargs)))
        found = [x for x in inputs if _is_bad(x)]
        bad = _BadInputs(found, [has_nan(x) for x in found], [self._maker(x) for x in found])
        name = func._schema.name.rpartition("::")[2]
        original = _kept(args) if func._schema.is_mutable else args
        output = func(*args, **kwargs)
        self._num += 1
        node = torch._C._current_autograd_node()
        seq, scope = self._note_scope(node)
        for x in tensors_in((output,)):
            if _is_bad(x) and name != FRESH:
                self._add(name, node, seq, scope, x, bad, original)
            else:
                self._makers.pop(id(x), None)
        return output

    def _note_scope(self, node: Any) -> tuple[int, _Scope]:
        if node is None:
            seq = _latest()
            scope = _Scope(self._stack[-1] if self._stack else None, here(3))
            self._names.scopes.setdefault(seq, scope)  # a later operation without a node has the same number
            return seq, scope
        seq = node._sequence_nr()
        return seq, self._names.scopes.get(seq, _Scope())

    def _add(self, name: str, node: Any, seq: int, scope: _Scope, x: Tensor, bad: _BadInputs, args: Any) -> None:
        operation = Operation(
            self._num,
            name,
            node.name() if node is not None else "",
            node is not None,
            scope.module,
            scope.place,
            x,
            bad.tensors,
            bad.nans,
            bad.makers,
            has_nan(x),
            judge(name, _flat(args), x),
            name.strip("_").startswith(MASKING) or any(isinstance(a, float) and math.isinf(a) for a in args),
        )
        self._makers[id(x)] = operation
        self._by_storage[_storage(x)] = operation
        if node is None:
            operation.node = f"#{seq}"

    def find(self, sinks: Iterable[Tensor]) -> Operation | Leaf | None:
        """Return where the first non-finite value came from that reached one of these tensors; None if none did.

        Args:
            sinks: The loss, or the gradients of the parameters.
        """
        bad = [x for x in sinks if _is_bad(x)][:MAX_SINKS]
        for x in bad:
            self._read_names(x)
        found = [origin for x in bad if (origin := self._origin(self._maker(x), set())) is not None]
        if not found:
            return None
        first = min(found, key=lambda origin: (origin.user if isinstance(origin, Leaf) else origin).index)
        self._name(first.user if isinstance(first, Leaf) else first)
        return first

    def read_names(self, outputs: Iterable[Tensor]) -> None:
        """Read the names of autograd's nodes from the graph of these tensors."""
        for x in outputs:
            self._read_names(x)

    def _read_names(self, x: Tensor) -> None:
        for node in nodes_of(x):
            if (seq := node._sequence_nr()) < UNNUMBERED:
                self._names.nodes.setdefault(seq, node.name())

    def _name(self, operation: Operation) -> None:
        if operation.node.startswith("#"):
            of_output = operation.output.grad_fn
            known = self._names.nodes.get(int(operation.node[1:]))
            if (
                of_output is None
                and not any(x.requires_grad for x in operation.bad_inputs)
                and not _matches(known, operation)
            ):
                operation.node = operation.name.strip("_")
            else:
                operation.node = known or (of_output.name() if of_output is not None else operation.name.strip("_"))

    def _maker(self, x: Tensor) -> Operation | None:
        return self._makers.get(id(x)) or self._by_storage.get(_storage(x))

    def _origin(self, operation: Operation | None, seen: set[int]) -> Operation | Leaf | None:
        """Go back from an operation, from output to input, as far as values are not finite."""
        while operation is not None:
            if operation.index in seen or not operation.bad_inputs:
                return operation
            seen.add(operation.index)
            wanted = [*zip(operation.makers, operation.bad_inputs, strict=True)]
            if operation.is_nan:
                if not any(operation.nans):
                    return self._of_infinities(operation, seen)
                wanted = [pair for pair, is_nan in zip(wanted, operation.nans, strict=True) if is_nan]
            known = [maker for maker, _ in wanted if maker is not None]
            if not known:  # what was computed goes first: batch norm also writes NaN into its running statistics
                leaf = wanted[0][1]
                is_mask = not has_nan(leaf) and not has_positive_infinity(leaf)
                return operation if is_mask and operation.name.strip("_").startswith(SOFTMAX) else Leaf(leaf, operation)
            operation = min(known, key=lambda maker: maker.index)
        return None

    def _of_infinities(self, operation: Operation, seen: set[int]) -> Operation | Leaf:
        """Return where the infinities come from that this operation made NaN; itself if they were intended."""
        for maker, x in zip(operation.makers, operation.bad_inputs, strict=True):
            if maker is None:
                if has_positive_infinity(x) or not operation.name.strip("_").startswith(SOFTMAX):
                    return Leaf(x, operation)
                continue
            origin = self._origin(maker, seen)
            if isinstance(origin, Operation) and not origin.is_intended:
                return origin
            if isinstance(origin, Leaf) and (has_nan(origin.tensor) or has_positive_infinity(origin.tensor)):
                return origin
        return operation


def nodes_of(x: Tensor, limit: int = 100_000) -> Iterator[Any]:
    """Yield the nodes of a tensor's graph, each once."""
    waiting, seen = [x.grad_fn] if x.grad_fn is not None else [], set()
    while waiting and len(seen) < limit:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            yield node
            waiting += [following for following, _ in node.next_functions if following is not None]


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield all tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors_in(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors_in(part)


def _is_bad(x: Tensor) -> bool:
    try:
        return is_bad(x)
    except (RuntimeError, NotImplementedError):  # a tensor without storage, or of a layout that cannot be compared
        return False


def _flat(args: Any) -> list[Any]:
    return [
        part for x in args for part in (x if isinstance(x, list) and any(isinstance(y, Tensor) for y in x) else [x])
    ]


def _kept(args: Any) -> Any:
    """Return the arguments of an operation that overwrites one of them, with a copy of the first."""
    return (args[0].clone(), *args[1:]) if args and isinstance(args[0], Tensor) else args


def _storage(x: Tensor) -> int:
    try:
        return x.untyped_storage()._cdata
    except (RuntimeError, NotImplementedError):
        return id(x)


def _latest() -> int:
    """Return the number of the node that autograd made last; it is made before the operation runs."""
    return torch.autograd._get_sequence_nr() - 1  # pyright: ignore[reportPrivateImportUsage]


def _matches(node: str | None, operation: Operation) -> bool:
    return node is not None and node.lower().startswith(operation.name.strip("_").replace("_", ""))
