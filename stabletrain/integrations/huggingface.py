"""A callback for the Hugging Face `Trainer`. Needs the extra `huggingface`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.findings_text import describe
from stabletrain.diagnosis.recorded_run import observe
from stabletrain.errors import require_choice, require_range
from stabletrain.record.bounded_reader import load_bounded
from stabletrain.record.run_folder import RunFolder
from stabletrain.record.writer import RecordWriter
from stabletrain.signal.cadence import is_due
from stabletrain.signal.layer_names import clean_name
from stabletrain.signal.snapshot import Snapshot
from stabletrain.signal.watch import Watch
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import verdict_of
from stabletrain.vocabulary.signals import GRADIENT, SIGNALS
from stabletrain.vocabulary.statuses import FINISHED, RUNNING

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError(
        f"stabletrain.integrations.huggingface needs the package transformers, which cannot be imported: {error}. "
        "Install it with  python -m pip install 'stabletrain[huggingface]'"
    ) from error

LOGGED = {
    "loss": names.TRAIN_LOSS,
    "grad_norm": names.NORM_TOTAL,
    "learning_rate": names.LR,
    "eval_loss": names.VAL_LOSS,
}


class WatchCallback(TrainerCallback):
    """Records every layer of the model during training and prints the doctor's findings at the end. Observes only.

    The `Trainer` invokes callbacks after clipping, so `gradient` is the clipped gradient; clipping by norm scales all
    layers by the same factor. `max_grad_norm=0` in the training arguments turns clipping off. The total norm before
    clipping, the loss and the learning rate are recorded whenever the `Trainer` logs them (`logging_steps`).

    Args:
        output_dir: The run's folder; by default the trainer's `output_dir`. The record is written to `tensorboard/` in
            it.
        statistics_every: Steps between two measurements of the gradient; 0 for never.
        histograms_every: Steps between two histograms; 0 for never.
        signals: Signals to measure: `gradient` and any of `delta`, `activation`, `weight`, `update`, `moment`, `clip`,
            `units`.
        signals_every: Steps between two measurements of the signals other than the gradient; 0 for never.

    Raises:
        RequestError: An unknown signal, or a negative number of steps.

    Example:
        trainer = Trainer(model, arguments, train_dataset=dataset, callbacks=[WatchCallback()])
    """

    def __init__(
        self,
        output_dir: Path | str | None = None,
        *,
        statistics_every: int = 10,
        histograms_every: int = 50,
        signals: Sequence[str] = (GRADIENT,),
        signals_every: int = 50,
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
        self._start_s = self._seconds = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Attach to the model and open the record."""
        model = kwargs["model"]
        optimizer = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])  # unwrap Accelerate's
        self._watch = Watch(model, optimizer=optimizer, signals=self.signals)
        self._watch.expect(taps=False)
        if state.is_world_process_zero:
            self.folder = RunFolder(self.output_dir or args.output_dir)
            self._writer = RecordWriter(self.folder.events)
            self._writer.prepare()
            about = {"model_class": type(model).__name__, "max_grad_norm": args.max_grad_norm}
            size = sum(p.numel() for p in model.parameters())
            dims = {clean_name(path): p.dim() for path, p in model.named_parameters()}
            planned = {"num_steps": state.max_steps, "num_dims": dims}
            self._writer.write_info({"parameters": about, "num_parameters": size, "training": planned})
            self.folder.update_summary(status=RUNNING, verdict=None, steps=state.global_step)
        self._start_s, self._seconds = time.perf_counter(), 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Register the hooks if the next step is due; they stay for all its micro-batches."""
        if self._watch is not None and state.is_world_process_zero:
            step = state.global_step
            self._watch.expect(is_due(step, self.signals_every), histograms=is_due(step, self.histograms_every))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure if this step is due."""
        step = state.global_step
        histograms = is_due(step, self.histograms_every)
        if self._watch is None or not (histograms or is_due(step, self.statistics_every)):
            return
        if self._writer is not None or self._watch.is_sharded:
            start = time.perf_counter()
            others = is_due(step, self.signals_every)
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
        """Record the loss, the norm before clipping and the learning rate that the trainer logs."""
        if self._writer is not None:
            found = {name: float(logs[key]) for key, name in LOGGED.items() if logs and key in logs}
            self._writer.write_scalars(max(0, state.global_step - 1), found)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Detach from the model, diagnose, and print the findings."""
        if self._watch is not None:
            self._seconds += self._watch.tap_seconds
            self._watch.detach()
        if self._writer is not None:
            self._writer.close()
            self._conclude(state.global_step)
        self._watch = self._writer = self._snapshot = None

    def _conclude(self, num_steps: int) -> None:
        assert self.folder is not None
        seconds = time.perf_counter() - self._start_s
        findings = diagnose(observe(load_bounded(self.folder.path)))
        self.folder.write_findings(findings)
        self.folder.update_summary(
            status=FINISHED,
            verdict=verdict_of(findings),
            steps=num_steps,
            seconds=round(seconds, 3),
            watch_overhead=round(self._seconds / max(seconds, 1e-9), 5),
        )
        print("\n".join([*describe(findings, num_steps), f"python -m stabletrain report {self.folder.path}"]))
