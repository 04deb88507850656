"""Rebuild the best network of a run from its folder, and export it or log it to MLflow."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from stabletrain.app.building.build_data import build_data, examples_of
from stabletrain.app.building.build_model import build_network
from stabletrain.record.checkpoint_files import BEST
from stabletrain.record.run_folder import RunFolder
from stabletrain.tracking.best_model import ABOUT, EXAMPLE, GRAPH, OUTPUTS, log_network

NUM_EXAMPLES = 4


def log_best_network(folder: RunFolder, config: Mapping[str, Any], run_id: str, tracking_uri: str) -> None:
    """Log the network of `checkpoints/best.ckpt` to MLflow."""
    network, example = _rebuild(folder, config)
    with torch.no_grad():
        outputs = network(example)
    log_network(run_id, tracking_uri, network, example.numpy(), outputs.numpy())


def export_best_network(folder: RunFolder, config: Mapping[str, Any], target: Path) -> None:
    """Export the network of `checkpoints/best.ckpt` for the shipper; nothing if there is no such checkpoint."""
    if (folder.checkpoints / BEST).is_file():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch.export, about recurrent networks
            export_network(*_rebuild(folder, config), target)


def export_network(network: nn.Module, example: Tensor, target: Path) -> None:
    """Export a network for `log_exported`, as `mlflow.pytorch` does: a graph, which executes no code when loaded.

    Args:
        network: A network in evaluation mode, on the CPU.
        example: Inputs of shape (batch, …) with batch ≥ 2: `torch.export` would take a batch size of 1 as constant.
        target: An existing folder.

    Raises:
        Exception: Any, from `torch.export`: this network cannot be exported.
    """
    with torch.no_grad():
        outputs = network(example)
    program = torch.export.export(network, (example,), dynamic_shapes=[{0: torch.export.Dim.AUTO}])
    torch.export.save(program, target / GRAPH)
    np.save(target / EXAMPLE, example.numpy())
    np.save(target / OUTPUTS, outputs.numpy())
    (target / ABOUT).write_text(json.dumps({"torch": str(torch.__version__)}))  # last: the export is complete


def _rebuild(folder: RunFolder, config: Mapping[str, Any]) -> tuple[nn.Module, Tensor]:
    """Return the network in evaluation mode, and some inputs."""
    data = build_data(config)
    network = build_network(config, data, initialized=False)
    checkpoint = torch.load(folder.checkpoints / BEST, map_location="cpu", weights_only=True)
    prefix = "" if isinstance(network, pl.LightningModule) else "network."
    weights = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    network.load_state_dict(weights)
    return network.eval(), examples_of(data, NUM_EXAMPLES, "test")
