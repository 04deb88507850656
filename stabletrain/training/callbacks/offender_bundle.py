"""On a non-finite gradient, find the first offending tensor and save a bundle that `diagnose --replay` can rerun."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DistributedSampler, SequentialSampler

from stabletrain.record.run_folder import write_json
from stabletrain.signal.offender import Offender, find_offender
from stabletrain.torch_tools.isolation import preserve_rng
from stabletrain.torch_tools.local_shards import any_sharded
from stabletrain.training.callbacks.gradient_watch import events_folder
from stabletrain.training.lightning_internals import muted
from stabletrain.training.lightning_packages import Callback
from stabletrain.training.optimization.stability import NonFiniteGradient
from stabletrain.training.step_numbers import trained_network
from stabletrain.vocabulary.origins import OF_BATCH, OF_DATASET, SAMPLES_ARE

FOLDER, BUNDLE, OFFENDER = "offender", "bundle.pt", "offender.json"
RUNNING = ("running_mean", "running_var", "num_batches_tracked")  # buffers that a forward pass updates


@dataclass
class _Batch:
    """A micro-batch and the state of the random number generators before it."""

    batch: Any
    batch_idx: int
    random: dict[str, Tensor]


class OffenderBundle(Callback):
    """Finds the first non-finite tensor when a non-finite gradient stops the run, and saves what reproduces it.

    It writes to `offender/` in the run's folder

    | file | content |
    |---|---|
    | `offender.json` | the fields of `signal.offender.Offender`, `step` and `samples_are` |
    | `bundle.pt` | the batch; weights, buffers, optimizer state and random number generators before the step |

    `samples` are indices into the training set (`samples_are: dataset`) if the sampler's order can be reproduced, else
    positions in the batch (`samples_are: batch`). While all is finite, the callback keeps only a reference to the
    batch, the state of the generators and a copy of the running statistics. Under data parallelism each process
    searches its own part of the batch and writes nothing if it finds nothing. With sharded parameters nothing is done.

    Args:
        folder: The run's folder; by default the trainer's log folder.

    Attributes:
        offender: The first tensor that is not finite; None before, and if there is none.
        about: The content of `offender.json`; empty before.

    Example:
        trainer = pl.Trainer(callbacks=[st.callbacks.OffenderBundle("runs/mine")])
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        self.folder = folder
        self.offender: Offender | None = None
        self.about: dict[str, Any] = {}
        self._leave_training()

    def _leave_training(self) -> None:
        self._batches: list[_Batch] = []
        self._step = -1
        self._buffers: dict[str, Tensor] = {}
        self._owners: dict[str, tuple[nn.Module, str]] | None = None

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look for running statistics anew: a callback may have changed the model."""
        self._owners = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the state before this micro-batch; before the first one of a step, also the running statistics."""
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            self._batches.clear()
            self.about = {}
            self._keep_buffers(pl_module)
        self._batches.append(_Batch(batch, batch_idx, random_state(pl_module.device)))

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Find the offender and write both files, once."""
        if not isinstance(exception, NonFiniteGradient) or not self._batches or self.about:
            return
        if any_sharded(pl_module.parameters()):
            return  # a forward pass with sharded parameters needs all processes
        found, kept = None, self._batches[-1]
        try:
            for kept in self._batches:
                found = self._find(trainer, pl_module, kept)
                if found is not None:
                    break
        except Exception as error:  # a failed search must not hide what stopped the run
            warnings.warn(f"The search for the first non-finite tensor failed: {error}", stacklevel=2)
        self.offender = found
        if found is not None or trainer.world_size == 1:
            self._write(trainer, pl_module, kept, exception.step)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Release the batch."""
        self._leave_training()

    def _find(self, trainer: pl.Trainer, pl_module: pl.LightningModule, kept: _Batch) -> Offender | None:
        optimizer = trainer.optimizers[0] if len(trainer.optimizers) == 1 else None
        with trainer.precision_plugin.train_step_context():
            return find_in_step(pl_module, kept.batch, kept.batch_idx, kept.random, optimizer)

    @torch.no_grad()
    def _keep_buffers(self, pl_module: pl.LightningModule) -> None:
        """Copy what the forward pass updates, in one kernel launch."""
        if self._owners is None:
            self._owners = find_running(pl_module)
        buffers = {name: getattr(owner, key) for name, (owner, key) in self._owners.items()}
        if buffers.keys() != self._buffers.keys():
            self._buffers = {name: b.detach().clone() for name, b in buffers.items()}
        elif buffers:
            # private in torch 2.13.0, but what its optimizers use: one launch for all tensors
            torch._foreach_copy_(list(self._buffers.values()), list(buffers.values()))  # pyright: ignore[reportPrivateImportUsage]

    def _write(self, trainer: pl.Trainer, pl_module: pl.LightningModule, kept: _Batch, step: int) -> None:
        folder = Path(self.folder or events_folder(trainer).parent) / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        about: dict[str, Any] = (self.offender.to_dict() if self.offender else {"phase": None}) | {"step": step}
        places = about.get("samples", [])
        indices = indices_of_batch(trainer, kept.batch_idx)
        about["samples"] = [indices[i] for i in places] if indices else places
        about[SAMPLES_ARE] = OF_DATASET if indices else OF_BATCH
        self.about = about
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


