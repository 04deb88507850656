"""All inspectors together, as the integrations call them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from stabletrain.inspection.inspector import Inspector, StepView
from stabletrain.inspection.mistakes.cadence import is_inspected
from stabletrain.inspection.mistakes.input_scale import InputScaleInspector
from stabletrain.inspection.mistakes.label_outputs import LabelOutputInspector
from stabletrain.inspection.mistakes.labels import LabelInspector
from stabletrain.inspection.mistakes.modes import ModeInspector
from stabletrain.inspection.mistakes.no_gradient import NoGradientInspector
from stabletrain.inspection.mistakes.output_activation import OutputActivationInspector
from stabletrain.inspection.mistakes.shapes import ShapeInspector
from stabletrain.inspection.mistakes.targets import TargetInspector
from stabletrain.inspection.mistakes.updates import UpdateInspector
from stabletrain.inspection.nonfinite.inspector import NonFiniteInspector
from stabletrain.torch_tools.eager import is_compiled_in_place
from stabletrain.torch_tools.local_shards import any_sharded
from stabletrain.vocabulary.notice import Notice

INSPECTORS: tuple[type[Inspector], ...] = (
    UpdateInspector,
    NoGradientInspector,
    OutputActivationInspector,
    LabelOutputInspector,
    ShapeInspector,
    ModeInspector,
    InputScaleInspector,
    TargetInspector,
    LabelInspector,
    NonFiniteInspector,
)
FIRST_STEPS = 10  # on each of which the model may have been compiled since the last one


class Inspections:
    """Runs every inspector on the steps of a training loop.

    A model whose parameters are sharded over several processes is not inspected: reading a value of a shard takes all
    processes, and only one of them inspects.

    Args:
        model: The model that is trained.
        inspectors: Classes of the inspectors.
    """

    def __init__(self, model: nn.Module, inspectors: Iterable[type[Inspector]] = INSPECTORS) -> None:
        self.model = model
        is_sharded = any_sharded(model.parameters())
        self._inspectors = [] if is_sharded else [inspector(model) for inspector in inspectors]
        self._is_compiled = False
        self.expect(0)

    def expect(self, step: int) -> None:
        """Prepare for the forward pass of `step`; a model that is compiled in place cannot be hooked unchanged.

        To find that out takes a walk over all modules, which is made only on steps on which something is hooked.
        """
        if step < FIRST_STEPS or is_inspected(step):
            self._is_compiled = is_compiled_in_place(self.model)
        if self._is_compiled:
            return
        for inspector in self._inspectors:
            inspector.expect(step)

    def step(self, view: StepView) -> list[Notice]:
        """Inspect a step after its backward pass, and prepare for the next one."""
        notices = [notice for inspector in self._inspectors for notice in inspector.inspect(view)]
        self.expect(view.step + 1)
        return notices

    def step_failed(self, view: StepView, error: BaseException) -> list[Notice]:
        """Inspect a step that raised, wherever it did."""
        return [notice for inspector in self._inspectors for notice in inspector.inspect_failure(view, error)]

    def detach(self) -> None:
        """Remove all hooks."""
        for inspector in self._inspectors:
            inspector.detach()
