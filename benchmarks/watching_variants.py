"""Ways of watching every layer on every step: stabletrain, and other tools where they are installed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from watching_workloads import Stepper

from stabletrain.record.writer import RecordWriter
from stabletrain.signal.watch import Watch


class Variant:
    """Sets `stepper.look` in `begin` and resets it in `end`; a variant may use a stepper of its own instead."""

    title = "nothing"

    def __init__(self, stepper: Stepper, folder: Path) -> None:
        self.stepper, self.folder, self.num_looks = stepper, folder, 0

    def begin(self) -> None:
        self.stepper.look = self._look

    def end(self) -> None:
        self.stepper.look = lambda: None

    def close(self) -> None:
        """Close files."""

    def _look(self) -> None:
        self.num_looks += 1


class Histograms(Variant):
    """What one block leaves unwritten is written by the first step of the next one, so that all writing is timed."""

    title, histograms = "stabletrain, histograms", True

    def __init__(self, stepper: Stepper, folder: Path) -> None:
        super().__init__(stepper, folder)
        self._watch = Watch(stepper.model)
        self._writer = RecordWriter(folder / type(self).__name__)

    def close(self) -> None:
        self._watch.detach()
        self._writer.close()

    def _look(self) -> None:
        self._writer.write_snapshot(self._watch.step(histograms=self.histograms))


class Norms(Histograms):
    title, histograms = "stabletrain, norms", False


class PlainNorms(Variant):
    title = "`.norm().item()` per layer"

    def _look(self) -> None:
        self.norms = [p.grad.norm().item() for p in self.stepper.model.parameters() if p.grad is not None]


class TensorBoard(Variant):
    title = "TensorBoard `add_histogram`"

    def __init__(self, stepper: Stepper, folder: Path) -> None:
        super().__init__(stepper, folder)
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))
        self._named = list(stepper.model.named_parameters())

    def close(self) -> None:
        self._writer.close()

    def _look(self) -> None:
        self.num_looks += 1
        for name, parameter in self._named:
            if parameter.grad is not None:
                self._writer.add_histogram(name, parameter.grad, self.num_looks)


class WandB(Variant):
    """`watch` registers hooks on the gradients; `log` ends the step."""

    title = "W&B `watch`"

    def __init__(self, stepper: Stepper, folder: Path) -> None:
        super().__init__(stepper, folder)
        os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
        import wandb

        self._run: Any = wandb.init(dir=str(folder), mode="offline", project="watching")

    def begin(self) -> None:
        super().begin()
        self._run.watch(self.stepper.model, log="gradients", log_freq=1)

    def end(self) -> None:
        super().end()
        self._run.unwatch(self.stepper.model)

    def close(self) -> None:
        self._run.finish()

    def _look(self) -> None:
        self.num_looks += 1
        self._run.log({"step": self.num_looks})


class Cockpit(Variant):
    """Uses a model of its own, since BackPACK modifies it permanently. Bins each sample's gradient over all layers."""

    title = "Cockpit `GradHist1d`"

    def __init__(self, stepper: Stepper, folder: Path) -> None:
        super().__init__(_Extended(stepper), folder)
        self.stepper.step()  # raises if BackPACK does not support a layer

    def begin(self) -> None:
        pass

    def end(self) -> None:
        pass


class _Extended(Stepper):
    def __init__(self, stepper: Stepper) -> None:
        super().__init__(stepper.workload, stepper.device)
        from backpack import extend
        from cockpit import Cockpit as Instruments
        from cockpit.quantities import GradHist1d
        from cockpit.utils.schedules import linear

        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        self.model, self.loss_function = extend(self.model), extend(nn.CrossEntropyLoss())
        self._instruments = Instruments(list(self.model.parameters()), quantities=[GradHist1d(linear(1))])
        self._each = nn.CrossEntropyLoss(reduction="none")
        self._num_steps = 0

    def step(self) -> None:
        self.optimizer.zero_grad()
        output = self.model(self.x).flatten(0, -2)
        loss = self.loss_function(output, self.target)
        with torch.no_grad():
            losses = self._each(output, self.target)
        info = {
            "batch_size": len(self.x),
            "individual_losses": losses,
            "loss": loss,
            "optimizer": self.optimizer,
        }
        with self._instruments(self._num_steps, info=info):
            loss.backward(create_graph=self._instruments.create_graph(self._num_steps))
        self.optimizer.step()
        self._num_steps += 1


VARIANTS: tuple[type[Variant], ...] = (Norms, Histograms, PlainNorms, TensorBoard, WandB, Cockpit)


@contextmanager
def open_variants(stepper: Stepper, folder: Path) -> Iterator[tuple[dict[str, Variant], dict[str, str]]]:
    """Yield the variants that work here, and the reason for each that does not."""
    made: dict[str, Variant] = {}
    missing: dict[str, str] = {}
    stepper.step()
    for kind in VARIANTS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made[kind.title] = kind(stepper, folder)
        except Exception as error:  # not installed, or the model is not supported
            missing[kind.title] = f"{type(error).__name__}: {error}".splitlines()[0][:160]
    try:
        yield made, missing
    finally:
        for variant in made.values():
            variant.close()
