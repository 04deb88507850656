"""`diagnose RUN_DIR`: the rules again, on a recorded run."""

from __future__ import annotations

from collections.abc import Sequence

from stabletrain.app.compose import Composition
from stabletrain.app.console import Console, finding_lines
from stabletrain.app.run_folder import open_run
from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.finding import Finding, verdict_of
from stabletrain.diagnosis.remedies import advise
from stabletrain.record.folder import RunFolder
from stabletrain.record.observe import observe
from stabletrain.record.reader import load_record


def examine(folder: RunFolder, error: BaseException | None = None) -> list[Finding]:
    """Return the findings of a recorded run.

    Args:
        folder: The run.
        error: What stopped it. A stop for a non-finite gradient is a finding even where the watch was off.
    """
    record = load_record(folder.path)
    findings = diagnose(observe(record))
    if error is not None and not any(f.kind == "nonfinite" for f in findings):
        from stabletrain.training.stability import NonFiniteGradient

        if isinstance(error, NonFiniteGradient):
            observed = observe(record)
            advice = advise("nonfinite", observed.choices, observed.learning_rate)
            evidence = {"norm": str(error.norm)}
            findings.insert(0, Finding("nonfinite", "critical", None, error.step, error.step, evidence, **advice))
    return findings


def run(composition: Composition, arguments: Sequence[str] = ()) -> int:
    """Print the verdict of each run and rewrite its findings."""
    console = Console()
    for path in arguments:
        folder = open_run(path)
        findings = examine(folder)
        folder.write_findings(findings)
        folder.update_summary(verdict=verdict_of(findings))
        console.print(f"{path}: [bold]{verdict_of(findings)}[/]")
        for line in finding_lines(findings):
            console.print(line)
    return 0
