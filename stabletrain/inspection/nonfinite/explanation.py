"""Where a non-finite value comes from, as the evidence of a finding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from stabletrain.vocabulary import origins

MAX_SAMPLES = 32  # reported at most


@dataclass(frozen=True)
class Explanation:
    """The origin of a non-finite value.

    Attributes:
        origin: One of `vocabulary.origins.ORIGINS`; None if it is not known.
        why: The reason, in words.
        phase: `forward` or `backward`; None for weights.
        operation: Name of autograd's node, such as `SqrtBackward0`, or of the optimizer.
        module: Path of the module; the model's class name for its own `forward`; None for code outside of the model.
        layer: Name of the layer, as in the activation signal; None if the module is none.
        line: Line of the user's code.
        tensor: Name of the tensor at fault.
        dtype: Data type of the value.
        samples: Indices into the batch.
        reproducible: Whether a replay of the step gave a non-finite value again; None if it was not replayed.
        more: Further evidence.
    """

    origin: str | None
    why: str
    phase: str | None = None
    operation: str | None = None
    module: str | None = None
    layer: str | None = None
    line: str | None = None
    tensor: str | None = None
    dtype: str | None = None
    samples: tuple[int, ...] = ()
    reproducible: bool | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    def evidence(self) -> dict[str, Any]:
        """Return the evidence of a notice, without what is not known; `origin`, `operation`, `module` always."""
        found = {
            origins.ORIGIN: self.origin,
            origins.OPERATION: self.operation,
            origins.MODULE: self.module,
            origins.LINE: self.line,
            origins.WHY: self.why,
            origins.PHASE: self.phase,
            origins.TENSOR: self.tensor,
            origins.DTYPE: self.dtype,
            origins.SAMPLES: list(self.samples),
            origins.REPRODUCIBLE: self.reproducible,
            **self.more,
        }
        always = (origins.ORIGIN, origins.OPERATION, origins.MODULE)
        return {key: value for key, value in found.items() if key in always or value not in (None, [])}


def bad_samples(x: Tensor, length: int | None = None) -> tuple[int, ...]:
    """Return the indices along the first axis at which a tensor is not finite.

    Args:
        x: The tensor.
        length: Number of samples; the result is empty if the tensor does not have as many rows.
    """
    if x.dim() == 0 or (length is not None and len(x) != length):
        return ()
    rows = ~x.detach().isfinite()
    rows = rows.flatten(1).any(1) if x.dim() > 1 else rows
    return tuple(rows.nonzero().flatten()[:MAX_SAMPLES].tolist())
