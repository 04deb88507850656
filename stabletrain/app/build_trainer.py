"""Lightning's trainer and the loggers of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import Logger

from stabletrain.app.targets import make
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
    if section.get("strategy") in SHARDED:
        objects["strategy"] = ShardedStrategy(blocks=SHARDED[section["strategy"]])
    return make(config["trainer"], "trainer", config["allow_targets"])(**objects)


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
