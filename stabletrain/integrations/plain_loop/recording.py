"""What a plain loop's steps leave behind: signals, loss, learning rate and clipping, in the history of the run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.optim import Optimizer

from stabletrain.diagnosis.history import History, total_norm
from stabletrain.inspection.optimizers import Optimizers
from stabletrain.integrations.plain_loop.schedule import FIRST
from stabletrain.signal.layer_names import clean_name
from stabletrain.signal.layer_statistics import LayerStatistics
from stabletrain.signal.snapshot import Snapshot
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.signals import CLIP, GRADIENT, MOMENT, UPDATE

MAX_HISTOGRAMS = 24  # snapshots with histograms that are kept; beyond, every other one is dropped


class StepRecorder:
    """Adds the measurements of each step to a history, those of the optimizer's step once it is done.

    Args:
        history: Receives all measurements.
        model: The model that is trained.
        optimizers: The optimizers of the model, as far as they are known.
        given: The optimizer whose learning rate is recorded; by default the first one that is found.

    Attributes:
        first_lr: The first learning rate; None before an optimizer is known.
        loss: The loss of the last step.
        snapshots: Some snapshots with histograms, by step.
    """

    def __init__(
        self, history: History, model: nn.Module, optimizers: Optimizers, given: Optimizer | None = None
    ) -> None:
        self.first_lr: float | None = None
        self.loss: Tensor | float | None = None
        self.snapshots: dict[int, Snapshot] = {}
        self._history = history
        self._model, self._optimizers, self._given = model, optimizers, given
        self._pending: Snapshot | None = None
        self._added: set[str] = set()  # signals of the pending snapshot that are in the history
        self._norm: float | None = None
        self._lr: float | None = None
        self._num_measured = self._num_clipped = 0
        optimizers.on_first_step = self._note_first_lr

    def begin(self, snapshot: Snapshot, loss: Tensor | float | None, with_histograms: bool) -> None:
        """Take over what was measured before the optimizer's step, after `collect` for the step before."""
        self._pending, self._added = snapshot, set()
        self.loss = loss.detach() if isinstance(loss, Tensor) else loss
        if with_histograms:
            self._keep_histograms(snapshot)
        optimizer = self._given or next(iter(self._optimizers.known), None)
        if optimizer is not None:
            self._note_lr(optimizer, snapshot.step)

    def collect(self) -> None:
        """Add what is known of the last step to the history; more of it may follow, once the optimizer has stepped."""
        snapshot = self._pending
        if snapshot is None:
            return
        new = {signal: layers for signal, layers in snapshot.signals.items() if signal not in self._added}
        if UPDATE in new:
            new = self._without_unmoved(snapshot.step, new)
        if self._added:
            self._history.add_snapshot(Snapshot(snapshot.step, (), new))
        else:
            self._history.add_snapshot(Snapshot(snapshot.step, snapshot.layers, new, snapshot.units))
            self._add_loss_and_norm(snapshot)
        self._added |= {GRADIENT, *snapshot.signals}
        if CLIP in new:
            self._add_clipping(snapshot)

    def _without_unmoved(
        self, step: int, new: dict[str, Sequence[LayerStatistics]]
    ) -> dict[str, Sequence[LayerStatistics]]:
        """Leave out what the pending step did not change: parameters of other optimizers; everything, if none is known.

        Without a known optimizer, a change by hand is measured, but not that the first steps changed nothing, since an
        optimizer may yet come.
        """
        if not self._optimizers.known:
            moved = any(x.rms for x in new[UPDATE])
            dropped = (CLIP, MOMENT) if moved or step >= FIRST else (CLIP, MOMENT, UPDATE)
            return {signal: layers for signal, layers in new.items() if signal not in dropped}
        unmoved = self._optimizers.unmoved
        if not unmoved:
            return new
        paths = {clean_name(path) for path, p in self._model.named_parameters() if id(p) in unmoved}
        kept = [x for x in new[UPDATE] if x.layer.partition(".")[2] not in paths]
        return {signal: kept if signal == UPDATE else layers for signal, layers in new.items()}

    def _add_loss_and_norm(self, snapshot: Snapshot) -> None:
        self._norm = total_norm(snapshot.layers)
        scalars = {} if self._norm is None else {names.NORM_TOTAL: self._norm}
        if self.loss is not None:
            scalars[names.TRAIN_LOSS] = float(self.loss)
        self._history.add_scalars(snapshot.step, scalars)

    def _add_clipping(self, snapshot: Snapshot) -> None:
        after = total_norm(snapshot.signals[CLIP])
        if after is None or self._norm is None:
            return
        self._num_measured += 1
        self._num_clipped += after < self._norm * (1 - 1e-6)  # the norm is accurate to the six digits of float32
        scalars = {names.NORM_AFTER: after, names.CLIP_FRACTION: self._num_clipped / self._num_measured}
        self._history.add_scalars(snapshot.step, scalars)

    def _note_first_lr(self, optimizer: Optimizer) -> None:
        if self._lr is None:
            self._note_lr(optimizer, 0 if self._pending is None else self._pending.step)

    def _note_lr(self, optimizer: Optimizer, step: int) -> None:
        lr = float(optimizer.param_groups[0].get("lr", math.nan))
        if math.isfinite(lr) and lr != self._lr:
            self._lr = lr
            self.first_lr = lr if self.first_lr is None else self.first_lr
            self._history.add_scalars(step, {names.LR: lr})

    def _keep_histograms(self, snapshot: Snapshot) -> None:
        self.snapshots[snapshot.step] = snapshot
        if len(self.snapshots) > MAX_HISTOGRAMS:
            self.snapshots = {step: self.snapshots[step] for step in sorted(self.snapshots)[::2]}
