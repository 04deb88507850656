"""Build Lightning's trainer and the loggers of a run."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.loggers.logger import Logger

from stabletrain.app.composition.targets import make
from stabletrain.errors import RequestError, require_choice, require_range
from stabletrain.training.lean_hooks import NoProfiler
from stabletrain.training.sharded import ShardedStrategy

SHARDED = {"fsdp": True, "fsdp_root": False}  # strategies, and whether they gather the parameters block by block
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
NO_LIMIT = -1  # Lightning's word for trainer.max_epochs and trainer.max_steps
OPTIONAL_PACKAGES = {"pytorch_lightning.loggers.WandbLogger": "wandb"}  # by target; the extra has the package's name


def build_loggers(config: Mapping[str, Any]) -> dict[str, Logger]:
    """Build the chosen loggers, by name.

    Raises:
        RequestError: A section does not fit its class, or the package that the class needs is not installed.
    """
    sections = config["logger"] or {}
    for name, section in sections.items():
        _require_package(f"logger.{name}", section)
    return {name: make(section, f"logger.{name}", config["allow_targets"])() for name, section in sections.items()}


def _require_package(key: str, section: Any) -> None:
    target = section.get("_target_") if isinstance(section, Mapping) else None
    package = OPTIONAL_PACKAGES.get(str(target))
    if package is not None and importlib.util.find_spec(package) is None:
        raise RequestError(
            f"This logger needs the package {package}.",
            key=key,
            found="not installed",
            allowed=f"an environment with {package}, or another logger: default, tensorboard, mlflow, csv, none",
            command=f"python -m pip install 'stabletrain[{package}]'",
        )


def build_trainer(config: Mapping[str, Any], **objects: Any) -> pl.Trainer:
    """Build Lightning's trainer.

    Args:
        config: The configuration.
        **objects: Callbacks, loggers, plugins and other arguments that are objects rather than configuration.

    Raises:
        RequestError: A setting is out of range, or this machine cannot do what it asks for.
    """
    section = config["trainer"]
    check_accelerator(section)
    check_lengths(section)
    if section.get("gradient_clip_val") is not None:
        raise RequestError(
            "Gradient clipping is configured in the group clip.",
            key="trainer.gradient_clip_val",
            found=section["gradient_clip_val"],
            allowed="null",
            closest="clip.max_norm",
            command=f"python -m stabletrain clip=norm clip.max_norm={section['gradient_clip_val']}",
        )
    check_precision(section)
    if section.get("strategy") in SHARDED:
        objects["strategy"] = ShardedStrategy(blocks=SHARDED[section["strategy"]])
    if section.get("profiler") is None:
        objects["profiler"] = NoProfiler()
    trainer = make(_without_reset(section), "trainer", config["allow_targets"])(**objects)
    check_launcher(trainer)
    return trainer


def _without_reset(section: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out `deterministic: false` where it would change nothing: torch imports its compiler to be told so."""
    is_needless = section.get("deterministic") is False and not torch.are_deterministic_algorithms_enabled()
    return {key: value for key, value in section.items() if not (is_needless and key == "deterministic")}


def check_lengths(section: Mapping[str, Any]) -> None:
    """Refuse counts that would train nothing, or that Lightning would misread."""
    for key in ("max_epochs", "max_steps"):
        value = section.get(key)
        if isinstance(value, int) and value < 1 and value != NO_LIMIT:
            raise RequestError(
                "The run would not train a single step." if value == 0 else f"trainer.{key} is out of range.",
                key=f"trainer.{key}",
                found=value,
                allowed=f"an integer from 1, or {NO_LIMIT} for no limit",
            )
    for key in ("accumulate_grad_batches", "log_every_n_steps"):
        if isinstance(section.get(key), int):
            require_range(f"trainer.{key}", section[key], 1)


def check_precision(section: Mapping[str, Any]) -> None:
    """Refuse float16 where Lightning would use another type or no loss scaler."""
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
    """Refuse several nodes without a launcher: the first process would wait for the others forever."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    by_hand = "MASTER_ADDR" in os.environ and {"NODE_RANK", "GROUP_RANK"} & set(os.environ)
    if trainer.num_nodes > 1 and isinstance(environment, LightningEnvironment) and not by_hand:
        raise RequestError(
            "A run on several nodes has to be started on each of them, and this one was started by hand.",
            key="trainer.num_nodes",
            found=trainer.num_nodes,
            allowed=f"1; or on each node: torchrun --nnodes {trainer.num_nodes} --nproc-per-node "
            f"{trainer.num_devices} … -m stabletrain …, or srun (docs/cluster.md)",
            closest="1",
        )


def check_accelerator(section: Mapping[str, Any]) -> None:
    """Refuse an accelerator or a number of devices that this machine lacks."""
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
            "This machine has fewer GPUs.",
            key="trainer.devices",
            found=devices,
            allowed=f"1 to {num_gpus}",
            command=f"trainer.devices={num_gpus}",
        )