def find_running(module: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Return the module and the attribute of each running statistic, by its name."""
    names = [name for name, _ in module.named_buffers() if name.rpartition(".")[2] in RUNNING]
    return {name: (module.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in names}


def find_in_step(
    module: pl.LightningModule,
    batch: Any,
    batch_idx: int,
    random: Mapping[str, Tensor],
    optimizer: Optimizer | None = None,
) -> Offender | None:
    """Rerun a training step of a LightningModule and return the first non-finite tensor; see `find_offender`.

    Nothing is logged, and the random number generators are restored.

    Args:
        module: In training mode, with the weights from before the step.
        batch: The batch of the step.
        batch_idx: Its index.
        random: What `random_state` returned before the step.
        optimizer: The optimizer of the parameters.

    Returns:
        The offender; None if everything is finite.
    """
    network = trained_network(module)
    step: Callable[..., Any] = module.training_step

    def loss_fn(part: Any) -> Tensor:
        outputs = step(part, batch_idx)
        return outputs["loss"] if isinstance(outputs, Mapping) else outputs

    with preserve_rng(), muted(module):
        set_random_state(random, module.device)
        return find_offender(network, loss_fn, batch, optimizer=optimizer)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of torch's CPU generator and, if the model is on a GPU, of that GPU's generator."""
    state = {"cpu": torch.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore what `random_state` returned; a GPU's state is skipped if `device` is not a GPU."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def indices_of_batch(trainer: pl.Trainer, batch_idx: int) -> list[int]:
    """Return the indices of a batch in the training set; empty if the sampler's order cannot be reproduced."""
    loader: Any = trainer.train_dataloader
    sampler, size = getattr(loader, "sampler", None), getattr(loader, "batch_size", None)
    if not isinstance(sampler, DistributedSampler | SequentialSampler) or not size:
        return []
    return [int(i) for i in islice(iter(sampler), batch_idx * size, (batch_idx + 1) * size)]


def plain(batch: Any) -> Any:
    """Return a batch with plain containers, loadable by `weights_only=True`; anything else becomes None."""
    if isinstance(batch, Mapping):
        return {key: plain(part) for key, part in batch.items()}
    if isinstance(batch, list | tuple):
        return [plain(part) for part in batch] if isinstance(batch, list) else tuple(map(plain, batch))
    if isinstance(batch, Tensor):
        return batch.detach()
    return batch if isinstance(batch, str | int | float | bool | type(None)) else None
