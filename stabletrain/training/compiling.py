"""`torch.compile` for a network that is watched: names, weights and checkpoints stay as they are."""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn

from stabletrain.errors import RequestError
from stabletrain.training.module import TrainingModule
from stabletrain.training.sharded import find_blocks

COMPILERS = ("c++", "g++", "clang++")


def require_compiler() -> None:
    """Raise RequestError where torch finds no C++ compiler: it would say so in the middle of the first step."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS
    if not any(shutil.which(name) for name in names):
        raise RequestError(
            "torch.compile writes C++, and this machine has no compiler for it.",
            key="compile",
            found=", ".join(names) + " not found",
            allowed="false, or true where g++ or clang++ is installed (CXX names another)",
            closest="false",
            command="compile=false",
        )


def compile_(module: pl.LightningModule, *, by_block: bool = False) -> None:
    """Compile the forward pass of a network in place: its own, of a user's LightningModule its children's.

    The modules stay the same objects, so that no name gets a prefix.

    Args:
        module: What is trained.
        by_block: Whether each block is compiled by itself: FSDP2 gathers them one by one, between the calls.
    """
    if isinstance(module, TrainingModule):
        parts = (find_blocks(module.network) if by_block else []) or [module.network]
    else:
        parts = [m for m in module.children() if next(m.parameters(), None) is not None and _is_called(m)]
    for part in parts:
        part.forward = torch.compile(part.forward)


class EagerLooks(Callback):
    """Runs the steps uncompiled on which hooks look at layers: compiled code does not call them.

    These are the first forward pass, from which the order of the layers is read, and those on which `activation` or
    `delta` is due.

    Args:
        watch: Says whether it looks at the outputs of the coming step.
    """

    def __init__(self, watch: Any) -> None:
        self._watch = watch
        self._is_first = True

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Choose for this batch."""
        is_eager = self._is_first or self._watch.looks_at_outputs
        torch.compiler.set_stance("force_eager" if is_eager else "default")
        self._is_first = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Go back to compiled code."""
        torch.compiler.set_stance("default")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Go back to compiled code."""
        torch.compiler.set_stance("default")


def _is_called(module: nn.Module) -> bool:
    return not isinstance(module, nn.ModuleList | nn.ModuleDict | nn.ParameterList | nn.ParameterDict)
