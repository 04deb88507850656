"""Each rule fires on a made case, and stays silent beside it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import stabletrain as st
from stabletrain.app.overrides import list_groups
from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.finding import KINDS, Finding, verdict_of, worst_first
from stabletrain.diagnosis.observations import Observations
from stabletrain.diagnosis.remedies import ADVICE, advise
from stabletrain.diagnosis.rules.depth import depth_decades
from stabletrain.diagnosis.windows import robust_z_scores
from stabletrain.signal.snapshot import LayerStatistics, Snapshot


def snapshots(*rms, steps=10, num_nonfinite=()):
    def layer(i, value):
        bad = num_nonfinite[i] if num_nonfinite else 0
        return LayerStatistics(f"L{i:02d}.w", 100, value, bad)

    return tuple(Snapshot(s, tuple(layer(i, v) for i, v in enumerate(rms))) for s in range(steps))


def kinds(observations) -> list[str]:
    return [f.kind for f in diagnose(observations)]


@pytest.mark.parametrize(
    ("rms", "expected", "severity"),
    [
        ((1e-1, 1e-1), None, None),
        ((1.1e-4, 1e-1), None, None),
        ((0.9e-4, 1e-1), "vanishing", "warning"),
        ((1e-8, 1e-1), "vanishing", "critical"),
        ((0.0, 1e-1), "vanishing", "critical"),
        ((1e3, 1.1), None, None),
        ((1e3, 0.9), "exploding", "warning"),
        ((1e3, 1e-4), "exploding", "critical"),
        ((1e-9, 1e-8), None, None),  # small everywhere: converged, not vanishing
        ((0.0, 0.0), None, None),
        ((1e-9,), None, None),
        ((None, 1e-1), None, None),
    ],
)
def test_depth(rms, expected, severity):
    findings = diagnose(Observations(snapshots(*rms)))
    assert [f.kind for f in findings] == ([expected] if expected else [])
    if expected:
        (finding,) = findings
        assert (finding.severity, finding.layer, finding.first_step, finding.last_step) == (severity, "L00.w", 0, 9)


def test_depth_needs_persistence_and_enough_snapshots():
    bad, good = snapshots(1e-9, 1.0, steps=10), snapshots(1.0, 1.0, steps=10)
    assert kinds(Observations(bad[:8] + good[8:])) == ["vanishing"]
    assert kinds(Observations(bad[:7] + good[7:])) == []
    assert kinds(Observations(bad[:3])) == ["vanishing"]
    assert kinds(Observations(bad[:2])) == []


def test_depth_decades_of_known_numbers():
    assert depth_decades(snapshots(1e-2, 5.0, 1.0)[0]) == pytest.approx(-2)
    assert depth_decades(snapshots(0.0, 1.0)[0]) == pytest.approx(-45)


def test_nonfinite_names_the_first_layer_in_forward_order():
    clean = snapshots(1.0, 1.0, 1.0, steps=5)
    hit = Snapshot(5, snapshots(1.0, 1.0, 1.0, steps=1, num_nonfinite=(0, 3, 7))[0].layers)
    (finding,) = diagnose(Observations((*clean, hit), choices={"clip": "none"}))
    assert (finding.kind, finding.severity, finding.layer) == ("nonfinite", "critical", "L01.w")
    assert (finding.first_step, finding.evidence["layers"]) == (5, ["L01.w", "L02.w"])
    assert finding.overrides[0] == "clip=norm"
    assert kinds(Observations(clean)) == []


def norms(values):
    return Observations(norms=dict(enumerate(values)))


def usual(n=100):
    generator = torch.Generator().manual_seed(0)
    return (10 ** (0.1 * torch.randn(n, generator=generator))).tolist()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (usual() + [1e4] * 5, ["exploding"]),
        (usual() + [1e4] * 4 + usual(20), []),  # four in a row are not five
        ([*usual(), 1e4, *usual(50), 1e4], []),  # single outlier batches
        ([1.0] * 100 + [1.05, 0.95] * 50, []),  # a quiet window makes nothing of 5%
        ([1.0] * 100 + [10.0] * 5, ["exploding"]),
        ([0.97**i for i in range(300)], []),  # steadily falling
        (usual(60) + [1e6] * 4, []),  # too early to know what is usual
        ([0.0] * 100 + [0.0] * 10, []),
    ],
)
def test_norm_explosion(values, expected):
    assert kinds(norms(values)) == expected


def test_an_explosion_does_not_become_its_own_yardstick():
    scores = robust_z_scores([0.0] * 64 + [3.0] * 200)
    assert min(s for s in scores[64:] if s is not None) == pytest.approx(60.0)


def test_verdict_and_order():
    def finding(kind, severity, step=0):
        return Finding(kind, severity, None, step, step, {}, "")

    info, warning, critical = (
        finding("bad_init", "info"),
        finding("exploding", "warning"),
        finding("nonfinite", "critical", 9),
    )
    assert verdict_of([]) == verdict_of([info]) == "healthy"
    assert verdict_of([info, warning]) == "exploding"
    assert worst_first([info, warning, critical]) == [critical, warning, info]
    assert verdict_of([info, warning, critical]) == "nonfinite"
    with pytest.raises(AssertionError):
        finding("no_such_kind", "info")
    with pytest.raises(AssertionError):
        finding("nonfinite", "catastrophic")


@pytest.mark.parametrize("kind", sorted(ADVICE))
@pytest.mark.parametrize("model", ["mlp", "rnn", "lstm"])
def test_remedies_exist_and_are_not_chosen_already(kind, model):
    assert kind in KINDS
    groups = list_groups()
    choices = {
        "model": model,
        "activation": "sigmoid",
        "init": "he",
        "norm": "layer",
        "clip": "norm",
        "residual": "none",
    }
    advice = advise(kind, choices)
    assert advice["advice"].endswith(".")
    for override in advice["overrides"]:
        key, _, value = override.partition("=")
        assert value in groups[key] if key in groups else key == "optimizer.lr"
        assert choices.get(key) != value
    assert advise(kind, {})["overrides"] == []


def train(model, num_steps=40, lr=1e-3, poison=False):
    torch.manual_seed(0)
    doctor, optimizer = st.Doctor(model), torch.optim.Adam(model.parameters(), lr=lr)
    for step in range(num_steps):
        x = torch.randn(32, 8)
        if poison and step == 20:
            x[3] = float("nan")
        loss = nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())
        optimizer.zero_grad()
        loss.backward()
        doctor.step(loss)
        if poison and step == 20:
            break
        optimizer.step()
    return doctor


def mlp(depth, activation):
    layers = [m for i in range(depth) for m in (nn.Linear(8 if i == 0 else 16, 16), activation())]
    return nn.Sequential(*layers, nn.Linear(16, 2))


@pytest.mark.parametrize(
    ("make", "options", "verdict"),
    [
        (lambda: mlp(2, nn.ReLU), {}, "healthy"),
        (lambda: mlp(4, nn.Tanh), {"num_steps": 150}, "healthy"),
        (lambda: mlp(20, nn.Sigmoid), {}, "vanishing"),
        (lambda: mlp(2, nn.ReLU), {"poison": True}, "nonfinite"),
    ],
)
def test_the_doctor_in_a_plain_loop(make, options, verdict):
    torch.manual_seed(0)
    doctor = train(make(), **options)
    assert doctor.verdict == verdict
    assert doctor.report().splitlines()[0] == f"verdict: {verdict}"
    assert all(f.overrides == [] for f in doctor.findings)  # not composed by us: advice in words
