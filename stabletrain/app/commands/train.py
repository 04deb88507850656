"""`train`: compose, train, validate, test, diagnose, report."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from stabletrain.app.compose import Composition
from stabletrain.app.console import Console
from stabletrain.app.provenance import describe_run
from stabletrain.app.run_folder import OUTPUT_DIR_OF_PARENT, choose_folder, is_first_process, make_folder
from stabletrain.diagnosis.finding import SEVERITIES, Finding, verdict_of
from stabletrain.errors import RequestError
from stabletrain.record.folder import FAILED, FINISHED, RUNNING, STOPPED, TERMINATED, RunFolder, replace_file
from stabletrain.tracking.store import resolve_tracking_uri

EXIT_CODES = {FINISHED: 0, FAILED: 1, STOPPED: 3, TERMINATED: 143}
SHIPPING_TIMEOUT_S = 60.0
TRACKING_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


def run(composition: Composition, arguments: Sequence[str] = ()) -> int:
    """Train as composed; return the exit code."""
    folder, checkpoint = choose_folder(composition.config)
    composition = composition.in_folder(folder.path)
    check_tracking_uri(composition.config, folder.path)
    from stabletrain.app.build import build, build_loggers, build_trainer
    from stabletrain.training.callbacks import GradientWatch, SystemWatch
    from stabletrain.training.checkpoint import ManifestCheckpointIO, checkpoint_callbacks
    from stabletrain.training.datamodule import DataModule
    from stabletrain.training.loggers import MLflowLogger, RecordLogger
    from stabletrain.training.run import check_resumable, execute

    _quiet_libraries()
    config = composition.config
    built = build(config)
    loggers = build_loggers(config)
    record, console, watch = RecordLogger(folder.events), Console(), _watch(config, GradientWatch)
    trainer = build_trainer(
        config,
        logger=[record, *loggers.values()],
        callbacks=[watch, SystemWatch(), *checkpoint_callbacks(folder), console.progress()],
        plugins=[ManifestCheckpointIO()],
        default_root_dir=str(folder.path),
        use_distributed_sampler=False,  # the data module shards by itself
        enable_model_summary=False,
        enable_progress_bar=console.is_terminal,
    )
    datamodule = DataModule(built.data, seed=config["seed"])
    datamodule.check(trainer.world_size)

    if checkpoint is not None:
        check_resumable(checkpoint, built.module, config["trainer"])
    shipper = None
    if is_first_process():
        num_parameters = sum(p.numel() for p in built.network.parameters())
        info = describe_run(composition, built.data.describe(), num_parameters)
        _begin(folder, composition, info, checkpoint, record)
        console.announce(composition, folder, info)
        if any(isinstance(logger, MLflowLogger) for logger in loggers.values()):
            shipper = console.start_shipper(folder)
    os.environ[OUTPUT_DIR_OF_PARENT] = str(folder.path)
    try:
        outcome = execute(trainer, built.module, datamodule, folder, checkpoint)
    finally:
        os.environ.pop(OUTPUT_DIR_OF_PARENT, None)
        record.close()
    if not is_first_process():
        return EXIT_CODES[outcome.status]
    findings = conclude(folder, config, outcome, overhead=watch.seconds / max(outcome.seconds, 1e-9))
    console.conclude(folder, outcome, findings)
    if shipper is not None:
        console.finish_shipper(shipper, folder, SHIPPING_TIMEOUT_S)
    if outcome.status == FAILED:
        assert outcome.error is not None
        raise outcome.error
    return _exit_code(outcome.status, findings, config["doctor"]["fail_on"])


def conclude(folder: RunFolder, config: dict[str, Any], outcome: Any, overhead: float) -> list[Finding]:
    """Diagnose and write findings, summary and report; the summary's final status comes last."""
    from stabletrain.app.commands.diagnose import examine
    from stabletrain.report.page import write_report

    findings = examine(folder, outcome.error) if config["doctor"]["enabled"] else []
    folder.write_findings(findings)
    folder.update_summary(
        status=outcome.status,
        verdict=verdict_of(findings) if findings or outcome.status != FAILED else None,
        metrics={name: round(value, 6) for name, value in sorted(outcome.metrics.items())},
        steps=outcome.steps,
        seconds=round(outcome.seconds, 3),
        watch_overhead=round(overhead, 5),
    )
    write_report(folder)
    return findings


def check_tracking_uri(config: Mapping[str, Any], run_dir: Path) -> None:
    """Refuse an address that no tracking server can have; one that does not answer is no mistake."""
    mlflow = (config["logger"] or {}).get("mlflow")
    if mlflow is None:
        return
    explicit = mlflow.get("tracking_uri")
    uri = str(explicit) if not isinstance(explicit, str | None) else resolve_tracking_uri(explicit, run_dir)
    if uri.partition(":")[0].partition("+")[0] not in TRACKING_SCHEMES:
        raise RequestError(
            "MLflow knows no store of this kind.",
            key="logger.mlflow.tracking_uri",
            found=uri,
            allowed="http://HOST:PORT, https://HOST, sqlite:////ABSOLUTE/PATH/mlflow.db, or another database",
            command="python -m stabletrain logger.mlflow.tracking_uri=http://127.0.0.1:5000",
        )


def _begin(
    folder: RunFolder, composition: Composition, info: dict[str, Any], checkpoint: Path | None, record: Any
) -> None:
    make_folder(folder)
    before = folder.read_summary()
    if folder.events.is_dir():  # going on in the same folder: the same run, in MLflow too
        from stabletrain.record.reader import load_record

        info["run_uid"] = load_record(folder.path).info.get("run_uid", info["run_uid"])
    config = composition.config | {"resume": None}  # where it went on from is in the summary; the file runs anew
    replace_file(folder.config, yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode())
    record.writer.write_info(info)
    folder.update_summary(
        status=RUNNING,
        verdict=None,
        metrics={},
        steps=before.get("steps", 0),
        seconds=before.get("seconds", 0.0),
        watch_overhead=None,
        mlflow_run_id=before.get("mlflow_run_id"),
        mlflow_tracking_uri=before.get("mlflow_tracking_uri"),
        mlflow_url=before.get("mlflow_url"),
        resumed_from=str(checkpoint.parent.parent) if checkpoint else None,
    )


def _watch(config: dict[str, Any], watch_class: Any) -> Any:
    return watch_class(config["watch"]["statistics_every"], config["watch"]["histograms_every"])


def _exit_code(status: str, findings: Sequence[Finding], fail_on: str | None) -> int:
    severe = [f for f in findings if fail_on and SEVERITIES.index(f.severity) >= SEVERITIES.index(fail_on)]
    return EXIT_CODES[STOPPED] if status == FINISHED and severe else EXIT_CODES[status]


def _quiet_libraries() -> None:
    """Keep hints that are not for our users off the screen; warnings about their own code stay."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*The number of training batches.*is smaller than the logging interval.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*lr_scheduler.step.*before.*optimizer.step.*",
        ".*was configured so validation will run.*",
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
        ".*resuming from a checkpoint that ended before the epoch ended.*",
        ".*could not find the monitored key in the returned metrics.*",
        ".*The dirpath has changed from.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    if not is_first_process():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (the first process speaks for all)
