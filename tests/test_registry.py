"""Every option of every group has its YAML, its row in a contract table, and its heading in the documentation."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from stabletrain.app.composition.compose import compose
from stabletrain.app.composition.paths import find_config_dir
from stabletrain.app.composition.schema import GROUPS
from stabletrain.app.composition.targets import expected_types, make

ROOT = Path(__file__).parents[1]
OWN = "custom"  # the option for a user-defined class: documented, with no row of its own


@dataclass(frozen=True)
class Place:
    """Where a group's options are listed.

    Attributes:
        page: The page with their headings.
        above: The heading above theirs; "" where they are on the second level.
        table: File and name of the contract table; "" for the tables of this file.
    """

    page: str
    above: str = ""
    table: tuple[str, str] | None = None


NETWORK = ("tests/network/test_network_contract.py", "ROWS")
PLACES = {
    "model": Place("models", table=NETWORK),
    "activation": Place("activation", table=NETWORK),
    "init": Place("initialization", table=NETWORK),
    "norm": Place("normalization", table=NETWORK),
    "residual": Place("residual", table=NETWORK),
    "clip": Place("clipping", table=("tests/gradient/test_gradient_contract.py", "ROWS")),
    "data": Place("data", table=("tests/data/test_data_contract.py", "CONTRACT")),
    "optimizer": Place("optimization", "Optimizers"),
    "schedule": Place("optimization", "Schedules"),
    "trainer": Place("configuration", "Trainer"),
    "logger": Place("configuration", "Logger"),
    "watch": Place("watching", "How often"),
    "doctor": Place("configuration", "Doctor"),
    "search": Place("sweeps", "Search"),
    "experiment": Place("configuration", "Experiment"),
}

# The contract of the groups that have no table elsewhere: what each option composes to.
ROWS = {
    "optimizer": {
        "sgd": ("SGD", 0.1),
        "momentum": ("SGD", 0.05),
        "rmsprop": ("RMSprop", 1e-3),
        "adam": ("Adam", 1e-3),
        "adamw": ("AdamW", 1e-3),
        "muon": ("Muon", 1e-3),
    },
    "schedule": {
        "constant": "Constant",
        "warmup_cosine": "WarmupCosine",
        "step": "StepDecay",
        "plateau": "Plateau",
        "onecycle": "OneCycle",
        "wsd": "WarmupStableDecay",
    },
    "trainer": {
        "auto": {"accelerator": "auto", "devices": 1, "strategy": "auto"},
        "cpu": {"accelerator": "cpu", "devices": 1, "strategy": "auto"},
        "gpu": {"accelerator": "gpu", "devices": 1, "strategy": "auto"},
        "ddp": {"accelerator": "auto", "devices": "auto", "strategy": "ddp"},
        "ddp_cpu": {"accelerator": "cpu", "devices": 2, "strategy": "ddp"},
        "fsdp": {"accelerator": "auto", "devices": "auto", "strategy": "fsdp"},
        "debug": {"accelerator": "cpu", "devices": 1, "strategy": "auto", "limit_train_batches": 10},
    },
    "logger": {
        "default": {"mlflow": "MLflowLogger"},
        "mlflow": {"mlflow": "MLflowLogger"},
        "csv": {"csv": "CSVLogger"},
        "wandb": {"wandb": "WandbLogger"},
        "tensorboard": {},
        "none": {},
    },
    "watch": {
        "off": {"statistics_every": 0, "histograms_every": 0, "points_per_decade": 0, "time_every": 0},
        "norms": {"statistics_every": 1, "histograms_every": 0, "points_per_decade": 0, "time_every": 0},
        "default": {"statistics_every": 10, "histograms_every": 50, "points_per_decade": 0, "time_every": 100},
        "every_step": {"statistics_every": 1, "histograms_every": 1, "points_per_decade": 0, "time_every": 100},
        "log_spaced": {"statistics_every": 1, "histograms_every": 1, "points_per_decade": 20, "time_every": 1},
    },
    "doctor": {
        "off": {"enabled": False, "fail_on": None},
        "default": {"enabled": True, "fail_on": None},
        "strict": {"enabled": True, "fail_on": "warning"},
    },
    "search": {"clip": {"clip": ["max_norm"]}, "lr": {"optimizer": ["lr"]}, "init": {"init": ["choices"]}},
    "experiment": {
        "vanishing_depth": "MLP",
        "exploding_time": "RNN",
        "temporal_order": "RNN",
        "long_memory": "LSTM",
        "critical_depth": "MLP",
        "rezero_depth": "MLP",
        "densenet1d": "DenseNet1d",
    },
}
# Where classes are exported that an option has to name, by group, and the exported ones that no option names.
EXPORTS = {
    "init": "stabletrain.network.initialization",
    "norm": "stabletrain.network.normalization",
    "residual": "stabletrain.network.residual",
    "clip": "stabletrain.gradient",
    "data": "stabletrain.data",
    "schedule": "stabletrain.training",
}


def read_options(group: str) -> dict[str, dict]:
    return {p.stem: yaml.safe_load(p.read_text()) for p in sorted((find_config_dir() / group).glob("*.yaml"))}


def class_of(section: dict) -> str:
    return section["_target_"].rpartition(".")[2]


def read_rows(group: str) -> set[str]:
    """Return the options in a group's contract table; of a table of classes, the options that name these classes."""
    if PLACES[group].table is None:
        return set(ROWS[group])
    path, name = PLACES[group].table
    values = {
        ast.unparse(target): node.value
        for node in ast.parse((ROOT / path).read_text()).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    }
    rows = dict(zip(values[name].keys, values[name].values, strict=True))
    keys = {key.value if isinstance(key, ast.Constant) else ast.unparse(key): value for key, value in rows.items()}
    if group in keys:  # a table of several groups
        keys = {key.value: None for key in keys[group].keys}
    by_class = {class_of(section): option for option, section in read_options(group).items() if option != OWN}
    return {by_class.get(key, key) if group == "data" else key for key in keys}


