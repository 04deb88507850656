"""Lightning's trainer and the loggers of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.loggers.logger import Logger

from stabletrain.app.composition.targets import make
from stabletrain.errors import RequestError, require_choice, require_range
from stabletrain.training.sharded import ShardedStrategy

SHARDED = {"fsdp": True, "fsdp_root": False}  # strategies, and whether they gather block by block
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")


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
    check_precision(section)
    if section.get("strategy") in SHARDED:
        objects["strategy"] = ShardedStrategy(blocks=SHARDED[section["strategy"]])
    trainer = make(config["trainer"], "trainer", config["allow_targets"])(**objects)
    check_launcher(trainer)
    return trainer


def check_precision(section: Mapping[str, Any]) -> None:
    """Refuse float16 where Lightning would take another type, or none."""
    precision, accelerator = str(section.get("precision")), section.get("accelerator")
    if precision not in ("16", "16-mixed"):
        return
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.device_count())
    if on_cpu or section.get("strategy") in SHARDED:
        where = "on the CPU" if on_cpu else "under FSDP2"
        raise RequestError(
            f"Mixed precision in float16 needs a loss scaler, which Lightning does not have {where}.",
            key="trainer.precision",
            found=precision,
            allowed="bf16-mixed, 32-true" if on_cpu else "bf16-mixed, bf16-true, 32-true",
            closest="bf16-mixed",
            command="trainer.precision=bf16-mixed",
        )


def check_launcher(trainer: pl.Trainer) -> None:
    """Refuse several nodes that nobody starts: the first would wait for the others for ever."""
    place = getattr(trainer.strategy, "cluster_environment", None)
    by_hand = "MASTER_ADDR" in os.environ and {"NODE_RANK", "GROUP_RANK"} & set(os.environ)
    if trainer.num_nodes > 1 and isinstance(place, LightningEnvironment) and not by_hand:
        raise RequestError(
            "A run on several nodes is started on each of them, and this one was started by hand.",
            key="trainer.num_nodes",
            found=trainer.num_nodes,
            allowed=f"1; or on each node: torchrun --nnodes {trainer.num_nodes} --nproc-per-node "
            f"{trainer.num_devices} … -m stabletrain …, or srun (docs/cluster.md)",
            closest="1",
        )


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
