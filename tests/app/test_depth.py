"""Deep networks train where theory predicts it, and do not train where theory predicts that they cannot."""

from __future__ import annotations

import json
import math
import time

import pytest

from stabletrain.app.cli import main
from stabletrain.record.reader import load_record
from stabletrain.vocabulary import metric_names as names

pytestmark = [
    pytest.mark.slow,
]
CHANCE = 0.12  # of ten classes; over 270 images an accuracy of 0.1 has a standard error of 0.02
LEARNED = 0.90
LIMIT_S = 120.0 * 2  # of CPU time: two minutes on two cores, independent of the machine's load


def train(folder, *overrides):
    start = time.process_time()
    assert main(["logger=none", "watch=norms", f"output_dir={folder}", *overrides]) == 0
    seconds = time.process_time() - start
    summary = json.loads((folder / "summary.json").read_text())
    rms = {
        layer: dict(zip(series.steps, series.values, strict=True))[0]
        for layer, series in load_record(folder).of_layers(names.GRADIENT_RMS).items()
        if ".layers." in layer and layer.endswith("weight")
    }
    return summary["metrics"], list(rms.values()), seconds


def test_two_hundred_tanh_layers_at_the_edge_of_chaos(tmp_path):
    metrics, profile, seconds = train(
        tmp_path, "init=critical", "activation=tanh", "model=mlp", "model.depth=200", "optimizer.lr=1e-4",
        "trainer.max_epochs=6",
    )  # fmt: skip
    assert metrics["test/accuracy"] >= LEARNED
    assert seconds < LIMIT_S
    assert len(profile) == 200
    assert max(profile) / min(profile) < 10  # flat over two hundred layers


def test_five_hundred_layers_that_start_as_the_identity(tmp_path):
    metrics, profile, seconds = train(tmp_path, "residual=rezero", "model.depth=500", "trainer.max_epochs=2")
    assert metrics["test/accuracy"] >= LEARNED
    assert seconds < LIMIT_S
    assert len(profile) == 500
    assert set(profile[1:]) == {0.0}  # α = 0: at first only the scales, the first and the last layer learn


def test_twenty_sigmoid_layers_with_small_weights_do_not_learn(tmp_path):
    metrics, profile, _ = train(
        tmp_path, "activation=sigmoid", "init=normal", "model.depth=20", "trainer.max_epochs=10"
    )
    assert metrics["test/accuracy"] <= CHANCE
    assert math.log10(profile[-1] / profile[0]) > 15  # orders of magnitude between the last layer and the first


def test_the_finder_finds_the_rate_that_two_hundred_layers_need(tmp_path):
    """At Adam's usual 1e-3 they stay at chance level; `+lr_find=true` finds a learning rate that works."""
    metrics, _, seconds = train(
        tmp_path, "init=critical", "activation=tanh", "model=mlp", "model.depth=200", "+lr_find=true",
        "trainer.max_epochs=4",
    )  # fmt: skip
    assert metrics["test/accuracy"] >= LEARNED
    assert seconds < LIMIT_S
