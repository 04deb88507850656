"""The jobs of `whole_run.py`: one network with its data, saved so that three scripts can train it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

MODELS = ("mlp", "rnn", "transformer")
HERE = Path(__file__).parent
SCRIPTS = {"bare loop": "whole_run_bare.py", "Lightning": "whole_run_lightning.py", "stabletrain": None}
OVERRIDES = ("clip=norm", "trainer=cpu", "seed=0")
NETWORK, DATA, SETTINGS = "network.pt", "data.pt", "settings.json"


@dataclass(frozen=True)
class Job:
    """A network with its data in a folder.

    Attributes:
        model: Option of the group `model`.
        folder: Folder with the initialized network, the data, and the settings.
        overrides: What composes the same run in stabletrain.
        store: MLflow's database, which is copied for every run.
    """

    model: str
    folder: Path
    overrides: tuple[str, ...]
    store: Path

    def command(self, kind: str, out: Path, bar: bool) -> list[str]:
        """Return the command line of a run, which writes to `out`."""
        out.mkdir(parents=True)
        store = out / "mlflow.db"
        shutil.copy(self.store, store)
        script = SCRIPTS[kind]
        if script is not None:
            flags = ["--bar"] if bar else []
            return [sys.executable, str(HERE / script), str(self.folder), str(out), f"sqlite:///{store}", *flags]
        extra = (f"output_dir={out / 'run'}", f"logger.mlflow.tracking_uri=sqlite:///{store}")
        timed = "trainer._target_=whole_run_trainer.TimedTrainer"
        return [sys.executable, "-m", "stabletrain", *self.overrides, *extra, timed]


def prepare(model: str, epochs: int, store: Path, folder: Path) -> Job:
    """Compose a run, build it, and save what the other scripts need."""
    from stabletrain.app.building.build import build
    from stabletrain.app.composition.compose import compose

    overrides = (f"model={model}", f"trainer.max_epochs={epochs}", *OVERRIDES)
    config = compose(overrides).config
    built: Any = build(config)
    folder.mkdir(parents=True)
    torch.save(built.network, folder / NETWORK)
    data = built.data
    torch.save({split: getattr(data, split).tensors for split in ("train", "val", "test")}, folder / DATA)
    settings = {
        "optimizer": {key: value for key, value in config["optimizer"].items() if key != "_target_"},
        "max_norm": config["clip"]["max_norm"],
        "batch_size": data.batch_size,
        "num_outputs": data.num_outputs,
        "epochs": epochs,
        "log_every": config["trainer"]["log_every_n_steps"],
        "seed": config["seed"],
    }
    assert config["optimizer"]["_target_"] == "torch.optim.Adam"  # the scripts use it
    (folder / SETTINGS).write_text(json.dumps(settings))
    return Job(model, folder, overrides, store)


def make_store(path: Path) -> Path:
    """Create MLflow's database, as the first run on a machine does."""
    code = "import sys, mlflow; mlflow.MlflowClient(sys.argv[1]).search_experiments()"
    subprocess.run([sys.executable, "-c", code, f"sqlite:///{path}"], check=True, capture_output=True)
    return path
