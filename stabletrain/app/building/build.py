"""Build the objects of a run from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from stabletrain.app.building.build_data import build_data
from stabletrain.app.building.build_model import build_network
from stabletrain.app.composition.targets import expected_types, make, resolve_target
from stabletrain.data import Data
from stabletrain.errors import RequestError, require_range
from stabletrain.gradient import Clip
from stabletrain.training import Schedule, TrainingModule
from stabletrain.training.callbacks.loss_logging import LogLoss
from stabletrain.training.datamodule import DataModule
from stabletrain.training.datamodule_shapes import LoadedData
from stabletrain.training.optimization.gradient_clipping import ClipGradients
from stabletrain.training.optimization.schedule import TorchSchedule


@dataclass(frozen=True)
class Built:
    """The objects of a run.

    Attributes:
        data: Training, validation and test sets.
        network: The initialized network; for a user's LightningModule, the module itself.
        module: The LightningModule that trains the network.
        datamodule: The LightningDataModule.
        clip: The gradient clipping.
        callbacks: Callbacks that a user's LightningModule needs for clipping and for its losses.
    """

    data: Data | LoadedData
    network: nn.Module
    module: pl.LightningModule
    datamodule: pl.LightningDataModule
    clip: Clip
    callbacks: tuple[Callback, ...] = ()


def build(config: Mapping[str, Any]) -> Built:
    """Build data, network and module; the weights depend only on the seed.

    Raises:
        RequestError: A section does not fit its class, or the parts do not fit one another.
    """
    pl.seed_everything(config["seed"], workers=True, verbose=False)
    data = build_data(config)
    network = build_network(config, data)
    clip = make(config["clip"], "clip", config["allow_targets"])()
    optimizer, schedule = _optimizer(config), _schedule(config)
    datamodule = data.datamodule if isinstance(data, LoadedData) else DataModule(data, seed=config["seed"])
    if isinstance(network, pl.LightningModule):
        return Built(data, network, network, datamodule, clip, (ClipGradients(clip), LogLoss()))
    module = TrainingModule(
        network,
        task=data.task,
        num_outputs=data.num_outputs,
        optimizer=optimizer,
        schedule=schedule,
        clip=clip,
        label_smoothing=config["loss"]["label_smoothing"],
    )
    return Built(data, network, module, datamodule, clip)


def _optimizer(config: Mapping[str, Any]) -> Any:
    """Return the optimizer's factory, called once on a dummy weight so that wrong settings are reported early."""
    section = config["optimizer"]
    factory = make(section, "optimizer", config["allow_targets"])
    for key, is_open in (("lr", True), ("weight_decay", False)):
        if key in section:
            require_range(f"optimizer.{key}", section[key], 0.0, open_minimum=is_open)
    if "momentum" in section:
        require_range("optimizer.momentum", section["momentum"], 0.0, 1.0, open_maximum=True)
    factory([nn.Parameter(torch.zeros(2, 2))])
    return factory


def _schedule(config: Mapping[str, Any]) -> Schedule:
    """Return the schedule; one of torch's schedulers is stepped at the end of every epoch."""
    section, allowed = config["schedule"], config["allow_targets"]
    factory = make(section, "schedule", allowed)
    target = resolve_target(section["_target_"], "schedule._target_", expected_types("schedule"), allowed)
    if not (isinstance(target, type) and issubclass(target, LRScheduler)):
        return factory()
    if issubclass(target, ReduceLROnPlateau):
        raise RequestError(
            "ReduceLROnPlateau needs a metric, which a scheduler given by name does not receive.",
            key="schedule",
            found=section["_target_"],
            allowed="plateau, which does the same for val/loss; or a scheduler that only counts steps",
            closest="plateau",
            command="schedule=plateau",
        )
    probe = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    if not isinstance(factory(probe), LRScheduler):
        raise RequestError("The schedule returns no scheduler.", key="schedule._target_", found=section["_target_"])
    return TorchSchedule(factory)
