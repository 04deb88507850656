"""A callback for the Hugging Face `Trainer`. Needs the extra `huggingface`."""

from __future__ import annotations

import atexit
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from stabletrain.diagnosis.coverage import find_unseen, is_unknown
from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.findings_text import describe
from stabletrain.diagnosis.history import finite_scalars
from stabletrain.diagnosis.recorded_run import observe
from stabletrain.errors import require_choice, require_range
from stabletrain.inspection.inspections import Inspections
from stabletrain.inspection.inspector import StepView
from stabletrain.inspection.prior_loss import PriorLoss
from stabletrain.record.bounded_reader import load_bounded
from stabletrain.record.run_folder import RunFolder
from stabletrain.record.writer import RecordWriter
from stabletrain.signal.cadence import is_due
from stabletrain.signal.layer_names import clean_name
from stabletrain.signal.snapshot import Snapshot
from stabletrain.signal.watch import Watch
from stabletrain.torch_tools.frozen import frozen_share
from stabletrain.torch_tools.traceback_values import find_nonfinite
from stabletrain.torch_tools.weight_gain import weight_gain
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.clients import HUGGINGFACE
from stabletrain.vocabulary.finding import verdict_of
from stabletrain.vocabulary.signals import ACTIVATION, DELTA, GRADIENT, SIGNALS, UNITS, UPDATE
from stabletrain.vocabulary.statuses import FAILED, FINISHED, RUNNING
from stabletrain.vocabulary.usual_names import usual_name

try:
    from transformers import TrainerCallback

    from stabletrain.integrations.accelerator_calls import AcceleratorCalls
except ImportError as error:
    raise ImportError(
        f"stabletrain.integrations.huggingface needs the package transformers, which cannot be imported: {error}. "
        "Install it with  python -m pip install 'stabletrain[huggingface]'"
    ) from error

MEASURED = (GRADIENT, DELTA, ACTIVATION, UPDATE, UNITS)  # what the rules read
MAX_WAITING = 10  # steps whose loss is read and written together
FIRST_STEPS = 10  # on which all signals are measured: a rate that is too high shows most on the first ones


