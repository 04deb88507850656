"""Build the data of a run: a built-in data set, a user's Dataset, or a LightningDataModule."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stabletrain.app.composition.targets import call, expected_types, make, resolve_target
from stabletrain.data import Data, wrap_dataset
from stabletrain.errors import RequestError
from stabletrain.training.datamodule_shapes import LoadedData
from stabletrain.training.lightning_internals import has_hook

# Settings of `data=custom` for splitting a Dataset; they are not arguments of its constructor.
SPLIT_SETTINGS = ("batch_size", "val_fraction", "test_fraction", "seed", "task", "form")


def build_data(config: Mapping[str, Any]) -> Data | LoadedData:
    """Build the data set, in the form of input that the model takes.

    Raises:
        RequestError: The data does not come in such a form, or its settings are not valid.
    """
    section = dict(config["data"])
    target = resolve_target(section["_target_"], "data._target_", expected_types("data"), config["allow_targets"])
    if section.get("form") == "auto" and "form" in inspect.signature(target).parameters:
        section["form"] = choose_form(config, target)
    if isinstance(target, type) and issubclass(target, Data):
        return make(_kept(section, target), "data", config["allow_targets"])()
    built = make(_kept(section, target), "data", config["allow_targets"])()
    if isinstance(built, Data):
        return built
    if isinstance(built, pl.LightningDataModule):
        if not has_hook("train_dataloader", built):
            raise RequestError(
                "The data module has no training data.",
                key="data._target_",
                found=f"{type(built).__name__} without train_dataloader",
                allowed="a LightningDataModule with train_dataloader",
            )
        return LoadedData(built)
    return _wrap(built, section)


def _kept(section: Mapping[str, Any], target: Any) -> dict[str, Any]:
    """Leave out the settings for splitting if the class has no such parameter."""
    parameters = inspect.signature(target).parameters
    return {k: v for k, v in section.items() if k not in SPLIT_SETTINGS or k in parameters}


def _wrap(dataset: Dataset[Any], section: Mapping[str, Any]) -> Data:
    names = inspect.signature(wrap_dataset).parameters
    settings = {k: v for k, v in section.items() if k in SPLIT_SETTINGS and k in names}
    return call(wrap_dataset, "data", section, dataset, **settings)


def accepted_forms(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the forms of input that the model takes, the preferred one first; () if it declares none."""
    target = resolve_target(
        config["model"].get("_target_"), "model._target_", expected_types("model"), config["allow_targets"]
    )
    forms = getattr(target, "input_form", ())
    return (forms,) if isinstance(forms, str) else tuple(forms)


def choose_form(config: Mapping[str, Any], data_class: Any) -> str:
    """Return the model's preferred form among those of the data; `auto` if either declares none.

    Raises:
        RequestError: Model and data have no form in common.
    """
    wanted, offered = accepted_forms(config), getattr(data_class, "forms", ())
    if not wanted or not offered or (wanted == ("vector",) and "vector" not in offered):
        return "auto"
    common = [form for form in wanted if form in offered]
    if common:
        return common[0]
    suited = {"vector": "mlp", "sequence": "rnn", "image": "cnn"}[offered[0]]
    raise RequestError(
        f"The model takes {' or '.join(wanted)} input, but this data comes as {' or '.join(offered)}.",
        key="model",
        found=config["model"]["_target_"].rpartition(".")[2],
        allowed=f"a model for {' or '.join(offered)} input, such as {suited}",
        closest=suited,
        command=f"model={suited}",
    )


def examples_of(data: Data | LoadedData, num_examples: int, split: str = "train") -> Tensor:
    """Return the inputs of the first examples of a split, (num_examples, …); fewer if the split is smaller."""
    if isinstance(data, LoadedData):
        return data.examples(num_examples)
    chosen: Any = getattr(data, split)
    return torch.stack([chosen[i][0] for i in range(min(num_examples, len(chosen)))])
