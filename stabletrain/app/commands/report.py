"""`report RUN_DIR…`: write the HTML report again; for several runs or a sweep, one page that compares them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from stabletrain.app.composition.compose import Composition
from stabletrain.app.output_dir import open_run, unwritable
from stabletrain.errors import RequestError
from stabletrain.record.run_folder import RunFolder
from stabletrain.record.sweep_folder import SweepFolder
from stabletrain.report.compare import PAGE, write_comparison
from stabletrain.report.page import write_report
from stabletrain.vocabulary.statuses import DONE_CODE


def run(composition: Composition, arguments: Sequence[str] = ()) -> int:
    """Write `report.html` of one run, or a page that compares several, and print its path.

    A comparison goes to `output_dir` if it is given, else to the sweep's folder or the runs' common parent.

    Raises:
        RequestError: A folder holds neither run nor sweep, or the page cannot be written. Nothing is written then.
    """
    folders = [folder for path in arguments for folder in _runs(path)]
    folders = list({folder.path: folder for folder in folders}.values())  # named twice, shown once
    try:
        print(_write(folders, arguments, composition.config["output_dir"]))
    except OSError as error:
        command = f"python -m stabletrain report {' '.join(arguments)} output_dir=reports"
        raise unwritable(error, error.filename, command) from error
    return DONE_CODE


def _write(folders: Sequence[RunFolder], arguments: Sequence[str], output_dir: str | None) -> Path:
    sweep = SweepFolder(arguments[0])
    is_sweep = len(arguments) == 1 and sweep.exists
    if len(folders) == 1 and not is_sweep:
        is_beside_another = folders[0].events == folders[0].path  # event files in the log folder of another tool
        if is_beside_another and not folders[0].summary.is_file():
            from stabletrain.app.commands.diagnose import judge

            judge(folders[0])
        return write_report(folders[0])
    if output_dir is not None:
        return write_comparison(folders, Path(output_dir).absolute() / PAGE)
    if is_sweep:
        return write_comparison(folders, sweep.report)
    above = Path(os.path.commonpath([folder.path.parent for folder in folders]))
    return write_comparison(folders, above / PAGE)


def _runs(path: str) -> list[RunFolder]:
    """Return the run in a folder, or the children of the sweep in it."""
    sweep = SweepFolder(path)
    if not sweep.exists:
        return [open_run(path)]
    if children := sweep.children():
        return children
    raise RequestError("No child of this sweep has a record.", key="RUN_DIR", found=path, allowed="a run")
