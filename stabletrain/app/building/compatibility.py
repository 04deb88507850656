"""Combinations that are known to fail, which are refused, and questionable ones, which get a note."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytorch_lightning as pl
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from stabletrain.app.building.build import Built
from stabletrain.app.building.build_trainer import SHARDED
from stabletrain.data import Data, check_data
from stabletrain.errors import RequestError
from stabletrain.gradient import NoClip
from stabletrain.network.normalization import NoNorm, Norm
from stabletrain.network.normalization.step_norm import StepBatchNorm
from stabletrain.network.residual import Residual, ReZeroResidual, find_branches
from stabletrain.training import TrainingModule
from stabletrain.training.datamodule import DataModule
from stabletrain.training.optimization.gradient_clipping import require_one_clip

# Yang et al. 2019, A Mean Field Theory of Batch Normalization: the squared gradient of a plain ReLU network grows by
# π / (π − 1) = 1.467 per layer: 2,100-fold over 20 layers, and the gradient itself 46-fold.
_MAX_PLAIN_BATCH_NORM = 20


def check(config: Mapping[str, Any], built: Built, world_size: int) -> list[str]:
    """Check a built composition and return notes on what trains but is questionable.

    Args:
        config: The configuration.
        built: The objects built from it.
        world_size: Number of processes.

    Raises:
        RequestError: Something would fail during training, or silently have no effect.
    """
    if isinstance(built.data, Data):
        check_data(built.data)
        _require_data_for_all(built.data, world_size)
    if isinstance(built.datamodule, DataModule):
        built.datamodule.check(world_size)
    _require_batch_for_norm(built, world_size)
    _require_automatic_clipping(config, built)
    _require_labels_to_smooth(config, built)
    _require_moving_branches(config, built)
    notes = [note for rule in NOTES for note in rule(config, built)]
    return [*notes, *_note_processes(config, built, world_size)]


def _require_data_for_all(data: Data, world_size: int) -> None:
    for name in ("train", "val", "test"):
        size = len(getattr(data, name))
        if size < world_size:
            raise RequestError(
                f"There are more processes than {name} examples.",
                key="trainer.devices",
                found=f"{world_size} processes, {size} {name} examples",
                allowed=f"up to {size} processes",
                command=f"trainer.devices={size}",
            )


def _require_batch_for_norm(built: Built, world_size: int) -> None:
    local = built.data.batch_size // world_size
    if local <= 1 and any(isinstance(m, _BatchNorm | StepBatchNorm) for m in built.network.modules()):
        raise RequestError(
            "Batch norm needs the statistics of several examples, and each process has only one.",
            key="data.batch_size",
            found=f"{built.data.batch_size} over {world_size} process{'es' if world_size > 1 else ''}",
            allowed=f"an integer from {2 * world_size}, or a norm within single examples: norm=layer, norm=group",
            command=f"data.batch_size={2 * world_size}",
        )


def _require_automatic_clipping(config: Mapping[str, Any], built: Built) -> None:
    if not built.module.automatic_optimization and not isinstance(built.clip, NoClip):
        raise RequestError(
            "The model steps its optimizers itself (manual optimization), so gradients cannot be clipped between its "
            "backward pass and its step.",
            key="clip",
            found=config["clip"]["_target_"].rpartition(".")[2],
            allowed="none; clip inside the model with stabletrain.clip_gradients_",
            closest="none",
            command="clip=none",
        )
    if not isinstance(built.module, TrainingModule):
        require_one_clip(built.module, built.clip)


def _require_labels_to_smooth(config: Mapping[str, Any], built: Built) -> None:
    epsilon = config["loss"]["label_smoothing"]
    if epsilon and (built.data.task != "classification" or not isinstance(built.module, TrainingModule)):
        reason = "a regression has no labels" if isinstance(built.module, TrainingModule) else "the model has its own"
        raise RequestError(
            f"Label smoothing changes the loss of a classification, but {reason}.",
            key="loss.label_smoothing",
            found=epsilon,
            allowed="0 here",
            closest="0.0",
        )


def _require_moving_branches(config: Mapping[str, Any], built: Built) -> None:
    """Refuse branches whose last weight and scale are both zero: the gradient of each is then zero forever."""
    if _option(config, "init") == "Fixup" and any(isinstance(b.residual, ReZeroResidual) for b in _branches(built)):
        raise RequestError(
            "Fixup initializes the last weight of a branch to 0 and ReZero its scale: the gradient of both stays 0.",
            key="init",
            found="fixup with residual=rezero",
            allowed="fixup with residual=add, or rezero with another init",
            closest="default",
            command="init=default",
        )


def _note_identity_branches(config: Mapping[str, Any], built: Built) -> Iterator[str]:
    norms = [m for m in built.network.modules() if isinstance(m, Norm) and not isinstance(m, NoNorm)]
    if norms and _option(config, "init") == "Fixup":
        yield "init=fixup is made for networks without norm; with one it is not needed (Zhang et al. 2019)."
    if norms and _option(config, "residual") == "ReZeroResidual":
        yield "residual=rezero makes a norm unnecessary; norm=none is faster (Bachlechner et al. 2020)."


def _note_deep_batch_norm(config: Mapping[str, Any], built: Built) -> Iterator[str]:
    num_norms = sum(isinstance(m, _BatchNorm) for m in built.network.modules())
    joins = [m for m in built.network.modules() if isinstance(m, Residual)]
    has_skips = any(join.is_additive or join.join_width(join.width) != join.width for join in joins)
    if num_norms > _MAX_PLAIN_BATCH_NORM and joins and not has_skips and _option(config, "residual") == "NoResidual":
        yield (
            f"Batch norm without skips: over {num_norms} layers the gradient grows about "
            f"{1.467 ** (num_norms / 2):,.0f}-fold (Yang et al. 2019); residual=add fixes it."
        )


def _note_adaptive_clip(config: Mapping[str, Any], built: Built) -> Iterator[str]:
    if _option(config, "clip") == "AdaptiveClip" and _option(config, "norm") == "WeightNorm":
        yield (
            "clip=adaptive compares gradients with weights, but weight norm makes the size of its weights "
            "arbitrary: clip=norm is the safer limit."
        )


def _note_selu(config: Mapping[str, Any], built: Built) -> Iterator[str]:
    if _option(config, "activation") == "SELU" and _option(config, "init") != "LeCun":
        yield "activation=selu is self-normalizing only with init=lecun (Klambauer et al. 2017)."


def _note_own_optimizer(config: Mapping[str, Any], built: Built) -> Iterator[str]:
    if isinstance(built.module, pl.LightningModule) and not isinstance(built.module, TrainingModule):
        yield "The model is a LightningModule: its own optimizer, schedule and loss are used, not the configured ones."


def _note_processes(config: Mapping[str, Any], built: Built, world_size: int) -> Iterator[str]:
    strategy = config["trainer"].get("strategy")
    if world_size == 1 and strategy in ("ddp", *SHARDED):
        yield (
            f"trainer.strategy={strategy} with one device runs a single process; trainer.devices=2 runs two, "
            "also on the CPU: trainer.accelerator=cpu."
        )
    has_batch_norm = any(isinstance(m, _BatchNorm) for m in built.network.modules())
    if world_size > 1 and has_batch_norm and not config["trainer"].get("sync_batchnorm"):
        yield (
            f"Batch norm uses the {built.data.batch_size // world_size} examples of each process and not the whole "
            "batch: +trainer.sync_batchnorm=true (GPUs, ddp) uses all, norm=layer needs no statistics of the batch."
        )
    if world_size > 1 and strategy in SHARDED and _option(config, "optimizer") == "Muon":
        yield "Under FSDP2, Muon gathers every matrix on every step, and rounds to bfloat16 in a different order."
    if world_size > 1 and not isinstance(built.datamodule, DataModule):
        yield f"With your own data module, {world_size} processes make the batches {world_size} times as large."


NOTES: tuple[Callable[[Mapping[str, Any], Built], Iterator[str]], ...] = (
    _note_identity_branches,
    _note_deep_batch_norm,
    _note_adaptive_clip,
    _note_selu,
    _note_own_optimizer,
)


def _option(config: Mapping[str, Any], group: str) -> str:
    """Return the name of the class chosen in a group."""
    return str(config[group]["_target_"]).rpartition(".")[2]


def _branches(built: Built) -> list[Any]:
    network: nn.Module = built.network
    return find_branches(network)
