"""What is left of a step that stopped a run: who is to blame, and a bundle that one command replays."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DistributedSampler, SequentialSampler

from stabletrain.record.run_folder import write_json
from stabletrain.signal.offender import Offender, find_offender
from stabletrain.torch_tools.local_shards import any_sharded
from stabletrain.training.optimization.stability import NonFiniteGradient

FOLDER, BUNDLE, OFFENDER = "offender", "bundle.pt", "offender.json"
ADVANCES = ("running_mean", "running_var", "num_batches_tracked")  # buffers that a forward pass moves


@dataclass
class _Batch:
    """A micro-batch, and what the random numbers were before it."""

    batch: Any
    batch_idx: int
    random: dict[str, Tensor]


class OffenderBundle(Callback):
    """When a gradient that is not finite stops the run, finds the first offender and keeps what brings it back.

    Into `offender/` of the run's folder go

    | file | what |
    |---|---|
    | `offender.json` | the fields of `signal.offender.Offender`, `step` and `samples_are` |
    | `bundle.pt` | the batch, the weights, buffers and optimizer's state before the step, and the random state |

    `samples` are indices into the training set (`samples_are: dataset`) where the sampler's order can be had again,
    else places in the batch (`samples_are: batch`). Before anything goes wrong it keeps a reference to the batch, the
    random state and the running statistics. Under data parallelism each process goes through its own part of the
    batch; one that finds nothing there writes nothing. Parameters in shards are left alone.

    Args:
        folder: The run's folder; by default the trainer's `default_root_dir`.
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        self.folder = folder
        self.offender: Offender | None = None
        self._batches: list[_Batch] = []
        self._step = -1
        self._buffers: dict[str, Tensor] = {}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember the state before this micro-batch, and of a step's first one the running statistics."""
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            self._batches.clear()
            self._keep_buffers(pl_module)
        self._batches.append(_Batch(batch, batch_idx, random_state(pl_module.device)))

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Look for the offender, and write."""
        if not isinstance(exception, NonFiniteGradient) or not self._batches:
            return
        if any_sharded(pl_module.parameters()):
            return  # whose forward pass all processes would have to do together
        found, kept = None, self._batches[-1]
        try:
            for kept in self._batches:
                found = self._find(trainer, pl_module, kept)
                if found is not None:
                    break
        except Exception as error:  # looking must not hide what stopped the run
            warnings.warn(f"The first offender is not found: {error}", stacklevel=2)
        self.offender = found
        if found is not None or trainer.world_size == 1:
            self._write(trainer, pl_module, kept, exception.step)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let go of the batch."""
        self._batches, self._buffers, self._step = [], {}, -1

    def _find(self, trainer: pl.Trainer, pl_module: pl.LightningModule, kept: _Batch) -> Offender | None:
        optimizer = trainer.optimizers[0] if len(trainer.optimizers) == 1 else None
        with trainer.precision_plugin.train_step_context():
            return find_in_step(pl_module, kept.batch, kept.batch_idx, kept.random, optimizer)

    @torch.no_grad()
    def _keep_buffers(self, pl_module: pl.LightningModule) -> None:
        """Copy what the forward pass moves: one launch for all of it."""
        buffers = {name: b for name, b in pl_module.named_buffers() if name.rpartition(".")[2] in ADVANCES}
        if buffers.keys() != self._buffers.keys():
            self._buffers = {name: b.detach().clone() for name, b in buffers.items()}
        elif buffers:
            torch._foreach_copy_(list(self._buffers.values()), list(buffers.values()))  # pyright: ignore[reportPrivateImportUsage]

    def _write(self, trainer: pl.Trainer, pl_module: pl.LightningModule, kept: _Batch, step: int) -> None:
        folder = Path(self.folder or trainer.default_root_dir) / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        about: dict[str, Any] = (self.offender.to_dict() if self.offender else {"phase": None}) | {"step": step}
        places = about.get("samples", [])
        indices = indices_of_batch(trainer, kept.batch_idx)
        about["samples"] = [indices[i] for i in places] if indices else places
        about["samples_are"] = "dataset" if indices else "batch"
        planned = trainer.estimated_stepping_batches
        bundle = {
            "offender": about,
            "step": step,
            "batch_idx": kept.batch_idx,
            "batch": plain(kept.batch),
            "random": kept.random,
            "state_dict": pl_module.state_dict() | self._buffers,
            "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
            "precision": str(trainer.precision),
            "num_steps": float(planned),
        }
        temporary = folder / f".{BUNDLE}.{os.getpid()}"
        torch.save(bundle, temporary)
        temporary.replace(folder / BUNDLE)
        write_json(folder / OFFENDER, about)


def find_in_step(
    module: pl.LightningModule,
    batch: Any,
    batch_idx: int,
    random: Mapping[str, Tensor],
    optimizer: Optimizer | None = None,
) -> Offender | None:
    """Go through a training step of a LightningModule again; see `find_offender`. Nothing is logged.

    Args:
        module: In training mode, with the weights that the step began with.
        batch: As the step got it.
        batch_idx: As the step got it.
        random: What `random_state` returned before the step.
        optimizer: What steps the parameters.
    """
    network = getattr(module, "network", module)
    step: Callable[..., Any] = module.training_step

    def loss_fn(part: Any) -> Tensor:
        outputs = step(part, batch_idx)
        return outputs["loss"] if isinstance(outputs, Mapping) else outputs

    before = random_state(module.device)
    with silent(module):
        set_random_state(random, module.device)
        try:
            return find_offender(network, loss_fn, batch, optimizer=optimizer)
        finally:
            set_random_state(before, module.device)


@contextmanager
def silent(module: nn.Module) -> Iterator[None]:
    """Have what the module logs go nowhere."""
    names = ("log", "log_dict")
    for name in names:
        object.__setattr__(module, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name in names:
            object.__delattr__(module, name)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of torch's random numbers on the host, and on a GPU if the model is there."""
    state = {"cpu": torch.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Take up what `random_state` returned; a GPU's state only on a GPU."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def indices_of_batch(trainer: pl.Trainer, batch_idx: int) -> list[int]:
    """Return where in the training set a batch comes from; nothing where its order cannot be had again."""
    loader: Any = trainer.train_dataloader
    sampler, size = getattr(loader, "sampler", None), getattr(loader, "batch_size", None)
    if not isinstance(sampler, DistributedSampler | SequentialSampler) or not size:
        return []
    return [int(i) for i in islice(iter(sampler), batch_idx * size, (batch_idx + 1) * size)]


def plain(batch: Any) -> Any:
    """Return a batch as tensors in plain containers, which load without running code; None for what is neither."""
    if isinstance(batch, Mapping):
        return {key: plain(part) for key, part in batch.items()}
    if isinstance(batch, list | tuple):
        return [plain(part) for part in batch] if isinstance(batch, list) else tuple(map(plain, batch))
    if isinstance(batch, Tensor):
        return batch.detach()
    return batch if isinstance(batch, str | int | float | bool | type(None)) else None
