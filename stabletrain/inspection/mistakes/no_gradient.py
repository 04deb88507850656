"""Parameters that never receive a gradient."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import unserializable_hook

from stabletrain.inspection.inspector import Inspector, StepView
from stabletrain.inspection.mistakes import graph
from stabletrain.inspection.mistakes.fresh import is_fresh
from stabletrain.inspection.mistakes.wording import listed
from stabletrain.torch_tools.module_hooks import ModuleHooks
from stabletrain.vocabulary.kinds import NO_GRADIENT
from stabletrain.vocabulary.notice import ADVICE, CERTAIN, CERTAINTY, DETAIL, HARMLESS, LIKELY, POSSIBLE, REMEDY, Notice

NUM_STEPS = 10  # steps on which a parameter must be without a gradient


class NoGradientInspector(Inspector):
    """Finds parameters whose `grad` stays None, and where the gradient ends.

    A gradient that was once there may be reset to zero or to None, so `grad` is looked at between the backward pass and
    the optimizer's step. Where it is None because it was reset too early, the graph of the loss still leads to it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._waiting: dict[str, nn.Parameter] | None = None
        self._num_reached = 0
        self._flow: _Flow | None = None
        self._frozen_outputs: _FrozenOutputs | None = None
        self._is_done = False

    def expect(self, step: int) -> None:
        """Follow the outputs of the modules without a gradient through one forward pass."""
        if step != NUM_STEPS - 1 or self._is_done or graph.is_compiled(self.model):
            return
        if self._waiting and self._num_reached:
            self._flow = _Flow(self.model, [*self._waiting])
        if frozen := _frozen_modules(self.model):
            self._frozen_outputs = _FrozenOutputs(frozen)

    def inspect(self, view: StepView) -> list[Notice]:
        """Return the parameters without a gradient, once enough steps have been seen."""
        if self._is_done:
            return []
        if self._waiting is None:
            self._waiting = {path: p for path, p in self.model.named_parameters() if p.requires_grad}
            self._num_all = len(self._waiting)
        self._waiting = {path: p for path, p in self._waiting.items() if p.grad is None}
        self._num_reached = self._num_all - len(self._waiting)
        if view.step < NUM_STEPS - 1:
            return []
        self._is_done = True
        notices = [*self._frozen(view)]
        if self._waiting:
            notices = self._unreached(view, self._waiting) or notices
        self.detach()
        return notices

    def detach(self) -> None:
        """Remove all hooks."""
        if self._flow is not None:
            self._flow.close()
            self._flow = None
        if self._frozen_outputs is not None:
            self._frozen_outputs.close()
            self._frozen_outputs = None
        self._waiting = {} if self._is_done else self._waiting

    def _unreached(self, view: StepView, waiting: dict[str, nn.Parameter]) -> list[Notice]:
        if not self._num_reached:
            if not isinstance(view.loss, Tensor) or view.loss.grad_fn is None:
                return []  # nothing is known of the loss
            if graph.parameters_of(view.loss) & {id(p) for p in waiting.values()}:
                return []  # they were reached, and reset before the doctor's step
            return [self._notice(view, waiting, CERTAIN, "The loss depends on no parameter of the model.", {})]
        cut = self._flow.cut if self._flow is not None else None
        names = listed([*waiting])
        verb = "receives" if len(waiting) == 1 else "receive"
        if cut is None:
            return [self._notice(view, waiting, HARMLESS, f"{names} never {verb} a gradient.", {})]
        source, target = cut
        is_guessed = self._flow is not None and self._flow.is_guessed
        certainty = self._intended(waiting, LIKELY if is_guessed or not target else CERTAIN)
        end = f"before it reaches {target}" if target else "from the loss"
        detail = f"{names} never {verb} a gradient: the output of {source} is detached {end}."
        evidence = {"from": source, "to": target or "the loss"}
        return [self._notice(view, waiting, certainty, detail, evidence)]

    def _intended(self, waiting: dict[str, nn.Parameter], certainty: str) -> str:
        """Return `possible` for weights that were trained before, which are often used below `no_grad`."""
        ids = {id(p) for p in waiting.values()}
        owners = [m for m in self.model.modules() if any(id(p) in ids for p in m.parameters(recurse=False))]
        known = [fresh for m in owners if (fresh := is_fresh(m)) is not None]
        return POSSIBLE if known and not any(known) else certainty

    def _frozen(self, view: StepView) -> list[Notice]:
        """Return parameters that are frozen at the random values of a new layer whose output the loss depends on."""
        still = _frozen_modules(self.model)
        if not still or not any(p.requires_grad for p in self.model.parameters()):
            return []
        unused = self._frozen_outputs.unused if self._frozen_outputs is not None else set()
        new = [path for path, m in still.items() if is_fresh(m) and path not in unused]
        if not new:
            return []
        detail = f"{listed(new)} {'is' if len(new) == 1 else 'are'} frozen at random initial weights."
        evidence = {ADVICE: "Weights that were not trained before need a gradient.", REMEDY: "p.requires_grad_(True)"}
        chosen = {path: p for path, p in self.model.named_parameters() if path.rpartition(".")[0] in new}
        return [self._notice(view, chosen, POSSIBLE, detail, {"frozen": True, **evidence})]  # or random features

    def _notice(
        self, view: StepView, named: dict[str, nn.Parameter], certainty: str, detail: str, more: dict[str, Any]
    ) -> Notice:
        evidence = {CERTAINTY: certainty, "num_parameters": len(named), "parameters": [*named][:20], **more}
        return Notice(NO_GRADIENT.name, 0, view.step, evidence={**evidence, DETAIL: detail})


