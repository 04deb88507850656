"""`torch.compile` for a watched network: parameter names and checkpoints do not change."""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from stabletrain.errors import RequestError
from stabletrain.training.lightning_packages import Callback
from stabletrain.training.module import TrainingModule
from stabletrain.training.sharded import find_blocks

COMPILERS = ("c++", "g++", "clang++")


def require_compiler() -> None:
    """Raise RequestError if there is no C++ compiler; torch itself would fail in the first training step."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS
    if not any(shutil.which(name) for name in names):
        raise RequestError(
            "torch.compile generates C++ code, and this machine has no compiler for it.",
            key="compile",
            found=", ".join(names) + " not found",
            allowed="false, or true with g++ or clang++ installed (or another, named by CXX)",
            closest="false",
            command="compile=false",
        )


def compile_(module: pl.LightningModule, *, by_block: bool = False) -> None:
    """Compile the forward pass in place: of the network, or of each child of a user's LightningModule.

    The modules stay the same objects, so that parameter names get no prefix.

    Args:
        module: The module to train.
        by_block: Whether to compile each block separately, as FSDP2 needs: it gathers the blocks between their calls.
    """
    if isinstance(module, TrainingModule):
        parts = (find_blocks(module.network) if by_block else []) or [module.network]
    else:
        parts = [m for m in module.children() if next(m.parameters(), None) is not None and _is_called(m)]
    for part in parts:
        part.forward = torch.compile(part.forward)


class EagerMeasurement(Callback):
    """Runs a step uncompiled if hooks measure its layers, since compiled code does not call hooks.

    These are the first step, whose forward pass gives the order of the layers, and those for which `activation` or
    `delta` is due.

    Args:
        watch: A `GradientWatch`, whose `measures_outputs` tells whether the next step is measured.
    """

    def __init__(self, watch: Any) -> None:
        self._watch = watch
        self._is_first = True

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Choose between eager and compiled execution of this batch."""
        is_eager = self._is_first or self._watch.measures_outputs
        torch.compiler.set_stance("force_eager" if is_eager else "default")
        self._is_first = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Return to compiled code."""
        torch.compiler.set_stance("default")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Return to compiled code."""
        torch.compiler.set_stance("default")


def _is_called(module: nn.Module) -> bool:
    return not isinstance(module, nn.ModuleList | nn.ModuleDict | nn.ParameterList | nn.ParameterDict)
