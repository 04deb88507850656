"""`report RUN_DIR…`: the HTML report again, from the record."""

from __future__ import annotations

from collections.abc import Sequence

from stabletrain.app.compose import Composition
from stabletrain.app.run_folder import open_run
from stabletrain.report.page import write_report


def run(composition: Composition, arguments: Sequence[str] = ()) -> int:
    """Write `report.html` of each run."""
    for folder in [open_run(path) for path in arguments]:
        print(write_report(folder))
    return 0
