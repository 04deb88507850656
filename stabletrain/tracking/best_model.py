"""Log the best network to MLflow, with its signature and an input example.

The training process exports the network at its end, since it has torch imported already; the shipper, which does
without torch, logs the file. If there is no such file, because the process was killed or the network cannot be
exported, the shipper rebuilds the network and logs it as MLflow's own function does.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from stabletrain.tracking.store import quiet

MODEL_NAME = "best"
GRAPH, EXAMPLE, OUTPUTS, ABOUT = "model.pt2", "example.npy", "outputs.npy", "about.json"
_DATA = "data"  # the folder of the weights in a logged model, as `mlflow.pytorch` names it


def is_exported(target: Path) -> bool:
    """Return whether the export in this folder is complete: its last file is there."""
    return (target / ABOUT).is_file()


def log_exported(run_id: str, tracking_uri: str, exported: Path) -> None:
    """Log an exported network as the model of a run, without importing torch.

    Args:
        run_id: Id of the MLflow run.
        tracking_uri: The server or store.
        exported: The folder with the exported graph, an example of its inputs and its outputs for it.
    """
    import mlflow
    from mlflow.models import Model

    with quiet():
        mlflow.set_tracking_uri(tracking_uri)
        with mlflow.start_run(run_id=run_id):
            Model.log(
                None,
                _ExportedFlavor,
                name=MODEL_NAME,
                run_id=run_id,
                flavor_name="pytorch",
                exported=exported,
                validate_serving_input=False,  # it would load the network, and torch with it
            )


class _ExportedFlavor:
    """Saves an exported network in the format of `mlflow.pytorch`, which loads it (checked with 3.17.2)."""

    @staticmethod
    def save_model(path: str, mlflow_model: Any, exported: Path, **options: Any) -> None:
        from mlflow.models import infer_signature
        from mlflow.models.utils import _save_example
        from mlflow.pyfunc import add_to_model

        folder = Path(path)
        (folder / _DATA).mkdir(parents=True)
        shutil.copy(exported / GRAPH, folder / _DATA / GRAPH)
        example, outputs = np.load(exported / EXAMPLE), np.load(exported / OUTPUTS)
        mlflow_model.signature = infer_signature(example, outputs)
        _save_example(mlflow_model, example, path)
        version = json.loads((exported / ABOUT).read_text())["torch"]
        mlflow_model.add_flavor("pytorch", model_data=_DATA, pytorch_version=version, code=None)
        add_to_model(
            mlflow_model,
            loader_module="mlflow.pytorch",
            data=_DATA,
            pickle_module_name="mlflow.pytorch.pickle_module",
            code=None,
            conda_env="conda.yaml",
            python_env="python_env.yaml",
            model_config={"device": None},
        )
        mlflow_model.model_size_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        mlflow_model.save(str(folder / "MLmodel"))
        _write_environment(folder)


def _write_environment(folder: Path) -> None:
    import yaml
    from mlflow.utils.environment import _process_pip_requirements, _PythonEnv

    conda, requirements, _ = _process_pip_requirements(None, _requirements(), None)
    (folder / "conda.yaml").write_text(yaml.safe_dump(conda, default_flow_style=False))
    (folder / "requirements.txt").write_text("\n".join(requirements))
    _PythonEnv.current().to_yaml(str(folder / "python_env.yaml"))


def _requirements() -> list[str]:
    return [f"{name}=={importlib.metadata.version(name)}" for name in ("torch", "numpy")]


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
                        pip_requirements=_requirements(),
                        serialization_format=serialization_format,
                    )
                    return
                except Exception:
                    if serialization_format == "pickle":
                        raise
