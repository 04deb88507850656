"""What a run prints: what is trained, where its files are, and how it ended."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import rich
from rich.markup import escape

from stabletrain.app.composition.compose import Composition
from stabletrain.app.composition.override_text import write_override
from stabletrain.app.composition.schema import CONSOLES
from stabletrain.app.findings_table import advice_lines, notes_line, verdict_table
from stabletrain.record.run_folder import RunFolder
from stabletrain.record.sweep_folder import folder_above
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import HEALTHY, Finding

LIVE = CONSOLES[1]
SHOWN_GROUPS = ("model", "activation", "init", "norm", "residual", "clip", "optimizer", "data")
FIRST_ANSWER_TIMEOUT_S = 20.0  # for a server that has never answered during the run
SHOWN_METRICS = (
    *(names.TRAIN_LOSS, names.VAL_LOSS, names.VAL_ACCURACY, names.VAL_MSE),
    *(names.TEST_ACCURACY, names.TEST_MSE),
)


class Console:
    """Print for the first process of a run."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdout.isatty() and not rich.get_console().is_dumb_terminal
        self._notes: list[str] = []  # of the console itself
        self._links: dict[str, Any] = {}
        self._concluded = False

    def print(self, text: Any = "") -> None:
        """Print a line with rich markup, or a table; above the progress bar if there is one."""
        try:
            rich.get_console().print(text, soft_wrap=isinstance(text, str), highlight=False)
        except (OSError, SystemExit):  # the reader is gone (`| head`); the run goes on
            self._stop_printing()

    def _stop_printing(self) -> None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)
        rich.get_console().file = sys.stdout

    def progress(self, console: str = "default") -> Any:
        """Return the callback that shows progress: a bar or a live table in a terminal, lines otherwise.

        Args:
            console: The setting of this name: `default` or `live`.
        """
        if self.is_terminal and console == LIVE:
            from stabletrain.training.callbacks.live_table import LiveTable

            return LiveTable()
        if self.is_terminal:
            from stabletrain.training.callbacks.progress_bar import ProgressBar

            return ProgressBar()
        from stabletrain.training.callbacks.progress_line import LineProgress

        if console == LIVE:
            self._notes.append("console=live needs a terminal; progress is printed as lines instead.")
        return LineProgress()

    def announce(self, composition: Composition, folder: RunFolder, info: dict[str, Any]) -> None:
        """Print what is about to be trained, and where its files go."""
        self.print(f"{_choices(composition)}  ({info['num_parameters']:,} parameters)")
        if (num_threads := composition.config["threads"]) != "auto":
            self.print(f"[dim]CPU[/]    {num_threads} thread{'' if num_threads == 1 else 's'}")
        self.print(f"[dim]files[/]  {escape(short_path(folder.path))}")

    def describe(self, composition: Composition, dataset: Mapping[str, Any], num_parameters: int) -> None:
        """Print what would be trained, and on which data."""
        self.print(f"{_choices(composition)}  ({num_parameters:,} parameters)")
        counts = [
            f"{dataset[f'num_{split}']:,} {split}" for split in ("train", "val", "test") if f"num_{split}" in dataset
        ]
        shape = f"{dataset['form']} input of {dataset['num_inputs']}, {dataset['num_outputs']} outputs"
        steps = f", {dataset['num_steps']} steps" if dataset.get("num_steps") else ""
        self.print(f"[dim]data[/]   {escape(str(dataset['name']))}: {dataset['task']}, {shape}{steps}")
        if counts:
            self.print(f"       {', '.join(counts)} examples")

    def advise(self, notes: Sequence[str], found: Any = None) -> None:
        """Print the notes of the checks, and the learning rate that was found."""
        if found is not None:
            self.print(f"[dim]rate[/]   {found.lr:.3g}, from {found.num_steps} tried up to {found.highest:.2g}")
        for note in (*notes, *self._notes):
            self.note(note)

    def note(self, line: str) -> None:
        """Print a note."""
        self.print(f"[yellow]note[/]   {escape(line)}")

    def warn(self, line: str) -> None:
        """Print a warning of the doctor during the run."""
        self.print(f"[yellow]doctor[/] {escape(line)}")

    def start_shipper(self, folder: RunFolder, export: Any = None) -> Any:
        """Start the process that ships the record to MLflow; it waits for `begin`. See `ShipperProcess`."""
        from stabletrain.tracking.shipper_process import ShipperProcess

        return ShipperProcess(folder.path, self._on_event, export)

    def _on_event(self, event: dict[str, Any]) -> None:
        if event.get("event") == "ready":
            self._links = event
            if not self._concluded:  # in a short run it is printed once, at the end
                self._print_link(event)
        if event.get("event") == "note":
            self.print(f"[dim]MLflow[/] {escape(str(event.get('text')))}")
        if event.get("event") in ("unreachable", "failed") and not self._links.get("silent"):
            self._links = {**self._links, "silent": True}
            self.print(f"[yellow]MLflow[/] is not available: {escape(str(event.get('reason')))}. The run goes on.")
        if event.get("event") in ("done", "unreachable", "failed"):
            self._links = {**self._links, "end": event["event"]}

    def _print_link(self, event: dict[str, Any]) -> None:
        self.print(f"[dim]MLflow[/] {escape(event['url'])}")

    def finish_shipper(self, shipper: Any, folder: RunFolder, timeout_s: float) -> None:
        """Wait until the record is shipped, or print how to ship it later; write the links to the summary."""
        has_answered = bool(self._links.get("run_id"))
        if has_answered:
            self.print("[dim]MLflow[/] gets the rest …")
        in_time = shipper.finish(timeout_s if has_answered else min(timeout_s, FIRST_ANSWER_TIMEOUT_S))
        if self._links.get("run_id"):
            folder.update_summary(
                mlflow_run_id=self._links["run_id"],
                mlflow_tracking_uri=self._links["tracking_uri"],
                mlflow_url=self._links["url"],
            )
        if in_time and self._links.get("end") == "done":
            self._print_link(self._links)
            if self._links["tracking_uri"].startswith("sqlite"):
                self.print(f"       open it with  [bold]{escape(_ui_command(folder))}[/]")
        else:
            self.print("[yellow]MLflow[/] does not have everything yet; ship the rest later with")
            self.print(f"       [bold]python -m stabletrain sync {escape(shlex.quote(short_path(folder.path)))}[/]")

    def conclude(self, folder: RunFolder, outcome: Any, findings: Sequence[Finding]) -> None:
        """Print the verdict, the metrics and the findings."""
        self._concluded = True
        verdict = folder.read_summary().get("verdict")
        colour = "green" if verdict == HEALTHY else "red"
        metrics = "  ".join(f"{m} {outcome.metrics[m]:.4g}" for m in SHOWN_METRICS if m in outcome.metrics)
        self.print()
        shown = f"[bold {colour}]{verdict}[/]" if verdict else "[bold]none[/]"
        self.print(f"verdict: {shown}   {outcome.status} after {outcome.steps:,} steps, {outcome.seconds:.0f} s")
        if metrics:
            self.print(metrics)
        self.show(findings)
        if outcome.error is not None and str(outcome.error):
            self.print(escape(str(outcome.error)))
        self.print(f"[dim]report[/] {escape(short_path(folder.report))}")

    def show(self, findings: Sequence[Finding]) -> None:
        """Print a table of the findings, the suggested fixes, and one line for findings of severity `info`."""
        if (table := verdict_table(findings)) is not None:
            self.print(table)
        for line in advice_lines(findings):
            self.print(line)
        if (note := notes_line(findings)) is not None:
            self.print(note)


def _choices(composition: Composition) -> str:
    chosen = [(group, composition.choices[group]) for group in SHOWN_GROUPS if group in composition.choices]
    return "  ".join(f"{group}=[bold]{option}[/]" for group, option in chosen)


def short_path(path: Any) -> str:
    """Return a path relative to the current folder if it is inside of it."""
    from pathlib import Path

    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _ui_command(folder: RunFolder) -> str:
    from pathlib import Path

    beside_default = folder_above(folder.path) == Path.cwd() / "runs"
    return "python -m stabletrain ui" + (
        "" if beside_default else f" {shlex.quote(write_override('output_dir', short_path(folder.path)))}"
    )
