"""Data-dependent initialization: the output of every layer is scaled to unit variance on a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from stabletrain.errors import RequestError, require_range
from stabletrain.network.activation import Activation
from stabletrain.network.initialization import fill
from stabletrain.network.initialization.base import Initialization, Inputs, reset_biases_
from stabletrain.network.introspection.weights import find_blocks, find_weights, is_transposed_linear
from stabletrain.torch_tools.isolation import isolated


class LSUV(Initialization):
    """Orthonormal weights, then W ← W / √Var(output), layer by layer, until |Var − 1| < tolerance.

    Linear and convolutional layers are scaled, and the output projection of torch's attention; a layer that is called
    more than once is scaled by its first output. Recurrent layers stay orthonormal: their outputs are bounded (tanh,
    sigmoid), and one weight acts at every step. So do weights that are used outside of their layer's own forward, and
    layers whose outputs are constant or not finite. Biases are 0, except for the forget gate.

    A layer without biases is linear in its weight, so its output is scaled within the same pass, and one pass settles
    all layers; the next ones verify. The passes run in evaluation mode, without dropout; modes, buffers (the running
    statistics of batch norm) and torch's random state are restored.

    Args:
        tolerance: Of the variance, above 0; 0.1 in the paper.
        max_tries: Number of passes at most, from 1; 10 in the authors' code.

    Raises:
        RequestError: No inputs are given.

    References:
        Mishkin and Matas 2016, All You Need Is a Good Init, algorithm 1.
    """

    option: ClassVar[str] = "lsuv"

    def __init__(self, tolerance: float = 0.1, max_tries: int = 10) -> None:
        self.tolerance = require_range("tolerance", tolerance, 0.0, open_minimum=True)
        self.max_tries = require_range("max_tries", max_tries, 1)

    def apply_(self, module: nn.Module, activation: Activation | None, inputs: Inputs | None) -> None:
        """Fill the weights of `module` and scale them by the outputs of its layers on `inputs`."""
        if inputs is None:
            raise RequestError(
                "lsuv measures the outputs of the layers on a batch, and none was given.",
                key="inputs",
                found=None,
                allowed='a batch for the module: initialize_(module, "lsuv", inputs=x)',
            )
        for block in find_blocks(module):
            if block.weight.numel():
                fill.orthogonal_(block.weight)
        reset_biases_(module)
        layers = _find_scalable(module)
        with isolated(module):
            module.eval()
            for _ in range(self.max_tries):
                if not self._pass(module, inputs, layers):
                    break

    def _pass(self, module: nn.Module, inputs: Inputs, layers: dict[nn.Module, Tensor]) -> bool:
        """Run the batch through `module`, scale the layers on the way, and return whether any needed it."""
        seen: set[nn.Module] = set()
        scaled: list[nn.Module] = []

        def scale(layer: nn.Module, args: Any, output: Any) -> Any:
            first = output[0] if isinstance(output, tuple) else output
            if layer in seen or not isinstance(first, Tensor) or not first.numel():
                return None
            seen.add(layer)
            variance = float(first.float().var(correction=0))
            if abs(variance - 1) < self.tolerance or not 0 < variance < float("inf"):
                return None
            layers[layer].mul_(variance**-0.5)
            scaled.append(layer)
            first = first * variance**-0.5
            return (first, *output[1:]) if isinstance(output, tuple) else first

        handles = [layer.register_forward_hook(scale) for layer in layers]
        try:
            _call(module, inputs)
        finally:
            for handle in handles:
                handle.remove()
        return bool(scaled)


def _call(module: nn.Module, inputs: Inputs) -> None:
    if isinstance(inputs, Tensor):
        module(inputs)
    elif isinstance(inputs, Mapping):
        module(**inputs)
    else:
        module(*inputs)


def _find_scalable(module: nn.Module) -> dict[nn.Module, Tensor]:
    """Return each layer whose output is linear in a weight of its own, and that weight."""
    found: dict[nn.Module, Tensor] = {}
    weights = {(owner, name): weight for owner, name, weight in find_weights(module)}
    for (owner, name), weight in weights.items():
        plain = isinstance(owner, (nn.Linear, _ConvNd)) or is_transposed_linear(owner)
        if plain and name == "weight" and not isinstance(owner, NonDynamicallyQuantizableLinear):
            found[owner] = weight
    for owner in module.modules():
        if isinstance(owner, nn.MultiheadAttention) and (owner.out_proj, "weight") in weights:
            found[owner] = weights[owner.out_proj, "weight"]  # attention uses this weight without calling the layer
    return found
