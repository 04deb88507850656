"""`diagnose RUN_DIR --replay`: run the step that stopped a run again, from the bundle that it left."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from torch.optim import Optimizer

from stabletrain.app.building.build_on_threads import build_as_recorded
from stabletrain.errors import RequestError
from stabletrain.record.run_folder import RunFolder
from stabletrain.signal.offender import Offender
from stabletrain.training.callbacks.offender_bundle import BUNDLE, FOLDER, find_in_step

WHOLE = {"64-true": torch.float64, "64": torch.float64, "bf16-true": torch.bfloat16, "16-true": torch.float16}


def replay(folder: RunFolder | Path | str) -> Offender | None:
    """Rebuild the network from `config.yaml`, load the bundle's state, and find the first non-finite tensor again.

    Args:
        folder: The run's folder.

    Returns:
        The offender, as the run found it; None if every tensor is finite on this machine.

    Raises:
        RequestError: The run left no bundle: no non-finite gradient stopped it.
    """
    folder = folder if isinstance(folder, RunFolder) else RunFolder(folder)
    bundle = load_bundle(folder)
    module = build_as_recorded(yaml.safe_load(folder.config.read_text())).module
    precision = bundle["precision"]
    module.to(dtype=WHOLE.get(precision, torch.float32))
    module.load_state_dict(bundle["state_dict"])
    module.train()
    optimizer = _optimizer(module, bundle)
    cast = torch.autocast("cpu", torch.bfloat16) if precision == "bf16-mixed" else nullcontext()
    with cast:
        return find_in_step(module, bundle["batch"], bundle["batch_idx"], bundle["random"], optimizer)


def load_bundle(folder: RunFolder) -> dict[str, Any]:
    """Return what `OffenderBundle` wrote, on the CPU."""
    path = folder.path / FOLDER / BUNDLE
    if not path.is_file():
        raise RequestError(
            "This run has no step to replay: no non-finite gradient stopped it.",
            key="RUN_DIR",
            found=str(folder.path),
            allowed=f"a run with {FOLDER}/{BUNDLE}",
            command=f"python -m stabletrain diagnose {folder.path}",
        )
    return torch.load(path, map_location="cpu", weights_only=True)


def _optimizer(module: pl.LightningModule, bundle: dict[str, Any]) -> Optimizer | None:
    """Return the optimizer with its state, or None if the module has several or makes none without a trainer."""
    planned = bundle["num_steps"]
    module.trainer = SimpleNamespace(  # pyright: ignore[reportAttributeAccessIssue] (has what our own module reads)
        estimated_stepping_batches=int(planned) if math.isfinite(planned) else planned,
        world_size=1,
        global_step=bundle["step"],
    )
    if len(bundle["optimizers"]) != 1:
        return None
    found: Any = module.configure_optimizers()
    while not isinstance(found, Optimizer):
        if isinstance(found, dict) and "optimizer" in found:
            found = found["optimizer"]
        elif isinstance(found, list | tuple) and found:
            found = found[0]
        else:
            return None
    found.load_state_dict(bundle["optimizers"][0])
    return found
