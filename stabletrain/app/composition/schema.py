"""The typed part of a configuration: names, types and ranges. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from stabletrain.errors import RequestError, require_choice, require_range
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import SEVERITIES
from stabletrain.vocabulary.signals import GRADIENT, SIGNALS

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
CONSOLES = ("default", "live")

AUTO = "auto"  # of threads


@dataclass
class WatchSettings:
    """What to measure, and how often."""

    statistics_every: int = 10
    """Steps between two measurements of every layer; 0 for never."""
    histograms_every: int = 50
    """Steps between two histograms of every layer; 0 for never."""
    points_per_decade: int = 0
    """If above 0, this many measurements per decade of steps: dense at first, sparse later."""
    signals: list[str] = field(default_factory=lambda: [GRADIENT])
    """What to measure: gradient, delta, activation, weight, update, moment, clip, units."""
    signals_every: int = 50
    """Steps between two measurements of the signals other than the gradient; 0 for never."""
    time_every: int = 0
    """Steps between two measurements of the gradient through time of recurrent layers; 0 for never."""


@dataclass
class DoctorSettings:
    """What the doctor does with the measurements."""

    enabled: bool = True
    """Diagnose at the end of the run."""
    fail_on: str | None = None
    """Exit with code 3 if a finding is at least this severe: warning or critical."""


@dataclass
class CheckpointSettings:
    """When `last.ckpt` is saved between the ends of epochs; by default every 10 seconds, or as often as 1% allows."""

    every_steps: int | None = None
    """Optimizer steps between two checkpoints."""
    every_seconds: float | None = None
    """Seconds between two checkpoints."""


@dataclass
class LossSettings:
    """Changes to the loss, which follows from the task of the data."""

    label_smoothing: float = 0.0
    """Fraction of the target spread uniformly over all classes, in [0, 1) (Szegedy et al. 2016, section 7)."""


@dataclass
class UiSettings:
    """Ports of `stabletrain ui` on 127.0.0.1."""

    mlflow_port: int = 5000
    """Port of MLflow."""
    tensorboard_port: int = 6006
    """Port of TensorBoard."""
    live_port: int = 6007
    """Port of the live page."""


@dataclass
class SearchSettings:
    """What a search tries, and how it compares trials."""

    overrides: list[str] = field(default_factory=list)
    """Overrides of every trial, applied before those of the command line."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """What to search, as in the configuration: `clip: {max_norm: {low: 0.1, high: 10.0, log: true}}`, or `choices`."""
    metric: str = names.VAL_LOSS
    """Metric that trials are compared by, at their end."""
    direction: str = "minimize"
    """minimize or maximize."""
    num_trials: int = 20
    """Total number of trials, including those of earlier sessions with the same storage."""
    sampler_seed: int = 0
    """Seed of Optuna's sampler (TPE, Bergstra et al. 2011)."""
    pruner: str = "none"
    """none, or median: stop a trial that is worse than the median of the earlier ones at the same epoch."""
    storage: str | None = None
    """Database from which the search resumes, such as `sqlite:///search.db`; in memory by default."""
    study_name: str | None = None
    """Name of the study in the storage; by default derived from the search space and the overrides."""


@dataclass
class Settings:
    """The whole configuration of a run. A group holds the settings of its chosen option."""

    seed: int = 0
    """Seed of the weights, the data splits and the order of the examples."""
    output_dir: str | None = None
    """Folder of the run's files; runs/<unique id> by default."""
    experiment_name: str = "stabletrain"
    """Name of the MLflow experiment."""
    run_name: str | None = None
    """Name of the run in MLflow; the folder's name by default."""
    resume: str | None = None
    """auto to resume the run in output_dir, or the folder of another run whose last checkpoint to start from."""
    allow_targets: list[str] = field(default_factory=list)
    """Packages whose functions may be named as _target_."""
    lr_find: bool = False
    """Find the learning rate first, with Lightning's finder, and train with it."""
    compile: bool = False
    """Compile the network with torch.compile; steps on which activations are measured run uncompiled."""
    console: str = CONSOLES[0]
    """default, or live: in a terminal, a table of all layers under the progress bar."""
    threads: Any = AUTO
    """CPU threads of each process: a number, or auto for as many as the network has work for (one for a small one)."""
    choices: dict[str, str] = field(default_factory=dict)
    """Chosen option by group, kept in a run's config.yaml to show where its values come from."""
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
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
    """Register the typed sections with Hydra."""
    ConfigStore.instance().store(name="settings", node=Settings)


def check_ranges(config: Mapping[str, Any]) -> None:
    """Check the ranges of the typed sections.

    Raises:
        RequestError: A value is out of range; the error says which values are allowed.
    """
    require_range("seed", config["seed"], 0, 2**32 - 1)
    _check_threads(config["threads"])
    if config["checkpoint"]["every_steps"] is not None:
        require_range("checkpoint.every_steps", config["checkpoint"]["every_steps"], 1)
    if config["checkpoint"]["every_seconds"] is not None:
        require_range("checkpoint.every_seconds", config["checkpoint"]["every_seconds"], 0.0, open_minimum=True)
    require_range("loss.label_smoothing", config["loss"]["label_smoothing"], 0.0, 1.0, open_maximum=True)
    for key in ("statistics_every", "histograms_every", "points_per_decade", "signals_every", "time_every"):
        require_range(f"watch.{key}", config["watch"][key], 0)
    for signal in config["watch"]["signals"]:
        require_choice("watch.signals", signal, SIGNALS)
    for key in ("mlflow_port", "tensorboard_port", "live_port"):
        require_range(f"ui.{key}", config["ui"][key], 1, 65535)
    require_choice("console", config["console"], CONSOLES)
    if config["doctor"]["fail_on"] is not None:
        require_choice("doctor.fail_on", config["doctor"]["fail_on"], SEVERITIES[1:])
    for key in ("experiment_name", "run_name", "output_dir", "resume"):
        if config[key] is not None and not config[key].strip():
            raise RequestError(f"{key} is empty.", key=key, found="", allowed="a text that is not empty")


def _check_threads(value: Any) -> None:
    if value != AUTO and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise RequestError(
            "The number of threads is not valid.",
            key="threads",
            found="null" if value is None else value,
            allowed="auto, or an integer from 1",
            closest=AUTO,
            command="threads=auto",
        )
