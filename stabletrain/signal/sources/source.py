"""The base class of all sources of signals, and the description of a training step that they receive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from stabletrain.signal.kernels.reduce import measure_others, measure_plain
from stabletrain.signal.kernels.shards import measure_shards
from stabletrain.signal.layer_statistics import Measures
from stabletrain.signal.snapshot import Snapshot
from stabletrain.torch_tools.local_shards import any_sharded


@dataclass(slots=True)
class Step:
    """One optimizer step, as passed to the sources.

    Attributes:
        names: Layer names of the parameters that have a gradient, in forward order.
        parameters: Those parameters.
        snapshot: Receives the measurements of the source.
        histograms: Whether to compute histograms.
        is_first: Whether this is the first step that is measured.
    """

    names: Sequence[str]
    parameters: Sequence[nn.Parameter]
    snapshot: Snapshot
    histograms: bool
    is_first: bool = False


class Source:
    """Measures one signal, or several that share hooks, around a training step, and changes nothing.

    A subclass names its signals and overrides the methods that it needs; `SOURCES` lists it. `Watch` calls, in this
    order: `expect` before the forward pass, `collect` and `before_step` after the backward pass, `at_step` as the
    optimizer's step begins, and `after_step` when it is done.

    Args:
        model: The watched model.
        signals: The signals that were requested.
    """

    signals: ClassVar[tuple[str, ...]]
    needed_by: ClassVar[tuple[str, ...]] = ()  # signals of other sources that require those of this one
    needs_optimizer: ClassVar[bool] = False
    is_always_due: ClassVar[bool] = False  # call `before_step` also on steps that measure only the gradient
    seconds: float = 0.0  # spent in hooks during forward and backward passes

    def __init__(self, model: nn.Module, signals: Sequence[str]) -> None:
        self.is_requested = bool(set(signals) & set(self.signals))

    @property
    def is_open(self) -> bool:
        """Whether hooks are active on the model."""
        return False

    def open(self) -> None:
        """Measure every forward pass until `expect` or `close` is called."""

    def expect(self, wanted: bool, *, histograms: bool = True, num_parts: int = 1) -> None:
        """Prepare for the coming forward pass; see `Watch.expect`."""

    def collect(self, loss_scale: float) -> Mapping[str, Measures]:
        """Return what was measured since the last call, on the part of the batch that this process has seen."""
        return {}

    def before_step(self, step: Step) -> None:
        """Measure after the backward pass."""

    def at_step(self, step: Step) -> None:
        """Measure as the optimizer's step begins, after clipping."""

    def after_step(self, step: Step, optimizer: Optimizer) -> None:
        """Measure the effect of the optimizer's step."""

    def forget(self) -> None:
        """Release what `before_step` has kept for `after_step`."""

    def close(self) -> None:
        """Remove all hooks."""

    def state_dict(self) -> dict[str, Any]:
        """Return what later steps depend on: plain numbers and tensors, for a checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""


def measure(names: Sequence[str], tensors: Sequence[Tensor], histograms: bool) -> Any:
    """Return the statistics of tensors, which may be sparse, complex or sharded."""
    found = measure_plain(names, tensors, histograms=histograms)
    if found is not None:
        return found
    in_shards = any_sharded(tensors)
    return (measure_shards if in_shards else measure_others)(names, tensors, histograms=histograms)