class _FrozenOutputs:
    """Finds frozen modules whose output does not enter the loss, such as the last branch of an N-BEATS.

    Args:
        frozen: The frozen modules by path.

    Attributes:
        unused: Paths of those whose output has a graph that no backward pass has reached.
    """

    def __init__(self, frozen: dict[str, nn.Module]) -> None:
        self.unused: set[str] = set()
        self._reached: set[str] = set()
        self._hooks = ModuleHooks(after=_FrozenOutputs._leave)
        self._hooks.open(self, after=[(module, path) for path, module in frozen.items()])

    def _leave(self, path: str, module: nn.Module, inputs: Any, outputs: Any) -> None:
        with_graph = [tensor for tensor in _tensors(outputs) if tensor.requires_grad]
        for tensor in with_graph:
            tensor.register_hook(unserializable_hook(_Reach(self, path)))
        if with_graph and path not in self._reached:
            self.unused.add(path)

    def reach(self, path: str) -> None:
        """Note that a gradient has arrived at the output of a module."""
        self._reached.add(path)
        self.unused.discard(path)

    def close(self) -> None:
        """Remove the hooks."""
        self._hooks.close()


class _Reach:
    def __init__(self, outputs: _FrozenOutputs, path: str) -> None:
        self._outputs, self._path = weakref.ref(outputs), path

    def __call__(self, gradient: Tensor) -> None:
        outputs = self._outputs()
        if outputs is not None:
            outputs.reach(self._path)


