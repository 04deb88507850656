"""The program that ships a run's record during training, which `tracking.shipper_process` starts.

`python -m stabletrain.app.shipping_program RUN_DIR EXPORT_DIR` reads `begin` and `end` from its standard input and
prints one event in JSON on each line. It needs no configuration but the run's, hence neither Hydra nor Lightning.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stabletrain.tracking.priority import run_with_low_priority
from stabletrain.tracking.shipper_process import IMPORTED
from stabletrain.tracking.training_pipe import TrainingPipe

EXPORT_TIMEOUT_S = 60.0  # after the end of training, for the export of the best network


def main(words: Sequence[str]) -> None:
    """Ship a run until its training has ended."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # meant for training, which then sends `end`
        signal.signal(number, signal.SIG_IGN)
    training = TrainingPipe(sys.stdin, has_begun=False)
    run_dir, export_dir = map(Path, words)
    try:
        run_with_low_priority(_import_all, lambda: training.wait_for_end(0))
        _emit({"event": IMPORTED})
        _follow(run_dir, export_dir, training)
    finally:
        shutil.rmtree(export_dir, ignore_errors=True)


def _import_all() -> None:
    """Import everything that a pass needs."""
    from stabletrain.app.building import build_shipper  # noqa: F401
    from stabletrain.tracking import follow  # noqa: F401
    from stabletrain.tracking.store import import_client

    import_client()


def _follow(run_dir: Path, export_dir: Path, training: TrainingPipe) -> None:
    from stabletrain.app.building.build_shipper import make_shipper
    from stabletrain.record.run_folder import RunFolder
    from stabletrain.tracking.best_model import is_exported
    from stabletrain.tracking.follow import follow_run

    def find_export() -> Path | None:
        training.wait_for_close(EXPORT_TIMEOUT_S)
        return export_dir if is_exported(export_dir) else None

    follow_run(lambda: make_shipper(RunFolder(run_dir), find_export), training, _emit)


def _emit(event: Mapping[str, Any]) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
