"""What every data set keeps: one row a class, and one YAML a class."""

import doctest
import hashlib
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.utils.data import DataLoader

import stabletrain.data
from stabletrain.data import Adding, Data, Digits, Table, TemporalOrder
from stabletrain.errors import RequestError

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf" / "data"

SMALL = {"num_train": 64, "num_val": 16, "num_test": 24, "batch_size": 8, "num_steps": 20}
IRIS = {"path": str(Path(__file__).with_name("iris.csv")), "target": "species"}
REQUIRED: dict[type[Data], dict[str, Any]] = {Table: IRIS}  # what has no default

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
CLASSES = list(CONTRACT)
FORMS = [(cls, form) for cls, (_, forms) in CONTRACT.items() for form in forms]


def build(cls: type[Data], **changes: Any) -> Data:
    return cls(**{**CONTRACT[cls][0], **changes})


def splits(data: Data) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [split.tensors for split in (data.train, data.val, data.test)]


def config(cls: type[Data]) -> dict[str, Any]:
    return yaml.safe_load((CONF / f"{cls.name}.yaml").read_text())


def same(one: Data, other: Data) -> list[bool]:
    return [torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(splits(one), splits(other), strict=True)]


def test_every_class_has_its_row():
    exported = [getattr(stabletrain.data, name) for name in stabletrain.data.__all__]
    classes = {item for item in exported if inspect.isclass(item) and issubclass(item, Data)} - {Data}
    assert classes == set(CONTRACT)


def test_every_yaml_has_its_row():
    targets = {path.stem: yaml.safe_load(path.read_text()).get("_target_", "") for path in CONF.glob("*.yaml")}
    ours = {name: target for name, target in targets.items() if target.startswith("stabletrain.data.")}
    assert ours == {cls.name: f"stabletrain.data.{cls.__name__}" for cls in CLASSES}


@pytest.mark.parametrize("cls", CLASSES)
def test_yaml_is_the_signature_with_its_defaults(cls):
    defaults = {name: parameter.default for name, parameter in inspect.signature(cls).parameters.items()}
    kinds = {parameter.kind for parameter in inspect.signature(cls).parameters.values()}
    settings = config(cls)
    settings.pop("_target_")
    assert settings == {**defaults, "seed": "${seed}"}
    assert len(defaults) <= 10
    assert kinds == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    assert (CONF / f"{cls.name}.yaml").read_text().startswith("# ")


@pytest.mark.parametrize("cls", CLASSES)
def test_yaml_builds(cls):
    settings = {**config(cls), **REQUIRED.get(cls, {}), "seed": 0}
    assert settings.pop("_target_") == f"stabletrain.data.{cls.__name__}"
    data = cls(**settings)
    assert same(data, cls(**REQUIRED.get(cls, {}))) == [True] * 3
    x, y = next(iter(DataLoader(data.train, batch_size=data.batch_size, shuffle=True)))
    assert len(x) == len(y) == data.batch_size == settings["batch_size"]


@pytest.mark.parametrize("cls", CLASSES)
def test_example_in_the_docstring_runs(cls):
    results = doctest.testmod(sys.modules[cls.__module__])
    assert (results.failed, results.attempted > 0) == (0, True)


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
        if data.task == "classification":
            assert y.shape == (len(x),)
            assert y.dtype == torch.int64
            assert sorted(y.unique().tolist()) == list(range(data.num_outputs))
        else:
            assert y.shape == (len(x), data.num_outputs)
            assert y.dtype == torch.float32


@pytest.mark.parametrize(("cls", "form"), FORMS)
def test_forms_are_reshapes_of_the_same_numbers(cls, form):
    natural, other = build(cls), build(cls, form=form)
    for (x, y), (u, v) in zip(splits(natural), splits(other), strict=True):
        assert torch.equal(x.flatten(1), u.flatten(1))
        assert torch.equal(y, v)
    assert natural.describe()["digest"] == other.describe()["digest"]


@pytest.mark.parametrize("cls", CLASSES)
def test_same_seed_same_numbers(cls):
    assert same(build(cls), build(cls, seed=0)) == [True] * 3
    assert same(build(cls, seed=7), build(cls, seed=7)) == [True] * 3
    digests = {build(cls, seed=seed).describe()["digest"] for seed in (0, 1, 7, 2**32 - 1)}
    assert len(digests) == 4


@pytest.mark.parametrize("cls", CLASSES)
def test_global_generators_are_left_alone(cls):
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    build(cls)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_second_process_sees_the_same_numbers_and_no_framework():
    """One process for all classes: their digests, and what importing and building them loads."""
    code = f"""
import json, sys
import stabletrain.data as room
frameworks = ["pytorch_lightning", "lightning", "hydra", "omegaconf", "mlflow"]
late = [name for name in ["sklearn", "pandas", *frameworks] if name in sys.modules]
small = {SMALL!r}
iris = {IRIS!r}
rows = (room.Digits, {{}}), (room.Adding, small), (room.TemporalOrder, small), (room.Table, iris)
digests = {{cls.__name__: cls(**kw, seed=5).describe()["digest"] for cls, kw in rows}}
late += [name for name in frameworks if name in sys.modules]
print(json.dumps([digests, late]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    digests, late = json.loads(done.stdout)
    assert digests == {cls.__name__: build(cls, seed=5).describe()["digest"] for cls in CLASSES}
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
    hasher = hashlib.sha256()
    for x, y in splits(data):
        for tensor in (x, y):
            hasher.update(f"{len(tensor)} {tensor.dtype};".encode() + tensor.numpy().tobytes())
    assert entry["digest"] == hasher.hexdigest()[:16]


@pytest.mark.parametrize("cls", CLASSES)
def test_digest_sees_one_changed_number(cls):
    data = build(cls)
    before = data.describe()["digest"]
    data.test.tensors[0].view(-1)[-1] += 1.0
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


@pytest.mark.parametrize("cls", CLASSES)
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
    ],
)
def test_refuses_form(cls, form, closest):
    with pytest.raises(RequestError) as caught:
        build(cls, form=form)
    assert (caught.value.key, caught.value.closest) == ("form", closest)
    assert caught.value.allowed.split(", ")[0] == "auto"
    assert set(caught.value.allowed.split(", ")) == set(CONTRACT[cls][1])
