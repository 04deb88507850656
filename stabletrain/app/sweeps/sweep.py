"""A sweep as a whole: one folder, one MLflow run as the parent of its children, one table at its end."""

from __future__ import annotations

import secrets
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape

from stabletrain.app.console import Console, short_path
from stabletrain.app.exit_codes import WORDS
from stabletrain.app.output_dir import make_folder, unique_id
from stabletrain.app.sweeps.sweep_child import outcome_of
from stabletrain.errors import RequestError
from stabletrain.record.run_folder import RunFolder
from stabletrain.record.sweep_folder import SweepFolder
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import HEALTHY
from stabletrain.vocabulary.statuses import DONE_CODE, WRONG_REQUEST_CODE

# The first one that any child has is shown.
MAIN_METRICS = (names.VAL_ACCURACY, names.VAL_MSE, names.VAL_LOSS, names.TRAIN_LOSS)


def begin_sweep(output_dir: str | None, experiment_name: str) -> SweepFolder:
    """Make the sweep's folder.

    Raises:
        RequestError: The folder already holds a sweep or a run.
    """
    sweep = SweepFolder(output_dir if output_dir is not None else Path("runs") / unique_id())
    if sweep.exists or RunFolder(sweep.path).config.exists():
        raise RequestError(
            f"The folder already holds a {'sweep' if sweep.exists else 'run'}.",
            key="output_dir",
            found=output_dir,
            allowed="a new or empty folder, in which the children's folders are made",
            command=f"python -m stabletrain -m output_dir={output_dir}-again …",
        )
    make_folder(RunFolder(sweep.path))
    sweep.update(
        uid=secrets.token_hex(8),
        command=shlex.join(["python", "-m", "stabletrain", *sys.argv[1:]]),
        experiment_name=experiment_name,
        started_ms=round(1000 * time.time()),
        children=[],
    )
    return sweep


def conclude_sweep(sweep: SweepFolder, metric: str | None = None) -> int:
    """Print the table of the children, end the sweep's MLflow run, and return the worst exit code.

    Raises:
        RequestError: Every child was refused. Nothing is left behind then.
    """
    outcomes = collect_outcomes(sweep)
    if all(o["exit_code"] == WRONG_REQUEST_CODE for o in outcomes) and not sweep.children():
        sweep.remove()
        raise first_refusal(outcomes)
    code = max(o["exit_code"] for o in outcomes)
    seconds = round(time.time() - sweep.read()["started_ms"] / 1000, 3)
    sweep.conclude(outcomes, exit_code=code, seconds=seconds)
    console = Console()
    for line in table_lines(outcomes, metric):
        console.print(line)
    _write_comparison(sweep, console)
    _conclude_parent(sweep, rows_of(outcomes, metric), console, is_done=code == DONE_CODE)
    sweep.lock.unlink(missing_ok=True)
    return code


def collect_outcomes(sweep: SweepFolder) -> list[dict[str, Any]]:
    """Return the outcomes of the children; a child without one was killed."""
    outcomes = {o["number"]: o for o in sweep.read_outcomes()}
    for folder in sweep.children():
        number = int(folder.path.name)
        if number not in outcomes:
            outcomes[number] = outcome_of(sweep, number, []) | {"error": {"problem": "It was killed."}}
    return [outcomes[number] for number in sorted(outcomes)]


def first_refusal(outcomes: Sequence[Mapping[str, Any]]) -> RequestError:
    """Return the error of the first child, as it was raised."""
    if not outcomes:
        return RequestError("No child of the sweep was started.", key="-m", command="python -m stabletrain --help")
    fields = dict(outcomes[0]["error"])
    return RequestError(fields.pop("problem"), **fields)


def differing(outcomes: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the overrides of each child that are not shared by all children."""
    shared = set.intersection(*(set(o["overrides"]) for o in outcomes)) if len(outcomes) > 1 else set()
    return [[text for text in o["overrides"] if text not in shared] for o in outcomes]


def rows_of(outcomes: Sequence[Mapping[str, Any]], metric: str | None = None) -> list[tuple[str, ...]]:
    """Return the table: its heading, then one row per child."""
    metric = metric or next((m for m in MAIN_METRICS if any(m in o["metrics"] for o in outcomes)), MAIN_METRICS[-1])
    rows = [("child", "differs in", "ended", "verdict", metric, "seconds")]
    for outcome, overrides in zip(outcomes, differing(outcomes), strict=True):
        value, seconds = outcome["metrics"].get(metric), outcome["seconds"]
        rows.append(
            (
                str(outcome["number"]),
                " ".join(overrides) or "–",
                WORDS.get(outcome["exit_code"], str(outcome["exit_code"])),
                str(outcome["verdict"] or "–"),
                "–" if value is None else f"{value:.4g}",
                "–" if seconds is None else f"{seconds:.1f}",
            )
        )
    return rows


def table_lines(outcomes: Sequence[Mapping[str, Any]], metric: str | None = None) -> list[str]:
    """Return the table as lines of markup, followed by the reasons why children were refused or failed."""
    rows = rows_of(outcomes, metric)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["", "[bold]" + "  ".join(c.ljust(w) for c, w in zip(rows[0], widths, strict=True)).rstrip() + "[/]"]
    for row in rows[1:]:
        cells = [escape(c.ljust(w)) for c, w in zip(row, widths, strict=True)]
        if row[3] != "–":
            cells[3] = f"[{'green' if row[3] == HEALTHY else 'red'}]{cells[3]}[/]"
        lines.append("  ".join(cells).rstrip())
    for outcome in outcomes:
        if error := outcome["error"]:
            key = f" ({error['key']})" if error.get("key") else ""
            lines.append(f"  [red]{outcome['number']}[/] {escape(error['problem'] + key)}")
            if error.get("command"):
                lines.append(f"    try  [bold]{escape(error['command'])}[/]")
    return lines


def _write_comparison(sweep: SweepFolder, console: Console) -> None:
    from stabletrain.report.compare import write_comparison

    if folders := sweep.children():
        write_comparison(folders, sweep.report)
        console.print(f"[dim]report[/] {escape(short_path(sweep.report))}")


def _conclude_parent(sweep: SweepFolder, table: list[tuple[str, ...]], console: Console, *, is_done: bool) -> None:
    """End the parent run in MLflow, if any child was shipped to a server."""
    shipped = [folder for folder in sweep.children() if folder.read_summary().get("mlflow_run_id")]
    if not shipped:
        return
    from stabletrain.app.building.build_shipper import make_shipper
    from stabletrain.tracking.sweep_parent import conclude_parent

    heading, *rows = table
    lines = [heading, ("---",) * len(heading), *rows]
    note = "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines)
    try:
        conclude_parent(sweep, make_shipper(shipped[0]).tracking_uri, note, is_done=is_done)
    except Exception as error:  # MLflow is only a view of what the folder has
        console.print(f"[yellow]MLflow[/] could not be given the sweep's table: {escape(str(error))}")
