"""Build the network of a run: a built-in model with its parts, any module, or a user's LightningModule as it is."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn

from stabletrain.app.building.build_data import accepted_forms, examples_of
from stabletrain.app.composition.targets import expected_types, make, resolve_target
from stabletrain.data import Data
from stabletrain.errors import RequestError
from stabletrain.network import Parts
from stabletrain.network.normalization import NoNorm
from stabletrain.network.residual import NoResidual
from stabletrain.network.surgery.reparametrization import find_reparametrization, reparametrize_
from stabletrain.torch_tools.isolation import preserve_rng
from stabletrain.training.datamodule_shapes import LoadedData
from stabletrain.training.lightning_internals import has_hook
from stabletrain.training.lightning_packages import is_of_other_package

_NUM_INIT_EXAMPLES = 256  # for data-dependent initialization; LSUV then knows a standard deviation to 4%
_NUM_TRIED = 2  # examples in the trial forward pass; batch norm needs two


def build_network(config: Mapping[str, Any], data: Data | LoadedData, *, initialized: bool = True) -> nn.Module:
    """Build the network, and initialize it unless its weights are loaded later.

    Raises:
        RequestError: The parts do not fit one another, the model, or the data.
    """
    parts = Parts(
        activation=_make(config, "activation"), norm=_make(config, "norm"), residual=_make(config, "residual")
    )
    parameters = parameters_of_target(config)
    _require_form(config, data, parameters)
    _require_parts(config, parts, parameters)
    offered = _offer(config, data, parts)
    network = _make(config, "model")(**{name: value for name, value in offered.items() if name in parameters})
    kind = find_reparametrization(parts.norm(1)) if _takes_any_width(parts) else None
    if initialized:
        inputs = examples_of(data, _NUM_INIT_EXAMPLES)
        _make(config, "init")()(network, activation=parts.activation(), inputs=inputs)
    if kind is not None:
        reparametrize_(network, kind)
    if is_of_other_package(network):
        raise RequestError(
            "The LightningModule belongs to the package lightning, whose trainer this is not.",
            key="model._target_",
            found=f"{type(network).__name__}, a lightning.pytorch.LightningModule",
            allowed="a LightningModule of pytorch_lightning, which has the same code, or a plain torch.nn.Module",
        )
    if isinstance(network, pl.LightningModule):
        _require_hooks(network)
    else:
        _require_weights(network)
        _try_once(network, data)
    return network


def parameters_of_target(config: Mapping[str, Any]) -> set[str]:
    """Return the names of the parameters of the model's constructor."""
    target = resolve_target(
        config["model"].get("_target_"), "model._target_", expected_types("model"), config["allow_targets"]
    )
    return set(inspect.signature(target).parameters)


def _offer(config: Mapping[str, Any], data: Data | LoadedData, parts: Parts) -> dict[str, Any]:
    """Return what is passed to a model's constructor if it has a parameter of that name."""
    num_inputs = data.num_inputs
    if accepted_forms(config) == ("vector",):
        num_inputs = math.prod(examples_of(data, 1)[0].shape)  # other forms are flattened
    return {
        "num_inputs": num_inputs,
        "num_outputs": data.num_outputs,
        "num_steps": data.num_steps,
        "parts": parts,
        "form": data.form,
        "output": ("next_step" if data.causal else "each_step") if data.per_step else "one",
    }


def _takes_any_width(parts: Parts) -> bool:
    try:
        parts.norm(1)
    except RequestError:  # a group norm does not divide one unit
        return False
    return True


def _require_form(config: Mapping[str, Any], data: Data | LoadedData, parameters: set[str]) -> None:
    wanted = accepted_forms(config)
    is_flattened = wanted == ("vector",) and "vector" not in getattr(data, "forms", ())
    if wanted and data.form not in wanted and not is_flattened:
        raise RequestError(
            f"The model takes {' or '.join(wanted)} input, but the data has {data.form} input.",
            key="data.form",
            found=config["data"].get("form"),
            allowed=f"auto, or a form of {' or '.join(wanted)} input",
            command="data.form=auto",
        )
    if data.per_step and wanted and "output" not in parameters:
        raise RequestError(
            "This data has a target at every step, but the model has one output per example.",
            key="model",
            found=config["model"]["_target_"].rpartition(".")[2],
            allowed="rnn, lstm, gru, transformer",
            closest="lstm",
            command="model=lstm",
        )


