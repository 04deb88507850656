"""The data of a run: one of ours, a Dataset, or a LightningDataModule."""

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

# Settings of `data=custom` that are about the splits: for a Dataset, not for its own constructor.
SPLIT_SETTINGS = ("batch_size", "val_fraction", "test_fraction", "seed", "task", "form")


def build_data(config: Mapping[str, Any]) -> Data | LoadedData:
    """Build the data set, in the form that the model's family takes.

    Raises:
        RequestError: The data has no such form, or its settings do not fit it.
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
                "The data module has nothing to train on.",
                key="data._target_",
                found=f"{type(built).__name__} without train_dataloader",
                allowed="a LightningDataModule with train_dataloader",
            )
        return LoadedData(built)
    return _wrap(built, section)


def _kept(section: Mapping[str, Any], target: Any) -> dict[str, Any]:
    """Leave out the settings of the splits where the class has no such parameter."""
    parameters = inspect.signature(target).parameters
    return {k: v for k, v in section.items() if k not in SPLIT_SETTINGS or k in parameters}


def _wrap(dataset: Dataset[Any], section: Mapping[str, Any]) -> Data:
    names = inspect.signature(wrap_dataset).parameters
    settings = {k: v for k, v in section.items() if k in SPLIT_SETTINGS and k in names}
    return call(wrap_dataset, "data", section, dataset, **settings)


def accepted_forms(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the forms of input that the chosen family takes, the natural one first; () if it does not say."""
    target = resolve_target(
        config["model"].get("_target_"), "model._target_", expected_types("model"), config["allow_targets"]
    )
    forms = getattr(target, "input_form", ())
    return (forms,) if isinstance(forms, str) else tuple(forms)


def choose_form(config: Mapping[str, Any], data_class: Any) -> str:
    """Return the form of the data that suits the model: the first that both know, `auto` if one does not say.

    Raises:
        RequestError: They have none in common.
    """
    wanted, offered = accepted_forms(config), getattr(data_class, "forms", ())
    if not wanted or not offered or (wanted == ("vector",) and "vector" not in offered):
        return "auto"
    common = [form for form in wanted if form in offered]
    if common:
        return common[0]
    suited = {"vector": "mlp", "sequence": "rnn", "image": "cnn"}[offered[0]]
    raise RequestError(
        f"The model takes {' or '.join(wanted)} input, and this data comes as {' or '.join(offered)}.",
        key="model",
        found=config["model"]["_target_"].rpartition(".")[2],
        allowed=f"a family for {' or '.join(offered)} input, such as {suited}",
        closest=suited,
        command=f"model={suited}",
    )


def examples_of(data: Data | LoadedData, num_examples: int, split: str = "train") -> Tensor:
    """Return the inputs of the first examples of a split: (num_examples, …), fewer if there are not as many."""
    if isinstance(data, LoadedData):
        return data.examples(num_examples)
    chosen: Any = getattr(data, split)
    return torch.stack([chosen[i][0] for i in range(min(num_examples, len(chosen)))])
