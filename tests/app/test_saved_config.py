"""A `config.yaml` of an earlier version trains on, and old module paths still name the same modules."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import stabletrain
from stabletrain._moved import MOVED
from stabletrain.app.cli import main
from stabletrain.app.composition.compose import compose
from stabletrain.app.composition.targets import expected_types, resolve_target

# Written by the version before the packages were split, with
# model=rnn clip=norm init=orthogonal norm=layer optimizer=muon schedule=wsd trainer.max_steps=5 logger=none.
SAVED = Path(__file__).parent / "data" / "saved_config.yaml"
METRICS = {"train/loss": 2.613068, "val/loss": 2.726021, "val/accuracy": 0.188889, "test/accuracy": 0.177778}
# settings that this version did not have yet take their defaults
ADDED = {"threads": "auto", "console": "default", "checkpoint": {"every_steps": None, "every_seconds": None}}
LIVE_PORT = {"live_port": 6007}
ROOT = Path(stabletrain.__file__).parent
ALIASES = [old for old in MOVED if not (ROOT / old.replace(".", "/")).is_dir()]  # a package is found under its own name
OPTIONAL = {"ray": "ray", "signal.triton_kernel": "triton", "huggingface": "transformers"}

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")


def test_a_saved_configuration_composes_as_it_was():
    saved = yaml.safe_load(SAVED.read_text())
    composition = compose(saved=SAVED)
    assert composition.config == saved | ADDED | {"ui": saved["ui"] | LIVE_PORT}
    assert composition.choices == saved["choices"]


def test_a_saved_configuration_trains_to_the_same_metrics(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["--config", str(SAVED), "output_dir=mine", "trainer=cpu", "trainer.max_steps=5"]) == 0
    summary = json.loads((tmp_path / "mine/summary.json").read_text())
    assert summary["steps"] == 5
    assert {name: summary["metrics"][name] for name in METRICS} == pytest.approx(METRICS, rel=1e-4)


@pytest.mark.parametrize(
    ("group", "old", "new"),
    [
        ("model", "stabletrain.network.mlp.MLP", "stabletrain.network.MLP"),
        ("init", "stabletrain.network.lsuv.LSUV", "stabletrain.network.initialization.LSUV"),
        ("optimizer", "stabletrain.training.optimizers.Muon", "stabletrain.training.Muon"),
        ("schedule", "stabletrain.training.schedule.Constant", "stabletrain.training.Constant"),
        ("data", "stabletrain.data.table.Table", "stabletrain.data.Table"),
    ],
)
def test_a_target_with_an_old_path_is_the_same_class(group, old, new):
    sys.modules.pop(old.rpartition(".")[0], None)  # the warning comes with the first import
    with pytest.warns(DeprecationWarning, match="has moved to"):
        found = resolve_target(old, f"{group}._target_", expected_types(group), [])
    assert found is resolve_target(new, f"{group}._target_", expected_types(group), [])


@pytest.mark.parametrize("old", ALIASES)
def test_an_old_name_imports_the_same_module(old):
    if old in OPTIONAL:
        pytest.importorskip(OPTIONAL[old])
    sys.modules.pop(f"stabletrain.{old}", None)
    with pytest.warns(DeprecationWarning, match="has moved to"):
        found = importlib.import_module(f"stabletrain.{old}")
    assert found is importlib.import_module(f"stabletrain.{MOVED[old]}")
    assert found.__name__ == f"stabletrain.{MOVED[old]}"


def test_every_old_name_is_gone_and_every_new_one_is_there():
    for old, new in MOVED.items():
        assert not (ROOT / f"{old.replace('.', '/')}.py").exists(), old
        path = ROOT / new.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), new


def test_an_old_name_is_imported_in_a_fresh_process():
    code = "import stabletrain.network.mlp as old, stabletrain.network.models.mlp as new; assert old is new"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
