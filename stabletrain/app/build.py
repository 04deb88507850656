"""From a configuration to the objects of a run."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import Logger
from torch import nn

from stabletrain.app.targets import expected_types, make, resolve_target
from stabletrain.data import Data
from stabletrain.errors import RequestError, require_choice, require_range
from stabletrain.network import Parts
from stabletrain.training import TrainingModule

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")


@dataclass(frozen=True)
class Built:
    """What a run is made of.

    Attributes:
        data: Train, validation and test sets.
        network: Initialized network.
        module: The Lightning module around it.
    """

    data: Data
    network: nn.Module
    module: TrainingModule


def build(config: Mapping[str, Any]) -> Built:
    """Build data, network and module; the weights follow from the seed.

    Raises:
        RequestError: A section does not fit what it names.
    """
    pl.seed_everything(config["seed"], workers=True, verbose=False)
    data = build_data(config)
    network = build_network(config, data)
    module = TrainingModule(
        network,
        task=data.task,
        num_outputs=data.num_outputs,
        optimizer=_optimizer(config, network),
        schedule=_make(config, "schedule")(),
        clip=_make(config, "clip")(),
    )
    return Built(data, network, module)


def build_data(config: Mapping[str, Any]) -> Data:
    """Build the data set, in the form that the model's family takes."""
    section = dict(config["data"])
    if section.get("form") == "auto":
        section["form"] = input_form(config)
    return make(section, "data", config["allow_targets"])()


def input_form(config: Mapping[str, Any]) -> str:
    """Return the form of input that the chosen family takes: vector, image or sequence."""
    target = resolve_target(
        config["model"].get("_target_"), "model._target_", expected_types("model"), config["allow_targets"]
    )
    return getattr(target, "input_form", "auto")


def build_network(config: Mapping[str, Any], data: Data) -> nn.Module:
    """Build and initialize the network."""
    parts = Parts(
        activation=_make(config, "activation"),
        norm=_make(config, "norm"),
        residual=_make(config, "residual"),
    )
    wanted = input_form(config)
    if wanted not in ("auto", data.form):
        raise RequestError(
            f"The model takes {wanted} input, the data gives {data.form} input.",
            key="data.form",
            found=config["data"].get("form"),
            allowed=f"auto, or a form of the kind {wanted}",
            command="data.form=auto",
        )
    offered = {"num_inputs": data.num_inputs, "num_outputs": data.num_outputs, "parts": parts}
    factory = _make(config, "model")
    network = factory(**{name: value for name, value in offered.items() if name in parameters_of_target(config)})
    _make(config, "init")()(network, activation=parts.activation())
    _try_once(network, data)
    return network


def parameters_of_target(config: Mapping[str, Any]) -> set[str]:
    """Return the names of the parameters that the model's class takes."""
    target = resolve_target(
        config["model"].get("_target_"), "model._target_", expected_types("model"), config["allow_targets"]
    )
    return set(inspect.signature(target).parameters)


def _try_once(network: nn.Module, data: Data) -> None:
    """Pass two examples through the network, so that what does not fit is said before anything is written."""
    examples = torch.stack([data.val[i][0] for i in range(2)])  # pyright: ignore[reportArgumentType]
    network.eval()
    try:
        with torch.no_grad():
            outputs = network(examples)
    except RequestError:
        raise
    except Exception as error:
        raise RequestError(
            f"The network cannot take the data: {error}",
            key="model",
            found=f"inputs of shape {tuple(examples.shape)}",
            allowed="a composition whose parts fit one another and the data",
        ) from error
    finally:
        network.train()
    shape = tuple(getattr(outputs, "shape", ()))
    if shape != (2, data.num_outputs):
        raise RequestError(
            "The network's outputs do not fit the data.",
            key="model",
            found=f"outputs of shape {shape or type(outputs).__name__}",
            allowed=f"shape (batch, {data.num_outputs})",
        )


def _make(config: Mapping[str, Any], group: str) -> Any:
    return make(config[group], group, config["allow_targets"])


def _optimizer(config: Mapping[str, Any], network: nn.Module) -> Any:
    """Return the optimizer's factory, tried once on a throw-away weight so that its complaints come early."""
    section = config["optimizer"]
    factory = _make(config, "optimizer")
    for key, is_open in (("lr", True), ("weight_decay", False)):
        if key in section:
            require_range(f"optimizer.{key}", section[key], 0.0, open_minimum=is_open)
    factory([nn.Parameter(torch.zeros(2, 2))])
    return factory


def build_loggers(config: Mapping[str, Any]) -> dict[str, Logger]:
    """Build the chosen loggers, by name."""
    sections = config["logger"] or {}
    return {name: make(section, f"logger.{name}", config["allow_targets"])() for name, section in sections.items()}


def build_trainer(config: Mapping[str, Any], **objects: Any) -> pl.Trainer:
    """Build Lightning's trainer.

    Args:
        config: The configuration.
        **objects: Callbacks, loggers, plugins and what else is not configuration.
    """
    section = config["trainer"]
    check_accelerator(section)
    for key, minimum in (
        ("max_epochs", -1),
        ("max_steps", -1),
        ("accumulate_grad_batches", 1),
        ("log_every_n_steps", 1),
    ):
        if isinstance(section.get(key), int):
            require_range(f"trainer.{key}", section[key], minimum)
    if section.get("gradient_clip_val") is not None:
        raise RequestError(
            "Clipping belongs to the clip group.",
            key="trainer.gradient_clip_val",
            found=section["gradient_clip_val"],
            allowed="null",
            closest="clip.max_norm",
            command=f"python -m stabletrain clip=norm clip.max_norm={section['gradient_clip_val']}",
        )
    return _make(config, "trainer")(**objects)


def check_accelerator(section: Mapping[str, Any]) -> None:
    """Refuse an accelerator or a number of devices that this machine does not have."""
    accelerator, devices = section.get("accelerator", "auto"), section.get("devices", "auto")
    num_gpus = torch.cuda.device_count()
    if isinstance(accelerator, str):
        require_choice("trainer.accelerator", accelerator, ACCELERATORS)
    if isinstance(devices, int) and devices != -1:
        require_range("trainer.devices", devices, 1)
    if accelerator in ("gpu", "cuda") and num_gpus == 0:
        raise RequestError(
            "This machine has no GPU that torch can use.",
            key="trainer",
            found=f"accelerator={accelerator}",
            allowed="auto, cpu",
            closest="auto",
            command="trainer=auto",
        )
    wanted = devices if isinstance(devices, int) else 0
    if accelerator in ("gpu", "cuda") and wanted > num_gpus:
        raise RequestError(
            "The machine has fewer GPUs.",
            key="trainer.devices",
            found=devices,
            allowed=f"1 to {num_gpus}",
            command=f"trainer.devices={num_gpus}",
        )
