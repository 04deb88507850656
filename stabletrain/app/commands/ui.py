"""`ui`: serve MLflow and TensorBoard from the local store, on 127.0.0.1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stabletrain.app.composition.compose import Composition
from stabletrain.vocabulary.statuses import DONE_CODE


def run(composition: Composition, arguments: Sequence[str] = ()) -> int:
    """Serve the runs in the folder that holds `output_dir`, by default `runs/`, until stopped."""
    from stabletrain.tracking.page_servers import serve
    from stabletrain.tracking.store import resolve_tracking_uri

    config = composition.config
    run_dir = Path(config["output_dir"] or "runs/any").absolute()
    explicit = ((config["logger"] or {}).get("mlflow") or {}).get("tracking_uri")
    uri = resolve_tracking_uri(explicit, run_dir)
    ports = config["ui"]
    serve(uri, run_dir.parent, mlflow_port=ports["mlflow_port"], tensorboard_port=ports["tensorboard_port"])
    return DONE_CODE
