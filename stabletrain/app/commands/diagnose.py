"""`diagnose RUN_DIR`: apply the rules again to a recorded run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.markup import escape

from stabletrain.app.composition.compose import Composition
from stabletrain.app.console import Console
from stabletrain.app.output_dir import open_run
from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.recorded_run import observe
from stabletrain.record.bounded_reader import load_bounded
from stabletrain.record.run_folder import RunFolder
from stabletrain.vocabulary.finding import Finding, verdict_of
from stabletrain.vocabulary.kinds import NONFINITE
from stabletrain.vocabulary.statuses import DONE_CODE

REPLAY = "--replay"
OFFENDER = "offender/offender.json"  # see training/callbacks/offender_bundle.py


def examine(folder: RunFolder, error: BaseException | None = None) -> list[Finding]:
    """Return the findings of a recorded run.

    Args:
        folder: The run.
        error: The exception that ended the run. A non-finite gradient is a finding even with `watch=off`.
    """
    observations = observe(load_bounded(folder.path))
    findings = diagnose(observations)
    if error is not None and not any(f.kind == NONFINITE.name for f in findings):
        from stabletrain.training.optimization.stability import NonFiniteGradient

        if isinstance(error, NonFiniteGradient):
            found = Finding(NONFINITE.name, "critical", None, error.step, error.step, {"norm": str(error.norm)})
            findings = diagnose(observations, [found])
    return [_with_offender(f, _read_offender(folder)) for f in findings]


def _read_offender(folder: RunFolder) -> dict[str, Any]:
    path = folder.path / OFFENDER
    return json.loads(path.read_text()) if path.is_file() else {}


def _with_offender(finding: Finding, offender: dict[str, Any]) -> Finding:
    """Add to a finding of Inf or NaN where in the last step they first appeared."""
    if finding.kind != NONFINITE.name or not offender:
        return finding
    names = ("phase", "layer", "tensor", "clean", "samples")
    evidence = finding.evidence | {f"offender_{name}": offender[name] for name in names if offender.get(name)}
    return replace(finding, layer=offender.get("layer") or finding.layer, evidence=evidence)


def run(composition: Composition, arguments: Sequence[str] = ()) -> int:
    """Print the verdict of each run and rewrite its findings; with `--replay` run its last step again."""
    console = Console()
    for path in [word for word in arguments if word != REPLAY]:
        folder = open_run(path)
        findings = examine(folder)
        folder.write_findings(findings)
        folder.update_summary(verdict=verdict_of(findings))
        console.print(f"{path}: [bold]{verdict_of(findings)}[/]")
        console.show(findings)
        if REPLAY in arguments:
            console.print(_replayed(folder))
    return DONE_CODE


def _replayed(folder: RunFolder) -> str:
    from stabletrain.app.commands.replay import replay

    offender = replay(folder)
    if offender is None:
        return "  replayed: every tensor of the step is finite on this machine"
    where = f" of {offender.layer}" if offender.layer else ""
    count = f"{offender.num_nonfinite:,} of {offender.size:,} not finite"
    return f"  replayed: first in {offender.phase}: {escape(offender.tensor)}{escape(where)}, {count}"
