"""The description of a run for its record: command, commit, choices, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import secrets
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from stabletrain.app.composition.compose import Composition

PARAMETER_SECTIONS = ("model", "init", "activation", "norm", "residual", "clip", "optimizer", "schedule", "data")
TRAINER_PARAMETERS = ("max_epochs", "max_steps", "precision", "accumulate_grad_batches", "strategy", "devices")
PACKAGES = ("stabletrain", "torch", "pytorch-lightning", "mlflow", "hydra-core")


def describe_run(composition: Composition, dataset: Mapping[str, Any], num_parameters: int) -> dict[str, Any]:
    """Return plain data that describes the run, for its record."""
    config = composition.config
    commit, dirty = git_state()
    return {
        "run_uid": secrets.token_hex(8),
        "command": shlex.join(["python", "-m", "stabletrain", *sys.argv[1:]]),
        "overrides": list(composition.overrides),
        "git_commit": commit,
        "git_dirty": dirty,
        "choices": composition.choices,
        "parameters": dict(parameters_of(config)),
        "dataset": dict(dataset),
        "num_parameters": num_parameters,
        "versions": versions(PACKAGES),
        "experiment_name": config["experiment_name"],
        "run_name": config["run_name"],
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def parameters_of(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the hyperparameters, named after the overrides that change them."""
    yield "seed", config["seed"]
    yield "threads", config["threads"]
    for section in PARAMETER_SECTIONS:
        for name, value in (config[section] or {}).items():
            if name != "_target_" and f"{section}.{name}" != "data.seed":
                yield f"{section}.{name}", value
    for name in TRAINER_PARAMETERS:
        if name in config["trainer"]:
            yield f"trainer.{name}", config["trainer"][name]


def git_state() -> tuple[str | None, bool]:
    """Return the commit of the current folder's repository, and whether it has uncommitted changes.

    A container image has no repository; its build stores the commit in STABLETRAIN_GIT_COMMIT.
    """
    built_from = os.environ.get("STABLETRAIN_GIT_COMMIT")
    if built_from:
        return built_from, False
    commit = _git("rev-parse", "HEAD")
    return commit, bool(commit and _git("status", "--porcelain", "--untracked-files=no"))


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python and of the installed packages."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
