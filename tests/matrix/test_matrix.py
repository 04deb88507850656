"""Every pair of options from any two groups, for every family: it trains, or it is refused with a reason.

Minutes, not seconds: `python -m pytest -m matrix -n 2 -rP`, which `.ci/run` calls; the counts are printed.
"""

from __future__ import annotations

import logging
import warnings

import matrix
import pytest
import torch

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
    assert tally.missing_pairs == []
    assert tally.num_pairs == tally.num_pairs_worked + len(tally.refused_pairs)
    assert tally.num_pairs_worked > 0.6 * tally.num_pairs


def test_a_composition_that_breaks_is_no_refusal(tmp_path, monkeypatch):
    """The control: what raises, saves other weights, or is not watched, counts as a failure."""
    monkeypatch.setattr("stabletrain.network.mlp.HiddenLayer.forward", lambda self, x: x / 0)
    result = matrix.run_case(matrix.defaults("mlp"), tmp_path / "broken")
    assert result.refusal is None
    assert "Error" in result.failure
    monkeypatch.undo()
    assert matrix.run_case(matrix.defaults("mlp"), tmp_path / "whole").failure is None
    monkeypatch.setattr("stabletrain.training.callbacks.GradientWatch._measure", lambda *args, **kwargs: None)
    assert "AssertionError" in matrix.run_case(matrix.defaults("mlp"), tmp_path / "unwatched").failure
