"""The typed part of a configuration: what exists, of which type, in which range. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from stabletrain.errors import RequestError, require_choice, require_range
from stabletrain.vocabulary import metric_names as names

SIGNALS = ("gradient", "delta", "activation", "weight", "update", "moment", "clip", "units")  # as in signal/snapshot
GROUPS = (
    "model",
    "activation",
    "init",
    "norm",
    "residual",
    "clip",
    "optimizer",
    "schedule",
    "data",
    "trainer",
    "logger",
    "watch",
    "doctor",
    "search",
    "experiment",
)


@dataclass
class WatchSettings:
    """What to look at, and how often."""

    statistics_every: int = 10
    """Steps between two measurements of every layer; 0 for never."""
    histograms_every: int = 50
    """Steps between two histograms of every layer; 0 for never."""
    points_per_decade: int = 0
    """If above 0, looks come this often in each tenfold of the steps, close together at first and far apart later."""
    signals: list[str] = field(default_factory=lambda: ["gradient"])
    """What to measure: gradient and any of delta, activation, weight, update, moment, clip, units."""
    signals_every: int = 50
    """Steps between two measurements of the signals beside the gradient; 0 for never."""
    time_every: int = 0
    """Steps between two measurements of the gradient through time of recurrent layers; 0 for never."""


@dataclass
class DoctorSettings:
    """What to make of what was seen."""

    enabled: bool = True
    """Diagnose at the end of the run."""
    fail_on: str | None = None
    """Exit with code 3 if a finding is at least this severe: warning or critical."""


@dataclass
class LossSettings:
    """What is minimized, beside what the task of the data says."""

    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes, from 0 to below 1 (Szegedy et al. 2016, section 7)."""


@dataclass
class UiSettings:
    """Where `stabletrain ui` listens, on 127.0.0.1."""

    mlflow_port: int = 5000
    """Port of the MLflow pages."""
    tensorboard_port: int = 6006
    """Port of the TensorBoard pages."""


@dataclass
class SearchSettings:
    """What a search tries, and how it judges."""

    overrides: list[str] = field(default_factory=list)
    """Overrides of every trial, before those of the command line."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """What to search, as in the configuration: `clip: {max_norm: {low: 0.1, high: 10.0, log: true}}`, or `choices`."""
    metric: str = names.VAL_LOSS
    """What a trial is judged by, at its end."""
    direction: str = "minimize"
    """minimize or maximize."""
    num_trials: int = 20
    """Trials in all, those of earlier sessions with the same storage included."""
    sampler_seed: int = 0
    """Seed of Optuna's sampler (TPE, Bergstra et al. 2011)."""
    pruner: str = "none"
    """none, or median: end a trial that is worse than the median of the earlier ones at the same epoch."""
    storage: str | None = None
    """Database that the search goes on from, `sqlite:///search.db`; in memory by default."""
    study_name: str | None = None
    """Name of the study in the storage; by default it follows from space and overrides."""


@dataclass
class Settings:
    """Everything a run is made of. Groups hold what their chosen option lists."""

    seed: int = 0
    """Seed of weights, splits and order."""
    output_dir: str | None = None
    """Where the run's files go; runs/<unique id> by default."""
    experiment_name: str = "stabletrain"
    """MLflow experiment."""
    run_name: str | None = None
    """Name of the run in MLflow; the folder's name by default."""
    resume: str | None = None
    """auto to go on in output_dir, or the folder of another run to start from its last checkpoint."""
    allow_targets: list[str] = field(default_factory=list)
    """Packages whose functions may be named as _target_."""
    lr_find: bool = False
    """Look for the learning rate first, with Lightning's finder, and train with it."""
    compile: bool = False
    """Compile the network with torch.compile; steps that are looked at layer by layer run uncompiled."""
    choices: dict[str, str] = field(default_factory=dict)
    """Chosen option by group: written into a run's config.yaml, so that it says where its numbers come from."""
    loss: LossSettings = field(default_factory=LossSettings)
    watch: WatchSettings = field(default_factory=WatchSettings)
    doctor: DoctorSettings = field(default_factory=DoctorSettings)
    ui: UiSettings = field(default_factory=UiSettings)
    search: SearchSettings | None = None
    model: Any = MISSING
    activation: Any = MISSING
    init: Any = MISSING
    norm: Any = MISSING
    residual: Any = MISSING
    clip: Any = MISSING
    optimizer: Any = MISSING
    schedule: Any = MISSING
    data: Any = MISSING
    trainer: Any = MISSING
    logger: Any = field(default_factory=dict)


def register_schema() -> None:
    """Make the typed part known to Hydra."""
    ConfigStore.instance().store(name="settings", node=Settings)


def check_ranges(config: Mapping[str, Any]) -> None:
    """Check the typed part's ranges.

    Raises:
        RequestError: With the key, what was found and what is allowed.
    """
    require_range("seed", config["seed"], 0, 2**32 - 1)
    require_range("loss.label_smoothing", config["loss"]["label_smoothing"], 0.0, 1.0, open_maximum=True)
    for key in ("statistics_every", "histograms_every", "points_per_decade", "signals_every", "time_every"):
        require_range(f"watch.{key}", config["watch"][key], 0)
    for signal in config["watch"]["signals"]:
        require_choice("watch.signals", signal, SIGNALS)
    for key in ("mlflow_port", "tensorboard_port"):
        require_range(f"ui.{key}", config["ui"][key], 1, 65535)
    if config["doctor"]["fail_on"] is not None:
        require_choice("doctor.fail_on", config["doctor"]["fail_on"], ["warning", "critical"])
    for key in ("experiment_name", "run_name", "output_dir", "resume"):
        if config[key] is not None and not config[key].strip():
            raise RequestError(f"{key} is empty.", key=key, found="", allowed="a text that is not empty")