def _require_parts(config: Mapping[str, Any], parts: Parts, parameters: set[str]) -> None:
    """Refuse a norm or a residual for a model whose constructor does not take them."""
    if "parts" in parameters:
        return
    norm = config["norm"]["_target_"].rpartition(".")[2]
    residual = config["residual"]["_target_"].rpartition(".")[2]
    for key, found, is_used in (
        ("norm", norm, _takes_any_width(parts) and isinstance(parts.norm(1), NoNorm)),
        ("residual", residual, residual == NoResidual.__name__),
    ):
        if not is_used:
            raise RequestError(
                "The model's constructor takes no `parts`, so this choice would have no effect.",
                key=key,
                found=found,
                allowed="none; weight or spectral for norm; or a model whose constructor takes `parts`",
                closest="none",
                command=f"{key}=none",
            )


def _require_hooks(module: pl.LightningModule) -> None:
    """Refuse a LightningModule without the two methods that training requires."""
    missing = [name for name in ("training_step", "configure_optimizers") if not has_hook(name, module)]
    if missing:
        raise RequestError(
            "The LightningModule lacks methods that training requires.",
            key="model._target_",
            found=f"{type(module).__name__} without {' and '.join(missing)}",
            allowed="a LightningModule with training_step and configure_optimizers, or a plain torch.nn.Module",
        )


def _require_weights(network: nn.Module) -> None:
    """Refuse a network without weights to train, or with uninitialized lazy weights."""
    weights = list(network.parameters())
    if any(isinstance(w, nn.UninitializedParameter) for w in weights):
        problem, found = "The network has lazy layers, whose weights cannot be initialized.", "weights without a size"
    elif not any(w.requires_grad for w in weights):
        problem, found = (
            "The network has nothing to train.",
            f"{len(weights)} weights, all frozen" if weights else "none",
        )
    else:
        return
    raise RequestError(
        problem, key="model", found=found, allowed="weights of known size, one or more with requires_grad"
    )


def _try_once(network: nn.Module, data: Data | LoadedData) -> None:
    """Run a copy of the network on two examples, so that errors are reported before anything is written."""
    examples = examples_of(data, _NUM_TRIED)
    try:
        with preserve_rng():
            outputs = copy.deepcopy(network).train()(examples)
    except RequestError:
        raise
    except Exception as error:
        raise RequestError(
            f"The network fails on the data: {str(error).strip().splitlines()[0] if str(error) else error!r}",
            key="model",
            found=f"inputs of shape {tuple(examples.shape)}",
            allowed="a composition whose parts fit one another and the data",
        ) from error
    expected = (*examples.shape[: 2 if data.per_step else 1], data.num_outputs)
    _require_outputs(outputs, expected)


def _require_outputs(outputs: Any, expected: tuple[int, ...]) -> None:
    """Refuse outputs that do not fit the loss, or that are not connected to the weights."""
    shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else ()
    if shape != expected:
        raise RequestError(
            "The network's outputs do not have the shape that the data needs.",
            key="model",
            found=f"outputs of shape {shape or type(outputs).__name__}",
            allowed=f"shape (batch, {', '.join(map(str, expected[1:]))})",
        )
    if not outputs.requires_grad:
        raise RequestError(
            "The network's outputs have no gradient.",
            key="model",
            found=f"outputs without a gradient, {outputs.dtype}",
            allowed="floating-point outputs that depend on the weights: no detach, no argmax, no torch.no_grad",
        )


def _make(config: Mapping[str, Any], group: str) -> Any:
    return make(config[group], group, config["allow_targets"])