class _Flow:
    """Follows the outputs of modules without a gradient to the modules that take them without their graph.

    A detached tensor shares its memory with the original. Modules that follow a module whose output needs no gradient,
    such as below `torch.no_grad()`, are found alike.

    Args:
        model: The model.
        paths: Paths of the parameters without a gradient.

    Attributes:
        cut: Path of a module, and of the module that takes its output without the graph ("" if the model returns it);
            None if there is none.
        is_guessed: Whether only the order of the modules shows it: those without a gradient come first, and the next
            one takes an input that needs no gradient and is not the model's; or a module that takes the model's inputs
            gets no gradient, as no unused head would.
    """

    def __init__(self, model: nn.Module, paths: list[str]) -> None:
        owners = {path.rpartition(".")[0] for path in paths}
        self._sources = {path for path in owners if path}
        for path in [*self._sources]:  # … and the modules around them, whose output may be detached as a whole
            while path := path.rpartition(".")[0]:
                if all(name in paths for name in _parameters_below(model, path)):
                    self._sources.add(path)
        self._memory: dict[int, tuple[str, Tensor]] = {}  # by address; the tensor is kept so that it is not reused
        self.cut: tuple[str, str] | None = None
        self.is_guessed = False
        self._given: set[int] = set()  # addresses of the model's own inputs
        self._given_shapes: set[torch.Size] = set()
        self._first: str | None = None  # the source that was called before all other modules with parameters
        self._is_later = False
        self._hooks = ModuleHooks(before=_Flow._enter, after=_Flow._leave)
        modules = [*((m, path) for path, m in model.named_modules() if path), (model, "")]
        self._hooks.open(self, before=modules, after=modules)

    def _enter(self, path: str, module: nn.Module, inputs: Any) -> None:
        tensors = _tensors(inputs)
        if not path:
            self._given |= {_address(tensor) for tensor in tensors}
            self._given_shapes |= {tensor.shape for tensor in tensors}
        if not path or not torch.is_grad_enabled():
            self._note_first(path)
            return
        if path in self._sources:
            self._note_first(path)
            if self.cut is None and not any(t.requires_grad for t in tensors) and _has_own(module):
                self.cut, self.is_guessed = (path, ""), True
        if self._is_within_source(path):
            return
        for tensor in tensors:
            found = self._memory.get(_address(tensor))
            if found is not None and not tensor.requires_grad and (self.cut is None or self.is_guessed):
                self.cut, self.is_guessed = (found[0], path), False
        if _has_own(module) and not self._is_later:
            self._is_later = True
            if self._first is not None and (self.cut is None or self.is_guessed) and self._is_free(tensors):
                self.cut, self.is_guessed = (self._first, path), True

    def _note_first(self, path: str) -> None:
        if path in self._sources and not self._is_later:
            self._first = path

    def _is_within_source(self, path: str) -> bool:
        return any(path == source or path.startswith(f"{source}.") for source in self._sources)

    def _is_free(self, tensors: list[Tensor]) -> bool:
        """Return whether inputs need no gradient, and look like a detached output, not like the model's inputs."""
        if not tensors or any(t.requires_grad or _address(t) in self._given for t in tensors):
            return False
        outputs = {known.shape for _, known in self._memory.values()}
        return any(t.shape in outputs or t.shape not in self._given_shapes for t in tensors)

    def _leave(self, path: str, module: nn.Module, inputs: Any, outputs: Any) -> None:
        for tensor in _tensors(outputs):
            known = self._memory.get(_address(tensor))
            if not path:
                self._note_returned(tensor, known)
            elif path in self._sources or (
                known is None and not tensor.requires_grad and self._follows(module, inputs)
            ):
                self._memory[_address(tensor)] = path, tensor

    def _note_returned(self, tensor: Tensor, known: tuple[str, Tensor] | None) -> None:
        if known is not None and not tensor.requires_grad and (self.cut is None or self.is_guessed):
            self.cut, self.is_guessed = (known[0], ""), False

    def _follows(self, module: nn.Module, inputs: Any) -> bool:
        """Return whether a module without parameters, such as an activation, is given a detached output."""
        has_parameters = any(True for _ in module.parameters())
        return not has_parameters and any(_address(t) in self._memory for t in _tensors(inputs))

    def close(self) -> None:
        """Remove the hooks, and forget the tensors."""
        self._hooks.close()
        self._memory = {}


def _frozen_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules with parameters of their own, all of which are frozen, by path."""
    own = {path: (m, [*m.parameters(recurse=False)]) for path, m in model.named_modules()}
    return {path: m for path, (m, found) in own.items() if found and not any(p.requires_grad for p in found)}


def _has_own(module: nn.Module) -> bool:
    """Return whether a module has parameters of its own that learn."""
    return any(p.requires_grad for p in module.parameters(recurse=False))


def _parameters_below(model: nn.Module, path: str) -> list[str]:
    return [f"{path}.{name}" for name, _ in model.get_submodule(path).named_parameters()]


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values] if values.is_floating_point() and values.numel() else []
    if isinstance(values, dict):
        return [t for value in values.values() for t in _tensors(value)]
    if isinstance(values, tuple | list):
        return [t for value in values for t in _tensors(value)]
    return []


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
