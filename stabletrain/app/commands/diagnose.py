"""`diagnose PATH`: apply the rules again to a recorded run, or to the log of another tool."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape

from stabletrain.app.commands.log_diagnosis import examine_log
from stabletrain.app.composition.compose import Composition
from stabletrain.app.console import Console
from stabletrain.diagnosis.coverage import describe_unseen, find_unseen, is_unknown
from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.observations import Observations
from stabletrain.diagnosis.offender import OFFENDER, with_offender
from stabletrain.diagnosis.recorded_run import observe
from stabletrain.record.bounded_reader import load_bounded
from stabletrain.record.foreign_logs.detection import find_log
from stabletrain.record.run_folder import RunFolder, folder_of
from stabletrain.vocabulary.finding import SEVERITIES, Finding, verdict_of
from stabletrain.vocabulary.kinds import NONFINITE
from stabletrain.vocabulary.statuses import DONE_CODE, STOPPED_CODE

REPLAY, LOSS, EPOCHS = "--replay", "--loss", "--epochs"


def examine(folder: RunFolder, error: BaseException | None = None) -> list[Finding]:
    """Return the findings of a recorded run.

    Args:
        folder: The run.
        error: The exception that ended the run. A non-finite gradient is a finding even with `watch=off`.
    """
    return _examine(folder, observe(load_bounded(folder.path)), error)


def _examine(folder: RunFolder, observations: Observations, error: BaseException | None = None) -> list[Finding]:
    observations = with_offender(observations, _read_offender(folder))
    findings = diagnose(observations)
    if error is not None and not any(f.kind == NONFINITE.name for f in findings):
        from stabletrain.training.optimization.stability import NonFiniteGradient

        if isinstance(error, NonFiniteGradient):
            found = Finding(NONFINITE.name, "critical", None, error.step, error.step, {"norm": str(error.norm)})
            findings = diagnose(observations, [found])
    return findings


def judge(folder: RunFolder) -> tuple[list[Finding], tuple[str, ...]]:
    """Write the findings and the verdict of a recorded run.

    Returns:
        The findings, and what was not measured of a run that stabletrain did not compose (`coverage.find_unseen`): the
        options of a composed one say what it measures.
    """
    observations = observe(load_bounded(folder.path))
    findings = _examine(folder, observations)
    unseen = () if folder.config.is_file() else find_unseen(observations)
    folder.write_findings(findings)
    folder.update_summary(verdict=verdict_of(findings, is_unknown(unseen)))
    return findings, unseen


def _read_offender(folder: RunFolder) -> dict[str, Any]:
    path = folder.path / OFFENDER
    return json.loads(path.read_text()) if path.is_file() else {}


def run(composition: Composition, arguments: Sequence[str] = ()) -> int:
    """Print the verdict of each run and rewrite its findings; with `--replay` run its last step again.

    Of a log of another tool, print the verdict and what it lacks (see `log_diagnosis`); nothing is written.

    Returns:
        0; with `doctor=strict` or another `doctor.fail_on`, 3 if there is a finding of that severity or above.
    """
    console, found = Console(), []
    loss = next((word.partition("=")[2] for word in arguments if word.startswith(f"{LOSS}=")), None)
    for path in [word for word in arguments if not word.startswith("--")]:
        if (folder := _run_in(path)) is not None:
            found += _examine_run(path, folder, console, REPLAY in arguments)
        else:
            found += examine_log(path, console, loss, EPOCHS in arguments)
    fail_on = composition.config["doctor"]["fail_on"]
    severe = [f for f in found if fail_on and SEVERITIES.index(f.severity) >= SEVERITIES.index(fail_on)]
    return STOPPED_CODE if severe else DONE_CODE


def _run_in(path: str) -> RunFolder | None:
    """Return the run that a path belongs to, or the only one below it; None if there is a log of another tool."""
    folder = folder_of(path)
    if not folder.is_recorded:
        folder = RunFolder(find_log(Path(path)).path)
    return folder if folder.is_recorded else None


def _examine_run(path: str, folder: RunFolder, console: Console, replays: bool) -> list[Finding]:
    findings, unseen = judge(folder)
    console.print(f"{path}: [bold]{verdict_of(findings, is_unknown(unseen))}[/]")
    console.show(findings)
    if (sentence := describe_unseen(unseen)) is not None:
        console.print(f"  {sentence}")
    if replays:
        console.print(_replayed(folder))
    return findings


def _replayed(folder: RunFolder) -> str:
    from stabletrain.app.commands.replay import replay

    offender = replay(folder)
    if offender is None:
        return "  replayed: every tensor of the step is finite on this machine"
    where = f" of {offender.layer}" if offender.layer else ""
    count = f"{offender.num_nonfinite:,} of {offender.size:,} not finite"
    return f"  replayed: first in {offender.phase}: {escape(offender.tensor)}{escape(where)}, {count}"
