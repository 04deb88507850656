"""What is said of a training from its losses, rates and norms alone, and what is not said."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stabletrain.diagnosis.logged_run import diagnose_log
from stabletrain.record.foreign_logs.detection import read_log
from stabletrain.vocabulary.finding import HEALTHY, UNKNOWN

STEPS = np.arange(0, 3000, 10)
NOISE = np.random.default_rng(0).normal(0, 1, len(STEPS))
FALLING = 0.3 + 2 * np.exp(-STEPS / 400) + 0.03 * NOISE
FLAT = 2.303 + 0.03 * NOISE
EPOCHS = np.arange(1, 21)


def late(before, after, start=1500):
    return np.where(start <= STEPS, after, before)


def judge(tmp_path, **columns):
    """Return the diagnosis of a log in JSON lines; the first column is the axis."""
    columns = {name: np.broadcast_to(x, len(next(iter(columns.values())))) for name, x in columns.items()}
    rows = [dict(zip(columns, map(float, row), strict=True)) for row in zip(*columns.values(), strict=True)]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return diagnose_log(read_log(path))


UNHEALTHY = {
    "no_progress": {"loss": FLAT},
    "loss_spike": {"loss": late(FALLING, FALLING + 2.5)},
    "oscillation": {"loss": 1.2 + late(0.02 * NOISE, 0.6 * (-1.0) ** (STEPS // 10), 1000)},
    "nonfinite": {"loss": late(FALLING, np.nan)},
    "lr_too_high": {"loss": late(FALLING, FALLING + 2.5, 1510), "lr": late(1e-3, 1e-1)},
    "exploding": {"loss": FLAT, "grad_norm": late(np.exp(0.2 * NOISE), np.exp(STEPS / 200), 2000)},
    "clip_always": {"loss": FLAT, "grad_norm": np.exp(4 + 0.2 * NOISE), "grad_norm_clipped": 1.0},
}


@pytest.mark.parametrize("kind", UNHEALTHY)
def test_what_a_log_shows(tmp_path, kind):
    assert judge(tmp_path, step=STEPS, **UNHEALTHY[kind]).verdict == kind


HEALTHY_LOGS = {
    "falls": {"loss": FALLING},
    "noisy": {"loss": 1 + 0.3 * np.exp(-STEPS / 600) + 0.2 * NOISE},
    "a spike that came back": {"loss": FALLING + np.where((STEPS >= 1500) & (STEPS < 1600), 2.5, 0)},
    "small losses that vary as widely from the start": {"loss": 0.05 * np.exp(0.6 * NOISE - STEPS / 3000)},
    "a log-likelihood below zero": {"loss": -50 * (1 - np.exp(-STEPS / 400)) + NOISE},
    "one NaN that was skipped": {"loss": np.where(STEPS == 1500, np.nan, FALLING)},
    "norms that overflow until a scaler is set": {"loss": FALLING, "grad_norm": np.where(STEPS < 30, np.inf, 1 + FLAT)},
    "a warm-up": {"loss": FALLING, "lr": np.minimum(1e-3, 1e-6 * (STEPS + 1))},
    "validation improves though the loss does not": {"loss": FLAT, "val_acc": 1 - np.exp(-STEPS / 600)},
}


@pytest.mark.parametrize("name", HEALTHY_LOGS)
def test_what_is_not_alleged(tmp_path, name):
    result = judge(tmp_path, step=STEPS, **HEALTHY_LOGS[name])
    assert (result.verdict, [f for f in result.findings if f.alarms]) == (HEALTHY, [])


@pytest.mark.parametrize("losses", [0 * STEPS, np.where(STEPS < 10, 0.0, FLAT), -FLAT, 1e30 + 0 * STEPS])
def test_unusual_losses_break_no_rule(tmp_path, losses):
    assert judge(tmp_path, step=STEPS, loss=losses, val_loss=losses).verdict in (HEALTHY, UNKNOWN, "no_progress")


def test_epochs_are_counted_as_epochs(tmp_path):
    result = judge(tmp_path, epoch=EPOCHS, loss=2.303, accuracy=0.1)
    finding = result.findings[0]
    assert (finding.kind, finding.first_step, finding.last_step) == ("no_progress", 1, 20)
    assert finding.advice.endswith("lowers it. In code: try ten times higher and ten times lower ones.")
    assert judge(tmp_path, epoch=EPOCHS, loss=2 * np.exp(-EPOCHS / 4)).verdict == HEALTHY


def test_an_accuracy_in_percent_is_lost_like_a_share(tmp_path):
    falls = {"loss": 2 * np.exp(-EPOCHS / 4)}
    forgotten = judge(tmp_path, epoch=EPOCHS, val_acc=np.where(EPOCHS < 12, 90.0, 20.0), **falls)
    assert forgotten.verdict == "loss_spike"
    assert judge(tmp_path, epoch=EPOCHS, val_acc=90 + 0.5 * np.sin(EPOCHS), **falls).verdict == HEALTHY


def test_a_loss_of_zero_beside_a_norm_that_is_nan(tmp_path):
    """Hugging Face's Trainer leaves NaN out of the mean loss that it logs; only the norm shows it."""
    result = judge(tmp_path, step=STEPS, loss=late(FALLING, 0.0), grad_norm=late(1 + FLAT, np.nan))
    assert (result.verdict, result.findings[0].first_step) == ("nonfinite", 1500)
    assert result.findings[0].evidence["num_nonfinite"] == 150


