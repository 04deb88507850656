"""`ui`: serve MLflow and TensorBoard from the local store, and the live page, on 127.0.0.1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stabletrain.app.composition.compose import Composition
from stabletrain.errors import RequestError
from stabletrain.record.run_folder import RunFolder
from stabletrain.vocabulary.statuses import DONE_CODE


def run(composition: Composition, arguments: Sequence[str] = ()) -> int:
    """Serve the runs in a folder, or one run, until stopped; by default those beside `output_dir`, that is, `runs/`.

    Raises:
        RequestError: More than one folder, or one that does not exist.
    """
    from stabletrain.tracking.page_servers import serve
    from stabletrain.tracking.store import resolve_tracking_uri

    config = composition.config
    run_dir = Path(config["output_dir"] or "runs/any").absolute()
    only = None
    if arguments:
        folder = _existing_folder(arguments)
        only = folder.name if RunFolder(folder).exists else None
        run_dir = folder if only else folder / "any"
    explicit = ((config["logger"] or {}).get("mlflow") or {}).get("tracking_uri")
    serve(resolve_tracking_uri(explicit, run_dir), run_dir.parent, only=only, **config["ui"])
    return DONE_CODE


def _existing_folder(arguments: Sequence[str]) -> Path:
    folder = Path(arguments[0]).absolute()
    if len(arguments) == 1 and folder.is_dir():
        return folder
    raise RequestError(
        "ui takes one folder." if len(arguments) > 1 else "There is no such folder.",
        key="RUN_DIR",
        found=" ".join(arguments),
        allowed="a folder of runs, or the output_dir of one run",
        command="python -m stabletrain ui runs",
    )
