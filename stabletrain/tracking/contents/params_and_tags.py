"""Params, tags and datasets of an MLflow run, from what the record says about the run."""

from __future__ import annotations

import contextlib
import getpass
import json
import shlex
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stabletrain.tracking import tags as tag_names
from stabletrain.tracking.metrics import clean_key
from stabletrain.vocabulary import metric_names as names

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run

MAX_PARAM = 6000  # characters of a value, as MLflow allows
MAX_TAG = 5000
_SPLITS = {names.TRAIN: "", names.VAL: "-val", names.TEST: "-test"}  # splits, and the suffix of their names


def ship_params_and_tags(client: MlflowClient, run: Run, info: Mapping[str, Any]) -> None:
    """Log params, tags and datasets. Params that the run has already are kept: MLflow refuses to change one."""
    from mlflow.entities import Param, RunTag

    params = [Param(key, value) for key, value in params_of(info).items() if key not in run.data.params]
    tags = [RunTag(key, value) for key, value in tags_of(info).items() if run.data.tags.get(key) != value]
    for start in range(0, max(len(params), len(tags)), 90):
        client.log_batch(run.info.run_id, params=params[start : start + 90], tags=tags[start : start + 90])
    if datasets := datasets_of(info.get("dataset")):
        client.log_inputs(run.info.run_id, datasets=datasets)


def params_of(info: Mapping[str, Any]) -> dict[str, str]:
    """Return the run's params: the chosen options, then single settings."""
    found = {**_mapping(info.get("choices")), **_mapping(info.get("parameters"))}
    if info.get("num_parameters") is not None:
        found.setdefault("num_parameters", info["num_parameters"])
    return {clean_key(str(key)): _text(value)[:MAX_PARAM] for key, value in found.items()}


def tags_of(info: Mapping[str, Any]) -> dict[str, str]:
    """Return the run's tags."""
    command = info.get("command")
    command = shlex.join(map(str, command)) if isinstance(command, list) else command
    tags: dict[str, Any] = {
        tag_names.COMMAND: command,
        tag_names.SOURCE_NAME: str(command).split(maxsplit=1)[0] if command else "stabletrain",
        tag_names.SOURCE_TYPE: "LOCAL",
        tag_names.GIT_COMMIT: info.get("git_commit"),
        tag_names.GIT_DIRTY: info.get("git_dirty"),
        tag_names.VERSIONS: _versions(info.get("versions")),
    }
    with contextlib.suppress(Exception):  # a container may have no entry for the user
        tags[tag_names.USER] = getpass.getuser()
    return {key: _text(value)[:MAX_TAG] for key, value in tags.items() if value is not None}


def datasets_of(dataset: Any) -> list[DatasetInput]:
    """Return one dataset for each split that has samples.

    MLflow logs a pair of name and digest only once per run, so the names carry a suffix.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = _mapping(dataset)
    if not dataset.get("name"):
        return []
    digest = str(dataset.get("digest") or f"{zlib.crc32(_text(dataset).encode()):08x}")[:36]
    source = json.dumps({"source": dataset.get("source"), "task": dataset.get("task"), "form": dataset.get("form")})
    inputs = []
    for split, suffix in _SPLITS.items():
        num_samples = dataset.get(f"num_{split}")
        if num_samples or split == names.TRAIN:
            profile = json.dumps({"num_rows": num_samples}) if num_samples else None
            name = f"{str(dataset['name'])[:400]}{suffix}"
            entity = Dataset(name=name, digest=digest, source_type="code", source=source[:60_000], profile=profile)
            inputs.append(DatasetInput(entity, tags=[InputTag(tag_names.DATA_CONTEXT, split)]))
    return inputs


def _versions(versions: Any) -> str | None:
    return ", ".join(f"{package} {version}" for package, version in _mapping(versions).items()) or None


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