def test_a_norm_that_is_always_the_same_was_clipped(tmp_path):
    result = judge(tmp_path, step=STEPS, loss=FALLING, grad_norm=np.minimum(1.0, 1 + 0.001 * np.abs(NOISE)))
    assert [(f.kind, f.severity) for f in result.findings] == [("clip_always", "info")]
    assert "the norm of the gradient before clipping" in result.missing
    assert judge(tmp_path, step=STEPS, loss=FALLING, grad_norm=1 + 0.1 * NOISE).findings == []


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"val_loss": FALLING}, "the loss of the training is not in the log"),
        ({"loss": FLAT, "rollout/ep_rew_mean": STEPS}, "rewards"),
        ({"loss": FLAT, "g_loss": FALLING}, "two networks"),
    ],
)
def test_the_verdict_is_unknown_where_the_loss_says_nothing(tmp_path, columns, reason):
    result = judge(tmp_path, step=STEPS, **columns)
    assert result.verdict == UNKNOWN
    assert reason in result.reason
    assert {"loss_spike", "oscillation", "no_progress"} <= {*result.unjudged}


def test_the_verdict_is_unknown_of_too_few_losses_or_too_early(tmp_path):
    few = judge(tmp_path, step=np.array([500, 1000, 1500]), loss=1.0)
    assert few.reason == "3 losses are too few to tell a level from noise; log the loss of every step"
    early = judge(tmp_path, step=np.arange(50), loss=FLAT[:50])
    assert (
        early.reason == "the loss has fallen by 1%, less than it varies, by step 49, which is too early to judge (500)"
    )
    assert (few.verdict, early.verdict) == (UNKNOWN, UNKNOWN)
    assert judge(tmp_path, step=np.arange(50), loss=FALLING[:50]).verdict == HEALTHY


def test_the_verdict_is_unknown_where_little_was_learned_and_nothing_says_from_where(tmp_path):
    """A good start has little to gain; so has a training that learns nothing but the mean."""
    result = judge(tmp_path, step=STEPS, loss=1 + 0.08 * np.exp(-STEPS / 600) + 0.005 * NOISE)
    assert (result.verdict, [f for f in result.findings if f.alarms]) == (UNKNOWN, [])
    assert result.reason == "the loss has fallen by 7% since it was first logged, and what it was before is not known"
    stuck = judge(tmp_path, step=STEPS, loss=FALLING, val_acc=np.where(STEPS % 20, 0.5, 0.51))
    assert (stuck.verdict, stuck.reason) == (UNKNOWN, "the accuracy of the validation stays at 0.51")
    assert judge(tmp_path, step=STEPS, loss=FALLING, val_acc=0.5 + STEPS / 1e4).verdict == HEALTHY


def test_what_was_not_recorded_is_named_with_what_depends_on_it(tmp_path):
    all_of_it = judge(tmp_path, step=STEPS, loss=FALLING, lr=1e-3, grad_norm=1 + FLAT)
    assert all_of_it.missing == ["anything about single layers"]
    assert {"vanishing", "dead_units", "bad_init", "lr_too_low"} <= {*all_of_it.unjudged}
    assert not {"exploding", "clip_always", "loss_spike", "lr_too_high"} & {*all_of_it.unjudged}
    loss_only = judge(tmp_path, step=STEPS[:12], loss=FALLING[:12])
    assert loss_only.missing[:2] == ["more than 12 losses (log the loss of every step)", "the learning rate"]
    assert {"loss_spike", "oscillation", "lr_too_high", "exploding"} <= {*loss_only.unjudged}