class WatchCallback(TrainerCallback):
    """Records every layer of the model during training and prints the doctor's findings at the end. Observes only.

    The `Trainer` invokes callbacks after clipping, so `gradient` is the clipped gradient; clipping by norm scales all
    layers by the same factor. `max_grad_norm=0` in the training arguments turns clipping off. The loss, the total norm
    before and after clipping and the learning rate are those of every step, whatever `logging_steps` is: they are noted
    as they pass through `Accelerator.backward` and `clip_grad_norm_`. Metrics of the evaluation are recorded as the
    `Trainer` logs them: `eval_loss` as `val/loss`, `eval_accuracy` as `val/accuracy`.

    The loss at chance level is inferred from the outputs of the first steps and their gradients, for the usual losses.

    If training raises, the run is diagnosed when Python exits.

    Args:
        output_dir: The run's folder; by default the trainer's `output_dir`. The record is written to `tensorboard/` in
            it.
        statistics_every: Steps between two measurements of the gradient; 0 for never.
        histograms_every: Steps between two histograms; 0 for never.
        signals: Signals to measure: `gradient` and any of `delta`, `activation`, `weight`, `update`, `moment`, `clip`,
            `units`.
        signals_every: Steps between two measurements of the signals other than the gradient, after the first ten
            steps, all of which are measured; 0 for never.

    Raises:
        RequestError: An unknown signal, or a negative number of steps.

    Example:
        trainer = Trainer(model, arguments, train_dataset=dataset, callbacks=[WatchCallback()])
    """

    def __init__(
        self,
        output_dir: Path | str | None = None,
        *,
        statistics_every: int = 1,
        histograms_every: int = 50,
        signals: Sequence[str] = MEASURED,
        signals_every: int = 10,
    ) -> None:
        self.output_dir = output_dir
        self.statistics_every = require_range("statistics_every", statistics_every, 0)
        self.histograms_every = require_range("histograms_every", histograms_every, 0)
        self.signals = tuple(require_choice("signals", signal, SIGNALS) for signal in signals)
        self.signals_every = require_range("signals_every", signals_every, 0)
        self.folder: RunFolder | None = None
        self._watch: Watch | None = None
        self._writer: RecordWriter | None = None
        self._snapshot: Snapshot | None = None
        self._calls = AcceleratorCalls()
        self._inspections: Inspections | None = None
        self._prior: PriorLoss | None = None
        self._num_micro = 1  # batches in one step
        self._optimizer: Optimizer | None = None
        self._waiting: list[tuple[int, dict[str, Any]]] = []  # scalars to be written, the loss as a tensor
        self._num_nonfinite: dict[str, int] = {}
        self._num_clipped = self._num_steps = 0
        self._lr: float | None = None
        self._start_s = self._seconds = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Attach to the model and open the record."""
        model = kwargs["model"]
        optimizer = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])  # unwrap Accelerate's
        self._watch = Watch(model, optimizer=optimizer, signals=self.signals)
        self._watch.expect(taps=False)
        self._optimizer, self._lr, self._num_clipped, self._num_steps = optimizer, None, 0, 0
        if state.is_world_process_zero:
            self.folder = RunFolder(self.output_dir or args.output_dir)
            self._writer = RecordWriter(self.folder.events)
            self._writer.prepare()
            about = {"model_class": type(model).__name__, "max_grad_norm": args.max_grad_norm}
            size = sum(p.numel() for p in model.parameters())
            dims = {clean_name(path): p.dim() for path, p in model.named_parameters()}
            planned = {"num_steps": state.max_steps, "num_dims": dims, "client": HUGGINGFACE}
            planned["frozen_share"] = frozen_share(model)
            planned["weight_gain"] = weight_gain(model)
            self._writer.write_info({"parameters": about, "num_parameters": size, "training": planned})
            self.folder.update_summary(status=RUNNING, verdict=None, steps=state.global_step)
            self._inspections = Inspections(model)
            self._prior = PriorLoss([model])
            self._prior.open()
            self._calls.after_backward = self._see_outputs
            self._calls.open()
            atexit.register(self._conclude_at_exit)
        self._start_s, self._seconds = time.perf_counter(), 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Register the hooks if the next step is due; they stay for all its micro-batches."""
        if self._watch is not None and state.is_world_process_zero:
            step = state.global_step
            self._watch.expect(self._measures_all(step), histograms=is_due(step, self.histograms_every))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure if this step is due, and inspect it."""
        step = state.global_step
        if self._inspections is not None and self._writer is not None:
            optimizers = () if self._optimizer is None else (self._optimizer,)
            for notice in self._inspections.step(StepView(step, kwargs["model"], self._calls.graph, optimizers)):
                self._writer.write_notice(notice)
            self._note_step(step, float(args.max_grad_norm or 0.0))
        histograms = is_due(step, self.histograms_every)
        if self._watch is None or not (histograms or is_due(step, self.statistics_every)):
            return
        if self._writer is not None or self._watch.is_sharded:
            start = time.perf_counter()
            others = self._measures_all(step)
            self._snapshot = self._watch.step(histograms=histograms, step=step, others=others)
            self._seconds += time.perf_counter() - start

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the snapshot, including the signals of the optimizer's step."""
        snapshot, self._snapshot = self._snapshot, None
        if snapshot is not None and self._writer is not None:
            start = time.perf_counter()
            self._writer.write_snapshot(snapshot)
            self._seconds += time.perf_counter() - start

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Record the metrics of an evaluation."""
        if self._writer is not None and logs:
            found = {ours: float(logs[name]) for name in logs if (ours := _of_evaluation(name)) is not None}
            self._write_waiting()
            self._writer.write_scalars(max(0, state.global_step - 1), finite_scalars(found, self._num_nonfinite))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Detach from the model, diagnose, and print the findings."""
        self._end(FINISHED, state.global_step)

    def _conclude_at_exit(self) -> None:
        """Diagnose a run that raised."""
        error = getattr(sys, "last_value", None)  # the exception that ended the program
        if self._writer is not None and self._inspections is not None and error is not None:
            optimizers = () if self._optimizer is None else (self._optimizer,)
            view = StepView(self._num_steps, self._inspections.model, self._calls.graph, optimizers)
            for notice in self._inspections.step_failed(view, error):
                self._writer.write_notice(notice)
        if self._writer is not None and error is not None and find_nonfinite(error) is not None:
            self._waiting.append((self._num_steps, {names.TRAIN_LOSS: math.nan}))
        self._end(FAILED, self._num_steps)

    def _end(self, status: str, num_steps: int) -> None:
        atexit.unregister(self._conclude_at_exit)
        if self._watch is not None:
            self._seconds += self._watch.tap_seconds
            self._watch.detach()
        if self._inspections is not None:
            self._inspections.detach()
        self._calls.close()
        if self._writer is not None:
            self._write_waiting()
            self._write_prior_loss(self._writer)
            self._writer.close()
            self._conclude(status, num_steps)
        if self._prior is not None:
            self._prior.close()
        self._watch = self._writer = self._snapshot = self._inspections = self._optimizer = self._prior = None

    def _write_prior_loss(self, writer: RecordWriter) -> None:
        """Write the loss at chance level; that of a step is the sum over its micro-batches."""
        if self._prior is not None and self._prior.value is not None:
            known = {"prior_loss": self._prior.value * self._num_micro, "prior_is_measured": True}
            writer.write_info(writer.info | {"training": writer.info["training"] | known})

    def _measures_all(self, step: int) -> bool:
        """Return whether all signals are measured on a step."""
        return is_due(step, self.signals_every) or (self.signals_every > 0 and step < FIRST_STEPS)

    def _see_outputs(self, loss: Tensor) -> None:
        """Infer the targets of a micro-batch after its backward pass."""
        if self._prior is not None:
            self._prior.see(loss)
            self._prior.open()

    def _note_step(self, step: int, max_norm: float) -> None:
        """Note the loss, the norms and the learning rate of a step that is about to be taken."""
        self._num_micro = max(1, self._calls.num_losses)
        loss, norm = self._calls.take()
        self._num_steps = step + 1
        scalars: dict[str, Any] = {} if loss is None else {names.TRAIN_LOSS: loss}
        if norm is not None:
            scalars[names.NORM_TOTAL] = norm
            if max_norm > 0:
                scalars[names.NORM_AFTER] = max_norm  # the smaller one of the two, once they are read
        lr = float(self._optimizer.param_groups[0].get("lr", math.nan)) if self._optimizer is not None else math.nan
        if math.isfinite(lr) and lr != self._lr:
            self._lr = scalars[names.LR] = lr
        if scalars:
            self._waiting.append((step, scalars))
        if len(self._waiting) >= MAX_WAITING:
            self._write_waiting()

    def _write_waiting(self) -> None:
        if self._writer is not None and self._waiting:
            self._writer.write_steps([(step, self._read(scalars)) for step, scalars in self._waiting])
        self._waiting.clear()

    def _read(self, scalars: Mapping[str, Any]) -> dict[str, float]:
        """Return the numbers of one step as the record keeps them."""
        read = {name: float(value) for name, value in scalars.items()}
        if names.NORM_AFTER in read:
            before, limit = read[names.NORM_TOTAL], read[names.NORM_AFTER]
            self._num_clipped += before > limit
            read[names.NORM_AFTER] = min(before, limit)
            read[names.CLIP_FRACTION] = self._num_clipped / max(self._num_steps, 1)
        if names.NORM_TOTAL in read and not math.isfinite(read[names.NORM_TOTAL]):
            del read[names.NORM_TOTAL]  # the gradients' own counts of Inf and NaN tell where
            read.pop(names.NORM_AFTER, None)
        return finite_scalars(read, self._num_nonfinite)

    def _conclude(self, status: str, num_steps: int) -> None:
        assert self.folder is not None
        seconds = time.perf_counter() - self._start_s
        observations = observe(load_bounded(self.folder.path))
        findings, unseen = diagnose(observations), find_unseen(observations)
        self.folder.write_findings(findings)
        self.folder.update_summary(
            status=status,
            verdict=verdict_of(findings, is_unknown(unseen)),
            steps=num_steps,
            seconds=round(seconds, 3),
            watch_overhead=round(self._seconds / max(seconds, 1e-9), 5),
        )
        command = f"python -m stabletrain report {self.folder.path}"
        print("\n".join([*describe(findings, num_steps, unseen), command]))


def _of_evaluation(name: str) -> str | None:
    """Return our name of a metric of the evaluation; None for what is none."""
    ours = usual_name(name)
    return ours if ours is not None and names.metric_of(ours, names.VAL) is not None else None