def read_sections(page: str, above: str) -> dict[str, str]:
    """Return the text under each heading of the level at which options stand."""
    text = (ROOT / "docs" / f"{page}.md").read_text()
    if above:
        text = re.search(rf"^## {re.escape(above)}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]
    parts = re.split(rf"^{'###' if above else '##'} (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_group_is_walked():
    assert set(PLACES) == set(GROUPS) == {p.name for p in find_config_dir().iterdir() if p.is_dir()}


@pytest.mark.parametrize("group", PLACES)
def test_options_and_rows_are_the_same(group):
    assert read_rows(group) - {OWN} == set(read_options(group)) - {OWN}


@pytest.mark.parametrize("group", PLACES)
def test_every_option_has_its_heading(group):
    sections = read_sections(PLACES[group].page, PLACES[group].above)
    options = set(read_options(group))
    assert options - set(sections) == set()
    names = {heading for heading in sections if re.fullmatch(r"[a-z][a-z0-9_]*", heading)}
    assert names - options == set()  # no heading for an option that is gone


@pytest.mark.parametrize("group", EXPORTS)
def test_every_exported_class_has_its_yaml(group):
    module = importlib.import_module(EXPORTS[group])
    kinds = tuple(kind for kind in expected_types(group) if kind.__module__.startswith("stabletrain."))
    kinds = kinds or tuple(c for c in (getattr(module, "Norm", None), getattr(module, "Residual", None)) if c)
    assert kinds
    classes = {
        name
        for name, found in inspect.getmembers(module, inspect.isclass)
        if issubclass(found, kinds) and found not in kinds and not inspect.isabstract(found)
    }
    assert classes - {class_of(section) for section in read_options(group).values()} == set()
    assert len(classes) > 2


def test_what_is_missing_is_noticed(monkeypatch, tmp_path):
    """The control: an option with no row and no heading, and a heading of the wrong level."""
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip/new.yaml").write_text("_target_: stabletrain.gradient.NormClip\n")
    monkeypatch.setitem(globals(), "find_config_dir", lambda: tmp_path)
    assert set(read_options("clip")) == {"new"}
    assert "new" not in read_rows("clip")
    assert "new" not in read_sections("clipping", "")
    assert "sgd" not in read_sections("optimization", "")
    assert "sgd" in read_sections("optimization", "Optimizers")


# --- the contract of the groups that have no table elsewhere --------------------------------------------------------


@pytest.mark.parametrize("option", ROWS["optimizer"])
def test_an_optimizer_reduces_a_quadratic(option):
    section = compose([f"optimizer={option}"]).config["optimizer"]
    assert (class_of(section), section["lr"]) == ROWS["optimizer"][option]
    weight = nn.Parameter(torch.full((4, 4), 2.0))
    optimizer = make(section, "optimizer")([weight])
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] == 64.0
    assert losses[1] < losses[0]
    assert max(losses[1:]) < 64.0


@pytest.mark.parametrize("option", ROWS["schedule"])
def test_a_schedule_never_exceeds_the_rate_of_the_optimizer(option):
    section = compose([f"schedule={option}"]).config["schedule"]
    assert class_of(section) == ROWS["schedule"][option]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    attached = make(section, "schedule")().attach(optimizer, 400)
    scheduler, rates = attached.get("lr_scheduler", {}).get("scheduler"), []
    for _ in range(400):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if scheduler is not None:
            scheduler.step(1.0) if option == "plateau" else scheduler.step()
    assert min(rates) >= 0.0
    assert max(rates) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("group", "option"), [(g, o) for g in ("trainer", "watch", "doctor") for o in ROWS[g]], ids="=".join
)
def test_a_section_composes_to_its_values(group, option):
    section = compose([f"{group}={option}"]).config[group]
    assert {name: section[name] for name in ROWS[group][option]} == ROWS[group][option]


@pytest.mark.parametrize("option", ROWS["logger"])
def test_a_logger_composes_to_its_classes(option):
    sections = compose([f"logger={option}"]).config["logger"] or {}
    assert {name: class_of(section) for name, section in sections.items()} == ROWS["logger"][option]


@pytest.mark.parametrize("option", ROWS["search"])
def test_a_search_varies_its_parameters(option):
    parameters = compose([f"search={option}"]).config["search"]["parameters"]
    assert {name: list(parameters[name]) for name in ROWS["search"][option]} == ROWS["search"][option]


@pytest.mark.parametrize("option", ROWS["experiment"])
def test_an_experiment_names_its_model_and_its_run(option):
    config = compose([f"experiment={option}"]).config
    assert (class_of(config["model"]), config["run_name"]) == (ROWS["experiment"][option], option)
