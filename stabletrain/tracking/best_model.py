"""Log the best network to MLflow, with its signature and an input example."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import numpy as np

from stabletrain.tracking.store import quiet

MODEL_NAME = "best"


def log_network(run_id: str, tracking_uri: str, network: Any, example: np.ndarray, outputs: np.ndarray) -> None:
    """Log a network as the model of a run.

    It is saved as an exported graph, which loads without the network's source and executes no code on loading; a
    network that cannot be exported is pickled.

    Args:
        run_id: Id of the MLflow run.
        tracking_uri: The server or store.
        network: A `torch.nn.Module` in evaluation mode, on the CPU.
        example: Inputs of shape (batch, …) with batch ≥ 2: `torch.export` would take a batch size of 1 as constant.
        outputs: The network's outputs for `example`.
    """
    import mlflow
    from mlflow import pytorch as mlflow_pytorch
    from mlflow.models import infer_signature

    signature = infer_signature(example, outputs)
    requirements = [f"{name}=={importlib.metadata.version(name)}" for name in ("torch", "numpy")]
    with quiet():
        mlflow.set_tracking_uri(tracking_uri)
        with mlflow.start_run(run_id=run_id):
            for serialization_format in ("pt2", "pickle"):
                try:
                    mlflow_pytorch.log_model(
                        network,
                        name=MODEL_NAME,
                        signature=signature,
                        input_example=example,
                        pip_requirements=requirements,
                        serialization_format=serialization_format,
                    )
                    return
                except Exception:
                    if serialization_format == "pickle":
                        raise
