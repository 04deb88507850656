"""Compare the records and the checkpoints of two runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from stabletrain.record.reader import load_record
from stabletrain.vocabulary.metric_names import QUANTILES


def assert_same_record(found: Path, expected: Path, rtol: float = 2e-5) -> None:
    """Compare all series up to `rtol`, and all histograms: equal sizes, and at most 0.1% of elements in another bin.

    Quantiles are compared up to 5%: they are computed from the bins, where one element of a small layer weighs a lot.
    """
    one, other = load_record(expected), load_record(found)
    assert other.layers == one.layers
    names = [n for n in one.scalars if not n.startswith("system/")]
    assert names == [n for n in other.scalars if not n.startswith("system/")]
    for name in names:
        assert list(other.scalars[name].steps) == list(one.scalars[name].steps), name
        values = [np.array(r.scalars[name].values) for r in (other, one)]
        is_quantile = any(f"/{quantile}/" in name for quantile in QUANTILES)
        np.testing.assert_allclose(*values, rtol=max(rtol, 0.05) if is_quantile else rtol, atol=1e-9, err_msg=name)
    for signal in ("gradient", *one.other_histograms):
        rows, others = one.histograms_of(signal), other.histograms_of(signal)
        assert rows.keys() == others.keys(), signal
        pairs = [(h, others[layer][step]) for layer in rows for step, h in rows[layer].items()]
        assert all(a.size == b.size for a, b in pairs), signal
        moved = sum(np.abs(a.counts - b.counts).sum() / 2 for a, b in pairs)
        assert moved <= 1e-3 * sum(a.size for a, _ in pairs), signal


def assert_same_checkpoint(found: Path, expected: Path, atol: float = 1e-6) -> None:
    """Compare weights and optimizer states: names, order and values; all tensors are plain and unsharded."""
    a, b = (torch.load(p / "checkpoints/last.ckpt", weights_only=True) for p in (found, expected))
    assert list(a["state_dict"]) == list(b["state_dict"])
    assert {type(v) for v in a["state_dict"].values()} == {torch.Tensor}
    torch.testing.assert_close(a["state_dict"], b["state_dict"], rtol=0, atol=atol)
    for x, y in zip(a["optimizer_states"], b["optimizer_states"], strict=True):
        assert x["param_groups"] == y["param_groups"]
        torch.testing.assert_close(x["state"], y["state"], rtol=0, atol=atol)
