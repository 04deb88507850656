"""`sync RUN_DIR`: ship what is recorded on disk, and not yet on the tracking server."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from stabletrain.app.building.build_shipper import make_shipper
from stabletrain.app.composition.compose import Composition
from stabletrain.app.output_dir import open_run
from stabletrain.errors import RequestError
from stabletrain.tracking.follow import follow
from stabletrain.tracking.store import Unreachable
from stabletrain.vocabulary.statuses import DONE_CODE, FAILED, RUNNING

FOLLOW = "--follow"


def run(composition: Composition, arguments: Sequence[str] = ()) -> int:
    """Ship one run or several; with `--follow`, go on until the training ends (see `tracking.follow`).

    Raises:
        RequestError: A folder holds no run, or the tracking server does not answer.
    """
    for path in [a for a in arguments if a != FOLLOW]:
        folder = open_run(path)
        shipper = make_shipper(folder)
        if FOLLOW in arguments:
            follow(shipper, sys.stdin, _emit)
            continue
        try:
            result = shipper.ship()
        except Unreachable as error:
            raise RequestError(
                f"The tracking server does not answer: {error}",
                key="MLFLOW_TRACKING_URI",
                found=shipper.tracking_uri,
                allowed="the address of a running MLflow server; unset for the store next to the run",
                command=f"python -m stabletrain sync {path}   # again, once it runs",
            ) from error
        shipper.write_links(result)
        if result.status == "KILLED" and folder.read_summary().get("status") == RUNNING:
            folder.update_summary(status=FAILED)  # the process was killed before it could write this
        print(f"{path}: {result}")
        for note in result.notes:
            print(f"  {note}")
        if result.url:
            print(f"  {result.url}")
    return DONE_CODE


def _emit(event: Mapping[str, Any]) -> None:
    print(json.dumps(event), flush=True)
