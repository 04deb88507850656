"""Watching every layer's gradient in any training loop."""

from __future__ import annotations

from torch import Tensor, nn

from stabletrain.signal.layers import ForwardOrder
from stabletrain.signal.measure import count_exponents, count_nonfinite, root_mean_square
from stabletrain.signal.snapshot import LayerStatistics, Snapshot


class Watch:
    """Measures the gradient of every parameter of a model; changes nothing.

    Call `step()` after `backward()` and before `optimizer.step()`. Layers are named in the order of the first
    forward pass after the watch was made. Parameters without a gradient (frozen, unused) are left out.

    Args:
        model: Any `torch.nn.Module`.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 2)
        >>> watch = Watch(model)
        >>> model(torch.ones(4, 3)).sum().backward()
        >>> [(layer.layer, round(layer.rms, 3)) for layer in watch.step().layers]
        [('L00.weight', 4.0), ('L01.bias', 4.0)]
    """

    def __init__(self, model: nn.Module) -> None:
        self._order = ForwardOrder(model)
        self._parameters: dict[str, nn.Parameter] | None = None
        self._step = 0

    @property
    def layers(self) -> list[str]:
        """Layer names in forward order, as far as it is known; `step` fixes it."""
        return list(self._parameters or self._order.named_parameters())

    def step(self, *, histograms: bool = True, step: int | None = None) -> Snapshot:
        """Measure all gradients as they are now.

        Args:
            histograms: Whether to count the distributions too.
            step: Number of this step; by default one more than the last.

        Returns:
            Statistics per layer, in forward order.
        """
        self._step = self._step if step is None else step
        measured = tuple(
            measure_layer(name, parameter.grad, histograms)
            for name, parameter in self._named_parameters().items()
            if parameter.grad is not None and parameter.requires_grad  # frozen later: its last gradient may linger
        )
        snapshot = Snapshot(self._step, measured)
        self._step += 1
        return snapshot

    def detach(self) -> None:
        """Remove what is left of the hooks."""
        self._order.detach()

    def _named_parameters(self) -> dict[str, nn.Parameter]:
        if self._parameters is None:
            self._order.detach()
            self._parameters = self._order.named_parameters()
        return self._parameters


def measure_layer(name: str, gradient: Tensor, histograms: bool) -> LayerStatistics:
    """Return the statistics of one gradient of any shape; of a sparse one its values, of a complex one |g|."""
    if gradient.is_sparse:
        gradient = gradient.coalesce().values()
    if gradient.is_complex():
        gradient = gradient.abs()
    histogram = count_exponents(gradient) if histograms else None
    rms = root_mean_square(gradient)
    if histogram is not None:
        num_nonfinite = histogram.num_nonfinite
    else:
        num_nonfinite = count_nonfinite(gradient)
    return LayerStatistics(name, gradient.numel(), rms, num_nonfinite, histogram)
