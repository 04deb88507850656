"""AutoClip and ZClip against their algorithms with everything kept."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stabletrain.errors import RequestError
from stabletrain.gradient import PercentileClip, ZScoreClip, clip_gradients_
from stabletrain.gradient.statistical import MODES, percentile_of, zscore_limit

NORMS = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=60)


def clip_norms(clip, norms):
    """Give the clip gradients of such norms; return their norms after, and check that directions are kept."""
    after = []
    for norm in norms:
        parameter = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
        direction = torch.tensor([2.0, -1.0, 2.0], dtype=torch.float64) / 3
        parameter.grad = direction * norm
        assert float(clip([parameter])) == pytest.approx(norm)
        after.append(float(parameter.grad.norm()))
        torch.testing.assert_close(parameter.grad, direction * after[-1])
    return after


@given(NORMS, st.floats(0, 100))
def test_percentile_is_numpys(norms, percentile):
    assert percentile_of(sorted(norms), percentile) == pytest.approx(np.percentile(norms, percentile), rel=1e-9)


@given(NORMS, st.floats(0, 100), st.sampled_from([None, 1, 2, 7]))
def test_percentile_clip_is_the_paper_s_algorithm(norms, percentile, window):
    seen, expected = [], []
    for norm in norms:
        seen.append(norm)
        expected.append(min(norm, np.percentile(seen[-window:] if window else seen, percentile)))
    assert clip_norms(PercentileClip(percentile, window), norms) == pytest.approx(expected, rel=1e-9)


def slow_zclip(norms, z_threshold=2.5, alpha=0.97, warmup_steps=25, mode="reciprocal"):
    """The paper's algorithm 1, with z as it stands there."""
    after = list(norms[:warmup_steps])
    mean, std = np.mean(after), np.std(after)
    for norm in norms[warmup_steps:]:
        z = (norm - mean) / std if std > 0 else math.copysign(math.inf, norm - mean) if norm != mean else 0.0
        z_star = {"reciprocal": z_threshold**2 / z if z else 0, "max": z_threshold, "mean": 0.0}[mode]
        after.append(mean + z_star * std if z > z_threshold else norm)
        mean = alpha * mean + (1 - alpha) * after[-1]
        std = math.sqrt(alpha * std**2 + (1 - alpha) * (after[-1] - mean) ** 2)
    return after


@pytest.mark.parametrize("mode", MODES)
def test_zscore_clip_is_the_paper_s_algorithm(mode):
    generator = np.random.default_rng(0)
    norms = generator.lognormal(0.0, 0.3, 200)
    norms[[40, 41, 90, 150]] *= [10, 20, 1000, 4]
    expected = slow_zclip(norms, mode=mode)
    assert sum(a < n for a, n in zip(expected, norms, strict=True)) >= 4
    assert clip_norms(ZScoreClip(mode=mode), norms) == pytest.approx(expected, rel=1e-9)


@given(NORMS, st.floats(0.5, 4.0), st.floats(0.0, 0.99), st.integers(2, 10), st.sampled_from(MODES))
def test_zscore_clip_is_the_paper_s_algorithm_for_any_norms(norms, z_threshold, alpha, warmup_steps, mode):
    after = clip_norms(ZScoreClip(z_threshold, alpha, warmup_steps, mode), norms)
    # Where a norm lies on the limit, rounding decides; the state goes another way from there on.
    for number, (ours, theirs) in enumerate(
        zip(after, slow_zclip(norms, z_threshold, alpha, warmup_steps, mode), strict=True)
    ):
        assert ours <= norms[number] * (1 + 1e-9)
        if ours != pytest.approx(theirs, rel=1e-6):
            assert norms[number] == pytest.approx(max(ours, theirs), rel=1e-6)
            break


def test_the_limit_is_continuous_at_the_threshold_and_falls_beyond():
    """At z = 2.5 it is μ + 2.5 σ, and with z → ∞ it goes to μ."""
    limits = [zscore_limit(1.0 + 0.1 * z, 1.0, 0.1, 2.5) for z in (1.0, 2.5, 2.5 + 1e-9, 5.0, 25.0, 1e9)]
    assert limits == pytest.approx([1.1, 1.25, 1.25, 1.125, 1.025, 1.0])
    assert zscore_limit(2.0, 1.0, 0.1, 2.5, "max") == pytest.approx(1.25)
    assert zscore_limit(2.0, 1.0, 0.1, 2.5, "mean") == 1.0
    assert zscore_limit(2.0, 1.0, 0.0, 2.5) == 1.0  # σ = 0: any norm above is a spike


def test_nothing_is_clipped_in_the_warmup():
    norms = [1.0] * 12 + [1e4] + [1.0] * 12
    assert clip_norms(ZScoreClip(), norms) == pytest.approx(norms)


def test_a_spike_is_clipped_and_hardly_moves_the_statistics():
    norms = [1.0 + 0.1 * (-1) ** k for k in range(100)]
    clip = ZScoreClip()
    clip_norms(clip, norms)
    mean, variance = clip.state_dict()["mean"], clip.state_dict()["variance"]
    (after,) = clip_norms(clip, [1e6])
    assert after == pytest.approx(mean, rel=1e-4)
    assert clip.state_dict()["mean"] == pytest.approx(mean, rel=1e-3)
    assert clip.state_dict()["variance"] == pytest.approx(variance, rel=0.05)


def test_a_limit_far_below_one_is_exact():
    """torch's 1e-6 beside the norm would leave a tenth of this."""
    clip = PercentileClip(0.0)
    assert clip_norms(clip, [1e-7, 2e-7]) == pytest.approx([1e-7, 1e-7])


def test_percentile_window_forgets():
    clip = PercentileClip(50.0, window=3)
    clip_norms(clip, [1.0, 1.0, 1.0, 100.0, 100.0])
    assert clip_norms(clip, [100.0]) == pytest.approx([100.0])
    assert clip.state_dict()["norms"].tolist() == pytest.approx([100.0] * 3)


def test_a_smaller_window_takes_the_latest_of_a_saved_history():
    clip = PercentileClip(50.0)
    clip_norms(clip, [1.0, 2.0, 3.0, 4.0])
    shorter = PercentileClip(50.0, window=2)
    shorter.load_state_dict(clip.state_dict())
    assert shorter.state_dict()["norms"].tolist() == pytest.approx([3.0, 4.0])
    assert clip_norms(shorter, [8.0]) == pytest.approx([6.0])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("percentile", {"percentile": -1.0}),
        ("percentile", {"percentile": 101.0}),
        ("percentile", {"window": 0}),
        ("zscore", {"z_threshold": 0.0}),
        ("zscore", {"alpha": 1.0}),
        ("zscore", {"warmup_steps": 1}),
        ("zscore", {"mode": "maximum"}),
    ],
)
def test_refuses_numbers_out_of_range(name, options):
    with pytest.raises(RequestError) as caught:
        clip_gradients_([], name, **options)
    assert caught.value.key in options
