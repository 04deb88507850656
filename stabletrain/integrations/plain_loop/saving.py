"""Write what a doctor has seen as the folder of a run, as the command line leaves it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from stabletrain.diagnosis.observations import Observations, Table
from stabletrain.errors import RequestError
from stabletrain.record.run_folder import RunFolder
from stabletrain.record.writer import RecordWriter
from stabletrain.signal.layer_statistics import Arrays, Measures
from stabletrain.signal.snapshot import Snapshot
from stabletrain.version import __version__
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import Finding
from stabletrain.vocabulary.signals import GRADIENT


@dataclass
class RunOfDoctor:
    """A run as its doctor knows it.

    Attributes:
        observations: Everything measured.
        findings: The findings.
        verdict: The verdict.
        num_steps: Steps taken.
        seconds: Time from the first step to the last.
        doctor_seconds: Of these, the time in the doctor.
        status: How the run ended.
        model_class: Name of the model's class.
        num_parameters: Number of its parameters.
        num_dims: Number of axes of each parameter, by path.
        snapshots: Snapshots with histograms.
    """

    observations: Observations
    findings: Sequence[Finding]
    verdict: str
    num_steps: int
    seconds: float
    doctor_seconds: float
    status: str
    model_class: str
    num_parameters: int
    num_dims: Mapping[str, int]
    snapshots: Mapping[int, Snapshot] = field(default_factory=dict)


def require_free(path: Path | str, own: Container[Path] = ()) -> RunFolder:
    """Return a folder to which a run may be saved.

    Raises:
        RequestError: It is no path, is a file, or holds another run than that of the event files `own`.
    """
    if not isinstance(path, str | os.PathLike):
        found = type(path).__name__
        raise RequestError("The folder is not a path.", key="folder", found=found, allowed="a path, such as runs/mine")
    folder = RunFolder(path)
    is_taken = any(file not in own for file in folder.events.glob("events.out.*")) or folder.config.exists()
    if is_taken or folder.path.is_file():
        raise RequestError(
            "The folder already holds a run." if is_taken else "There is a file in place of the folder.",
            key="folder",
            found=path,
            allowed="a new folder, or one to which this doctor has saved",
            command=f'doctor.save("{path}-2")',
        )
    return folder


def save_run(run: RunOfDoctor, path: Path | str, own: Container[Path] = ()) -> tuple[RunFolder, Path]:
    """Write the record, `findings.json`, `summary.json` and `report.html`.

    Args:
        run: What to write.
        path: The folder; it is created.
        own: The event files that earlier calls wrote; one in this folder is replaced.

    Returns:
        The folder and the event file.

    Raises:
        RequestError: The folder holds another run.
    """
    folder = require_free(path, own)
    before = [file for file in folder.events.glob("events.out.*")]
    from stabletrain.report.page import write_report

    events = _write_record(run, folder)
    for file in before:
        if file != events:
            file.unlink(missing_ok=True)
    folder.write_findings(run.findings)
    last = {k: float(v.values[-1]) for k, v in run.observations.scalars.items() if _is_result(k) and len(v.values)}
    folder.update_summary(
        status=run.status,
        verdict=run.verdict,
        metrics=last,
        steps=run.num_steps,
        seconds=round(run.seconds, 3),
        watch_overhead=round(run.doctor_seconds / max(run.seconds - run.doctor_seconds, 1e-9), 5),
    )
    write_report(folder)
    return folder, events


def ship(folder: RunFolder) -> None:
    """Ship a saved run to MLflow by the command `sync`, in a process of its own.

    Raises:
        RequestError: The command failed; the message is its own.
    """
    command = [sys.executable, "-m", "stabletrain", "sync", str(folder.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RequestError(
            f"The run was saved, but could not be shipped to MLflow: {(done.stderr or done.stdout).strip()}",
            key="mlflow",
            found=folder.path,
            allowed="a server that answers, or no MLFLOW_TRACKING_URI for the store next to the run",
            command=f"python -m stabletrain sync {folder.path}",
        )


def _is_result(name: str) -> bool:
    return name.partition("/")[0] in names.STAGES and name not in (names.LR, names.TRAIN_NONFINITE)


def _write_record(run: RunOfDoctor, folder: RunFolder) -> Path:
    seen, about = run.observations, run.observations.about
    writer = RecordWriter(folder.events)
    plan = {
        "num_steps": about.num_steps,
        "num_dims": dict(run.num_dims),
        "frozen_share": about.frozen_share,
        "weight_gain": about.weight_gain,
        "prior_loss": about.prior_loss,
        "prior_is_measured": about.prior_is_measured,
        "is_game": about.is_game,
        "is_open_ended": about.is_open_ended,
        "client": about.client,
    }
    info = {
        "parameters": {"model_class": run.model_class, **about.settings},
        "num_parameters": run.num_parameters,
        "training": plan,
        "started": datetime.now(UTC).astimezone().isoformat(timespec="seconds"),
        "versions": {"stabletrain": __version__, "torch": str(torch.__version__)},
        "notices": [notice.to_dict() for notice in seen.notices],
    }
    try:
        writer.write_info(info)
        for snapshot in _snapshots(run):
            writer.write_snapshot(snapshot)
        writer.flush()
        steps: dict[int, dict[str, float]] = {}
        for name, series in seen.scalars.items():
            for step, value in zip(series.steps.tolist(), series.values.tolist(), strict=True):
                steps.setdefault(step, {})[name] = value
        writer.write_steps(sorted(steps.items()))
        for layer, waves in seen.time.items():
            for step, row in zip(waves.steps.tolist(), waves.values, strict=True):
                writer.write_vectors(step, {names.of_layer(names.TIME_NORM, layer): row})
    finally:
        writer.close()
    return writer.path


def _snapshots(run: RunOfDoctor) -> list[Snapshot]:
    """Return the tables as snapshots, one for each step, as they were measured."""
    seen = run.observations
    found: dict[int, Snapshot] = {}
    for signal, table in seen.rms.items():
        for step, measures in _rows(table, seen.nonfinite.get(signal)):
            snapshot = found.setdefault(step, Snapshot(step, ()))
            if signal == GRADIENT:
                kept = run.snapshots.get(step)
                snapshot.layers = measures if kept is None else kept.layers
            else:
                snapshot.signals[signal] = measures
    for kind, table in seen.units.items():
        for step, row in zip(table.steps.tolist(), table.values, strict=True):
            shares = {layer: float(x) for layer, x in zip(table.layers, row, strict=True) if not np.isnan(x)}
            snapshot = found.setdefault(step, Snapshot(step, ()))
            snapshot.units = {**snapshot.units, kind: shares}
    return [found[step] for step in sorted(found)]


def _rows(table: Table, counts: Table | None) -> list[tuple[int, Measures]]:
    """Return each row with the layers that were measured on its step."""
    same = counts is not None and counts.layers == table.layers and np.array_equal(counts.steps, table.steps)
    bad = np.nan_to_num(counts.values) if same and counts is not None else np.zeros_like(table.values)
    rows = []
    for step, row, nonfinite in zip(table.steps.tolist(), table.values, bad, strict=True):
        kept = ~np.isnan(row) | (nonfinite > 0)
        layers = table.layers if kept.all() else tuple(x for x, keep in zip(table.layers, kept, strict=True) if keep)
        arrays = Arrays(row[kept], nonfinite[kept].astype(np.int64))
        rows.append((step, Measures(layers, np.ones(len(layers), np.int64), arrays, with_counts=False)))
    return rows
