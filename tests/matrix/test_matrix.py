"""Every pair of options from any two groups, for every family: it trains, or it is refused with a reason.

Minutes, not seconds: `python -m pytest -m matrix -n 2 -rP`, which `.ci/nightly` calls; the counts are printed.
"""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import matrix
import pytest
import torch

from stabletrain.record.reader import load_record

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.matrix


@pytest.mark.parametrize("family", matrix.FAMILIES)
def test_every_pair_trains_or_explains_itself(family, tmp_path, monkeypatch):
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    with matrix.shared_data(monkeypatch):
        tally = matrix.cover(family, tmp_path)
    print(tally)
    for reason, count in tally.reasons():
        print(f"  {count:>5} pairs: {reason}")
    assert [f"{r.choices}\n{r.failure}" for r in tally.failed] == []
    assert len(tally.diverged) <= 0.01 * tally.num_compositions, [r.choices for r in tally.diverged]
    assert tally.missing_pairs == []
    assert tally.num_pairs == tally.num_pairs_worked + len(tally.refused_pairs)
    assert tally.num_pairs_worked > 0.6 * tally.num_pairs


def test_a_composition_that_breaks_is_no_refusal(tmp_path, monkeypatch):
    """The control: a composition that raises, diverges, or is not watched counts as such."""
    monkeypatch.setattr("stabletrain.network.models.mlp.HiddenLayer.forward", lambda self, x: x / "0")
    result = matrix.run_case(matrix.defaults("mlp"), tmp_path / "broken")
    assert result.outcome == "failed"
    assert "Error" in result.failure
    monkeypatch.undo()
    monkeypatch.setattr("torch.nn.functional.cross_entropy", lambda x, *args, **kwargs: x.sum() * math.nan)
    assert "not finite" in matrix.run_case(matrix.defaults("mlp"), tmp_path / "diverged").divergence
    monkeypatch.undo()
    assert matrix.run_case(matrix.defaults("mlp"), tmp_path / "whole").outcome == "worked"
    monkeypatch.setattr(
        "stabletrain.training.callbacks.gradient_watch.GradientWatch._measure", lambda *args, **kwargs: None
    )
    assert "AssertionError" in matrix.run_case(matrix.defaults("mlp"), tmp_path / "unwatched").failure


@pytest.mark.parametrize("family", ["mlp", "rnn", "lstm", "gru", "cnn", "resnet", "densenet1d", "transformer"])
def test_every_family_trains_in_two_processes(family, tmp_path):
    """`trainer=ddp_cpu` starts a second process of the command, and is therefore not part of the covering array."""
    words = [
        f"model={family}",
        "clip=zscore",
        "trainer=ddp_cpu",
        "trainer.max_epochs=1",
        "logger=none",
        "trainer.log_every_n_steps=1",
    ]
    words += ["+trainer.limit_train_batches=3", "watch=every_step", "output_dir=run"]
    command = [sys.executable, "-m", "stabletrain", *words]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = load_record(tmp_path / "run")
    assert len(record.scalars["clip/norm_after"].values) == 3
    assert all(sorted(steps) == [0, 1, 2] for steps in record.histograms.values())
