"""`train`: compose, train, validate, test, diagnose, report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from stabletrain.app.composition.compose import Composition
from stabletrain.app.console import Console
from stabletrain.app.first_process import is_first_process
from stabletrain.app.launch import as_launched, find_launch, requeue_when_asked
from stabletrain.app.lean_start.lean_imports import without_collection
from stabletrain.app.output_dir import OUTPUT_DIR_OF_PARENT, choose_folder, make_folder
from stabletrain.app.provenance import describe_run
from stabletrain.app.sweeps.sweep_child import child_info
from stabletrain.record.run_folder import RunFolder, replace_file
from stabletrain.vocabulary.finding import SEVERITIES, Finding, verdict_of
from stabletrain.vocabulary.statuses import EXIT_CODES, FAILED, FINISHED, RUNNING, STOPPED_CODE

SHIPPING_TIMEOUT_S = 60.0


def run(composition: Composition, arguments: Sequence[str] = (), callbacks: Sequence[Any] = ()) -> int:
    """Train a composition and return the exit code.

    Args:
        composition: What to train.
        arguments: None; every command takes them.
        callbacks: Lightning callbacks in addition to the run's own.

    Raises:
        RequestError: The composition, its data or its folder are not valid. Nothing is written then.
    """
    composition = as_launched(composition)
    folder, checkpoint = choose_folder(composition.config)
    with without_collection():
        from stabletrain.app.building.prepare import prepare
        from stabletrain.training.run import check_resumable

    console = Console()
    prepared = prepare(composition.in_folder(folder.path), folder, console, callbacks)
    config = prepared.composition.config
    if checkpoint is not None:
        check_resumable(checkpoint, prepared.built.module, config["trainer"])
    shipper = _start(prepared, folder, checkpoint, console) if is_first_process() else None
    outcome = _execute(prepared, folder, checkpoint)
    if not is_first_process():
        _leave_if_requeued(outcome.error)
        return EXIT_CODES[outcome.status]
    findings = conclude(folder, config, outcome, prepared.watch.seconds, prepared.saver.seconds)
    console.conclude(folder, outcome, findings)
    if shipper is not None:
        console.finish_shipper(shipper, folder, SHIPPING_TIMEOUT_S)
    _leave_if_requeued(outcome.error)
    if outcome.status == FAILED:
        assert outcome.error is not None
        raise outcome.error
    return _exit_code(outcome.status, findings, config["doctor"]["fail_on"])


def _start(prepared: Any, folder: RunFolder, checkpoint: Path | None, console: Console) -> Any:
    """Write what the run is and print it; return the process that ships the record, None without MLflow."""
    from stabletrain.training.loggers import MLflowLogger

    composition, built = prepared.composition, prepared.built
    num_parameters = sum(p.numel() for p in built.network.parameters())
    info = describe_run(composition, built.data.describe(), num_parameters) | child_info(composition, folder.path)
    info["training"] = _plan(prepared)
    _begin(folder, composition, info, checkpoint, prepared.record)
    console.announce(composition, folder, info)
    console.advise(prepared.notes, prepared.found)
    is_shipped = any(isinstance(logger, MLflowLogger) for logger in prepared.loggers.values())
    if not is_shipped:
        return None
    shipper = console.start_shipper(folder, partial(_export_best, folder, composition.config))
    shipper.begin()
    return shipper


def _export_best(folder: RunFolder, config: dict[str, Any], target: Path) -> None:
    """Export the best network for the shipper, which does without torch."""
    from stabletrain.app.building.model_export import export_best_network

    settings = (config["logger"] or {}).get("mlflow") or {}
    if settings.get("log_model", True):
        export_best_network(folder, config, target)


def _execute(prepared: Any, folder: RunFolder, checkpoint: Path | None) -> Any:
    """Train, with the folder known to further processes, and close the record; return the outcome."""
    from stabletrain.training.run import execute

    os.environ[OUTPUT_DIR_OF_PARENT] = str(folder.path)
    requeue = requeue_when_asked(folder, prepared.trainer)
    try:
        return execute(prepared.trainer, prepared.built.module, prepared.built.datamodule, folder, checkpoint)
    finally:
        os.environ.pop(OUTPUT_DIR_OF_PARENT, None)
        prepared.record.close()
        if requeue is not None:
            requeue.close()


def _plan(prepared: Any) -> dict[str, Any]:
    """Return what the rules need to know about the run before it starts."""
    from stabletrain.training.datamodule import DataModule
    from stabletrain.training.run_plan import describe_training

    built, config = prepared.built, prepared.composition.config
    if isinstance(built.datamodule, DataModule):
        num_batches = len(built.data.train) // built.data.batch_size
    else:
        loader = built.datamodule.train_dataloader()
        num_batches = len(loader) if hasattr(loader, "__len__") else None
    smoothing = config["loss"]["label_smoothing"]
    return describe_training(built.network, built.data, prepared.trainer, num_batches, smoothing)


def _leave_if_requeued(error: BaseException | None) -> None:
    """Raise the request to requeue: a launcher such as submitit takes a returned value for the end of the job."""
    from stabletrain.training.callbacks.requeue import RequeueRequest

    if isinstance(error, RequeueRequest):
        raise error


def conclude(
    folder: RunFolder, config: dict[str, Any], outcome: Any, watching_s: float, saving_s: float
) -> list[Finding]:
    """Diagnose, and write the findings, the summary with its final status, and the report."""
    from stabletrain.app.commands.diagnose import examine
    from stabletrain.report.page import write_report

    is_judged = config["doctor"]["enabled"]
    findings = examine(folder, outcome.error) if is_judged else []
    is_judged = is_judged and (bool(findings) or outcome.status != FAILED)
    folder.write_findings(findings)
    folder.update_summary(
        status=outcome.status,
        verdict=verdict_of(findings) if is_judged else None,
        metrics={name: round(value, 6) for name, value in sorted(outcome.metrics.items())},
        steps=outcome.steps,
        seconds=round(outcome.seconds, 3),
        watch_overhead=round(watching_s / max(outcome.seconds, 1e-9), 5),
        checkpoint_overhead=round(saving_s / max(outcome.seconds, 1e-9), 5),
    )
    write_report(folder)
    return findings


def _begin(
    folder: RunFolder, composition: Composition, info: dict[str, Any], checkpoint: Path | None, record: Any
) -> None:
    make_folder(folder)
    before = folder.read_summary()
    if folder.events.is_dir():  # resumed in the same folder: the same run, in MLflow too
        from stabletrain.record.reader import load_record

        info["run_uid"] = load_record(folder.path).info.get("run_uid", info["run_uid"])
    config = composition.config | {"resume": None}  # the summary says what was resumed; the file starts a new run
    replace_file(folder.config, yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode())
    record.writer.write_info(info)
    launch = find_launch()
    folder.update_summary(
        **({"launch": launch.id} if launch is not None else {}),
        status=RUNNING,
        verdict=None,
        metrics={},
        steps=before.get("steps", 0),
        seconds=before.get("seconds", 0.0),
        watch_overhead=None,
        checkpoint_overhead=None,
        mlflow_run_id=before.get("mlflow_run_id"),
        mlflow_tracking_uri=before.get("mlflow_tracking_uri"),
        mlflow_url=before.get("mlflow_url"),
        resumed_from=str(checkpoint.parent.parent) if checkpoint else None,
    )


def _exit_code(status: str, findings: Sequence[Finding], fail_on: str | None) -> int:
    severe = [f for f in findings if fail_on and SEVERITIES.index(f.severity) >= SEVERITIES.index(fail_on)]
    return STOPPED_CODE if status == FINISHED and severe else EXIT_CODES[status]
