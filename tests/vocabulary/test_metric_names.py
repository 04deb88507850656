"""A metric's name is written once: nowhere outside the vocabulary does it stand as a literal."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.signals import SIGNALS

PACKAGE = Path(names.__file__).resolve().parents[1]
FIRST = (*names.STAGES, *SIGNALS, "time", "system", "run", names.HISTOGRAM)
NAME = re.compile(rf"({'|'.join(FIRST)})/[a-z0-9_]*(/[a-z0-9_]*)*$")
OTHER = ("lr", "val_loss", "train_loss")  # names that a metric once had, or has elsewhere
KEYS = {  # literals that are a key of something else
    ("lr", "app/building/build.py"),
    ("lr", "app/building/prepare.py"),
    ("lr", "diagnosis/client_words.py"),
    ("lr", "diagnosis/rules/rate.py"),
    ("lr", "inspection/nonfinite/weights.py"),
    ("lr", "integrations/huggingface.py"),
    ("lr", "integrations/plain_loop/recording.py"),
    ("lr", "training/callbacks/doctor_callback.py"),
    ("lr", "training/optimization/lr_finder.py"),
    ("lr", "training/optimization/optimizers.py"),
    ("lr", "training/optimization/schedule.py"),
}


def find_literals(source: str) -> set[str]:
    """Return the string literals that look like a metric's name, docstrings left out."""
    tree = ast.parse(source)
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
    docstrings = {id(body[0].value) for body in bodies if body and isinstance(body[0], ast.Expr)}
    literals = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    found = {n.value for n in literals if id(n) not in docstrings}
    return {text for text in found if NAME.match(text) or text in OTHER}


@pytest.mark.parametrize("room", sorted(p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "vocabulary"))
def test_no_literal_outside_the_vocabulary(room):
    found = {
        (text, path.relative_to(PACKAGE).as_posix())
        for path in (PACKAGE / room).rglob("*.py")
        for text in find_literals(path.read_text())
    }
    assert found - KEYS == set(), "import the name from stabletrain.vocabulary.metric_names"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('x = "train/lr"', {"train/lr"}),
        ('x = f"val/{name}"', {"val/"}),
        ('scalars.get("gradient/norm/total")', {"gradient/norm/total"}),
        ('def f():\n    """gradient/rms"""\n', set()),
        ('path = "training/run.py"; key = "optimizer.lr"', set()),
    ],
)
def test_what_counts_as_a_literal(source, expected):
    assert find_literals(source) == expected


def test_names_of_earlier_records_are_translated():
    assert names.current_name("lr") == names.LR
    assert names.current_name(names.TRAIN_LOSS) == names.TRAIN_LOSS
    assert not set(names.FORMER) & set(names.FORMER.values())


def test_layers_and_signals():
    assert names.of_layer(names.GRADIENT_RMS, "L00.a/b") == "gradient/rms/L00.a/b"
    assert names.layer_of("gradient/rms/L00.a/b", names.GRADIENT_RMS) == "L00.a/b"
    assert names.layer_of("gradient/rmsprop", names.GRADIENT_RMS) is None
    assert names.histograms_of("gradient") == "gradient/histogram"
    assert names.histograms_of("weight") == "histogram/weight"
    assert names.nonfinite_of(names.TRAIN_LOSS) == names.TRAIN_NONFINITE
    assert names.metric_of("val/accuracy", names.VAL) == "accuracy"
    assert names.of_stage(names.VAL, names.ACCURACY) == names.VAL_ACCURACY
