"""Each rule fires on a made case, and stays silent beside it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from observed import observed, series, table

from stabletrain.diagnosis.causes import order_by_cause
from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.observations import About, Observations
from stabletrain.diagnosis.progress import progress_of
from stabletrain.diagnosis.weight_tables import update_ratios
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import Finding, verdict_of, worst_first
from stabletrain.vocabulary.kinds import KINDS
from stabletrain.vocabulary.notice import Notice

N = 100
GUESSING, LEARNING = np.full(N, 2.3), np.geomspace(2.3, 0.1, N)
NOISE = 0.02 * np.random.default_rng(0).standard_normal(N)
ENTROPY = 2.3


def alarms(observations: Observations) -> list[tuple[str, str, str | None]]:
    return [(f.kind, f.severity, f.layer) for f in diagnose(observations) if f.severity != "info"]


def kinds(observations: Observations) -> list[str]:
    return [kind for kind, *_ in alarms(observations)]


def run(losses=GUESSING, **more) -> Observations:
    return observed(losses=losses, num_steps=N, prior_loss=ENTROPY, **more)


def game(losses, **more) -> Observations:
    """Observations of a network in a game."""
    base = observed(losses=losses, num_steps=N, **more)
    return replace(base, about=replace(base.about, is_game=True))


def waves(decades: float, length: int = 50) -> np.ndarray:
    """‖∂L/∂h_t‖ that falls by so many decades from the last step to the first."""
    return np.tile(np.logspace(-decades, 0, length), (10, 1))


def test_a_quiet_run_has_no_finding():
    assert diagnose(run(LEARNING + NOISE)) == diagnose(Observations()) == []


@pytest.mark.parametrize(
    ("decades", "losses", "expected"),
    [
        (4.0, GUESSING, [("time_vanishing", "critical", "rnn.l0")]),  # as severe as the standstill that it explains
        (2.0, GUESSING, [("no_progress", "critical", None)]),
        (4.0, LEARNING, []),
        (-4.0, GUESSING, [("time_exploding", "critical", "rnn.l0")]),
    ],
)
def test_time(decades, losses, expected):
    observations = run(losses, time={"rnn.l0": waves(decades)})
    waves_of = observations.time["rnn.l0"]._replace(steps=np.arange(10) * 10)
    assert alarms(Observations(scalars=observations.scalars, about=observations.about, time={"rnn.l0": waves_of})) == (
        expected
    )


def test_time_names_the_steps_that_nothing_reaches():
    (finding, *_) = diagnose(run(time={"rnn.l0": waves(6.0, 61)}))
    assert finding.evidence["time_range"] == [0, 29]  # a tenth of a decade a step: three decades are the last 30
    assert finding.evidence["decades_per_step"] == pytest.approx(-0.1)


@pytest.mark.parametrize(("signal", "kind"), [("dead", "dead_units"), ("saturated", "saturation")])
def test_units(signal, kind):
    def units(*shares, losses=GUESSING):
        found = Observations(units={signal: table([shares] * 3, [20, 60, 99])})
        return alarms(Observations(units=found.units, scalars={"train/loss": series(losses)}, about=About(num_steps=N)))

    assert units(0.1, 0.6)[0] == (kind, "critical", "L01.w")
    assert units(0.95, 0.95)[0] == (kind, "critical", "L00.w")
    assert kind not in [found for found, *_ in units(0.4, 0.5)]
    assert units(0.1, 0.6, losses=LEARNING) == []


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ([1.0, 1.2, 0.8, 0.1], []),
        ([1.0, 0.1, 0.01, 0.001, 0.1], [("bad_init", "critical", "L00.w")]),
        ([1.0, 1.0, 100.0, 100.0, 1.0], [("bad_init", "critical", "L02.w")]),  # one layer alone
        ([0.0, 0.0, 0.0, 0.0], [("bad_init", "critical", "L00.w")]),
    ],
)
def test_bad_init(activation, expected):
    assert [x for x in alarms(run(activation=activation)) if x[0] == "bad_init"] == expected
    assert alarms(run(LEARNING, activation=activation)) == []


def with_gain(gain, losses, ratio, prior_loss=ENTROPY, **more) -> Observations:
    base = run(losses, update=np.full((N, 2), ratio), weight=np.ones((N, 2)), **more)
    return replace(base, about=replace(base.about, weight_gain=gain, prior_loss=prior_loss))


SLOW = np.linspace(2.3, 2.2, N)


@pytest.mark.parametrize(
    ("gain", "losses", "ratio", "prior_loss", "expected"),
    [
        (5.8, SLOW, 1e-4, ENTROPY, ["bad_init"]),  # the updates look small beside such weights
        (1.4, SLOW, 1e-4, ENTROPY, ["lr_too_low"]),
        (None, SLOW, 1e-4, ENTROPY, ["lr_too_low"]),
        (5.8, LEARNING + NOISE, 1e-2, ENTROPY, []),
        (5.8, np.r_[np.geomspace(2000, 10, 50), np.geomspace(10, 40, 50)], 1e-2, None, ["bad_init"]),
        (1.4, np.r_[np.geomspace(2000, 10, 50), np.geomspace(10, 40, 50)], 1e-2, None, []),
        (5.8, np.geomspace(2000, 10, N), 1e-2, None, []),
    ],
)
def test_weights_that_are_too_large_for_their_number_of_inputs(gain, losses, ratio, prior_loss, expected):
    assert kinds(with_gain(gain, losses, ratio, prior_loss)) == expected


def test_a_rate_far_below_any_usual_one_is_too_low_for_large_weights_too():
    known = {"choices": {"optimizer": "adam"}, "settings": {"optimizer.lr": 1e-8}}
    assert kinds(with_gain(5.8, SLOW, 1e-6, **known)) == ["lr_too_low"]


@pytest.mark.parametrize(("size", "expected"), [(3e7, ["bad_init"]), (1e6, [])])
def test_outputs_so_large_that_targets_are_lost_in_rounding(size, expected):
    """A loss that falls from 1e14 to 1e12 is no progress, though nothing says what chance level is."""
    activation = [1.0, 1e3, size, size, 1.0]
    assert kinds(observed(losses=np.geomspace(1e14, 1e11, N), num_steps=N, activation=activation)) == expected


@pytest.mark.parametrize(
    ("lr", "peak", "ratio", "expected"),
    [(1.0, 20.0, 5.0, ["lr_too_high"]), (1.0, 3.0, 5.0, []), (1e-3, 20.0, 5.0, []), (1.0, 20.0, 0.5, [])],
)
def test_a_loss_that_is_zero_on_most_steps_and_huge_on_others_is_not_learned(lr, peak, ratio, expected):
    losses = np.where(np.arange(N) % 3 == 0, peak, 0.01)
    losses[0] = 2.3
    known = {"choices": {"optimizer": "adam"}, "settings": {"optimizer.lr": lr}}
    observations = run(losses, update=np.full((N, 2), ratio), weight=np.ones((N, 2)), **known)
    assert [kind for kind in kinds(observations) if kind == "lr_too_high"] == expected


def test_outputs_that_are_too_large_and_losses_that_are_sums():
    losses = np.full(N, 30.0)
    assert alarms(run(losses, activation=[1.0, 1.0, 40.0]))[0][:2] == ("bad_init", "critical")
    summed = run(64 * LEARNING, activation=[1.0, 1.0, 0.3])
    assert alarms(summed) == []
    assert progress_of(summed).fall > 0.9


@pytest.mark.parametrize(
    ("ratio", "losses", "expected"),
    [
        (0.5, GUESSING, ["lr_too_high"]),
        (0.5, LEARNING, []),
        (1e-3, LEARNING, []),
        (1e-5, np.linspace(2.3, 2.25, N), ["lr_too_low"]),
        (1e-2, np.linspace(2.3, 2.25, N), ["no_progress"]),
    ],
)
def test_steps(ratio, losses, expected):
    update, weight = np.full((N, 2), ratio * 0.1), np.full((N, 2), 0.1)
    assert kinds(run(losses, update=update, weight=weight)) == expected


@pytest.mark.parametrize(
    ("ratio", "fall", "expected"),
    [(0.2, 0.6, []), (0.2, 0.2, ["lr_too_high"]), (0.5, 0.6, ["lr_too_high"]), (0.5, 0.9, [])],
)
def test_the_further_the_steps_the_more_must_be_learned(ratio, fall, expected):
    update, weight = np.full((N, 2), ratio), np.full((N, 2), 1.0)
    losses = np.concatenate([np.linspace(2.3, 2.3 * (1 - fall), 50), np.full(50, 2.3 * (1 - fall))])
    assert kinds(run(losses, update=update, weight=weight)) == expected


@pytest.mark.parametrize(
    ("ratio", "lr", "is_game", "expected"),
    [
        (5.0, 1.0, True, ["lr_too_high"]),
        (5.0, 2e-3, True, []),  # a usual rate
        (0.5, 1.0, True, []),
        (5.0, 1.0, False, []),  # the loss shows that it learns
    ],
)
def test_a_game_whose_loss_shows_nothing(ratio, lr, is_game, expected):
    update, weight = np.full((N, 2), ratio), np.full((N, 2), 1.0)
    known = {"choices": {"optimizer": "adam"}, "settings": {"optimizer.lr": lr}}
    observations = run(LEARNING + NOISE, update=update, weight=weight, **known)
    assert kinds(replace(observations, about=replace(observations.about, is_game=is_game))) == expected


@pytest.mark.parametrize(
    ("weight", "gradient", "expected"),
    [(0.0, 0.0, ["bad_init"]), (0.0, 1e-3, []), (0.1, 0.0, [])],
)
def test_weights_and_gradients_that_are_all_zero(weight, gradient, expected):
    observations = run(LEARNING + NOISE, gradient=np.full((N, 2), gradient), weight=np.full((N, 2), weight))
    assert kinds(observations) == expected
    game = replace(observations, about=replace(observations.about, is_game=True))
    assert kinds(game) == ([] if weight else ["bad_init"])  # no loss shows that it learns


def test_a_loss_that_falls_excuses_large_outputs_but_not_above_chance_level_at_the_end():
    def falls_to(last, num=N):
        return run(np.geomspace(30.0, last, N)[:num], activation=[1.0, 1.0, 40.0])

    assert kinds(falls_to(8.0))[:1] == ["bad_init"]
    assert kinds(falls_to(8.0, 60)) == []  # it may still come down
    assert "bad_init" not in kinds(falls_to(0.2))


def test_what_began_at_zero_has_no_ratio():
    update, weight = np.full((N, 2), 1e-3), np.full((N, 2), 0.1)
    weight[0, 0], weight[1:, 0] = 0.0, 1e-3
    ratios = update_ratios(run(update=update, weight=weight))
    assert np.isnan(ratios.values[:, 0]).all()
    assert ratios.values[:, 1] == pytest.approx(0.01)


def test_a_plan_that_ends_while_the_loss_falls_steeply():
    update, weight = np.full((N, 2), 1e-3), np.full((N, 2), 0.1)
    steep = np.concatenate([np.full(60, 2.3), np.linspace(2.3, 1.0, 40)])
    assert kinds(run(steep, update=update, weight=weight)) == ["lr_too_low"]
    assert kinds(run(steep[:95], update=update, weight=weight)) == []  # the plan is not over
    settled = np.concatenate([np.linspace(2.3, 1.0, 60), np.full(40, 1.0)])
    assert kinds(run(settled, update=update, weight=weight)) == []


@pytest.mark.parametrize(("ratio", "expected"), [(5e-4, ["lr_too_low"]), (2e-3, [])])
def test_without_a_plan_a_steep_loss_is_slow_only_with_small_updates(ratio, expected):
    update, weight = np.full((N, 2), ratio * 0.1), np.full((N, 2), 0.1)
    steep = run(np.concatenate([np.full(60, 2.3), np.linspace(2.3, 1.0, 40)]), update=update, weight=weight)
    assert kinds(steep) == ["lr_too_low"]
    assert kinds(replace(steep, about=replace(steep.about, is_open_ended=True))) == expected


def test_a_validation_that_goes_back_and_forth():
    def validated(*scores):
        base = run(LEARNING)
        found = series(scores, np.arange(1, len(scores) + 1) * N // len(scores) - 1)
        return kinds(Observations(scalars=base.scalars | {"val/accuracy": found}, about=base.about))

    assert validated(*[0.9, 0.7] * 10) == ["oscillation"]
    assert validated(*[0.9, 0.87] * 10) == []
    assert validated(*np.linspace(0.1, 0.9, 20)) == []  # steep, and one way
    assert validated(*[0.9, 0.7] * 4) == []  # too few to tell


def test_zeros_that_something_goes_around_are_no_bad_start():
    zeros = [1.0, 1.0, 0.0, 0.0, 0.9]
    assert alarms(run(activation=zeros, delta=[0.1, 0.1, 0.1, 0.1, 0.1]))[0][0] == "no_progress"
    assert alarms(run(activation=zeros, delta=[0.0, 0.0, 0.0, 0.1, 0.1]))[0][0] == "bad_init"


def test_who_once_learned_has_left_the_start_behind():
    lost = np.concatenate([LEARNING, np.full(N, 3.0)])
    spread = [1.0, 0.1, 0.01, 0.001, 0.1]
    assert "bad_init" not in kinds(observed(losses=lost, num_steps=2 * N, prior_loss=ENTROPY, activation=spread))


def test_a_first_loss_that_the_next_ones_tear_up_is_no_sum():
    torn = np.concatenate([[2.3], np.full(N - 1, 50.0)])
    assert progress_of(run(torn)).baseline == ENTROPY
    assert progress_of(run(64 * torn)).baseline == 64 * 2.3


def test_chance_is_not_learning():
    noisy = 2.3 + 0.3 * np.random.default_rng(1).standard_normal(N)
    progress = progress_of(run(noisy))
    assert progress.best < 2.25
    assert progress.best_fall < 0.03
    assert kinds(run(noisy)) == ["no_progress"]


def test_a_jump_of_the_learning_rate():
    losses = np.concatenate([LEARNING[:60], np.full(10, 2.0)])
    rate = series([1e-3, 1e-1], [0, 60])
    observations = observed(losses=losses, num_steps=N, prior_loss=ENTROPY)
    found = Observations(scalars=observations.scalars | {names.LR: rate}, about=observations.about)
    finding = diagnose(found)[0]
    assert (finding.kind, finding.severity, finding.first_step) == ("lr_too_high", "critical", 60)
    assert "lr_too_high" not in kinds(Observations(scalars=observations.scalars, about=observations.about))


def test_loss_spikes_and_single_outliers():
    spike = np.concatenate([LEARNING[:50], np.full(10, 3.0)])
    assert kinds(run(spike)) == ["loss_spike"]
    outlier = LEARNING.copy()
    outlier[50] = 30.0
    assert diagnose(run(outlier)) == []
    back = np.concatenate([LEARNING[:50], np.full(6, 3.0), LEARNING[50:]])
    assert [(f.kind, f.severity) for f in diagnose(run(back))] == [("loss_spike", "info")]


def test_oscillation_and_no_progress():
    swings = 2.0 + 1.5 * np.sign(np.sin(np.arange(N)))
    assert kinds(run(swings)) == ["oscillation"]
    assert kinds(run(GUESSING + NOISE)) == ["no_progress"]
    assert kinds(run((GUESSING + NOISE)[:20])) == []  # a plateau may end
    assert kinds(run(LEARNING + NOISE)) == []


def test_nonfinite_names_the_first_layer_and_a_skipped_step_is_none():
    bad = np.zeros((10, 3))
    bad[9, 1:] = 3, 7
    base = observed(np.ones((10, 3)), losses=GUESSING[:10])
    hit = Observations(rms=base.rms, scalars=base.scalars, nonfinite={"gradient": table(bad)}, about=base.about)
    (finding,) = diagnose(hit)
    assert (finding.kind, finding.severity, finding.layer, finding.first_step) == ("nonfinite", "critical", "L01.w", 9)
    assert finding.evidence == {"signal": "gradient", "num_nonfinite": 3, "layers": ["L01.w", "L02.w"]}
    later = observed(np.ones((12, 3)), losses=GUESSING[:12])
    skipped = Observations(rms=later.rms, scalars=later.scalars, nonfinite={"gradient": table(bad)})
    assert [f.severity for f in diagnose(skipped)] == ["info"]


def test_clipping():
    def clipped(before, after, losses=GUESSING, **more):
        return run(losses, scalars={"gradient/norm/total": before, "clip/norm_after": after}, **more)

    always = diagnose(clipped(np.full(N, 30.0), np.full(N, 1.0), LEARNING))
    assert [(f.kind, f.severity) for f in always] == [("clip_always", "info")]
    assert "clip_always" in [f.kind for f in diagnose(clipped(np.full(N, 30.0), np.full(N, 1.0)))]
    assert diagnose(clipped(np.full(N, 1.0), np.full(N, 1.0), LEARNING)) == []
    jump = np.concatenate([np.ones(90), np.full(10, 1e3)])
    found = diagnose(clipped(jump, jump, choices={"clip": "norm"}))
    assert "clip_ineffective" in [f.kind for f in found]
    assert "clip_ineffective" not in [
        f.kind for f in diagnose(clipped(jump, np.minimum(jump, 2.0), choices={"clip": "norm"}))
    ]


def finding(kind: str, severity: str = "warning", step: int = 0, layer: str | None = None) -> Finding:
    return Finding(kind, severity, layer, step, step, {})


def test_the_cause_comes_before_what_follows_from_it():
    found = order_by_cause(
        [
            finding("no_progress", "critical", 30),
            finding("vanishing", "warning", 0),
            finding("dead_units", "warning", 5),
        ]
    )
    assert [(f.kind, f.severity, f.evidence.get("because_of")) for f in found] == [
        ("dead_units", "critical", None),
        ("no_progress", "info", "dead_units"),
        ("vanishing", "info", "dead_units"),
    ]
    assert found[1].evidence["severity_alone"] == "critical"
    assert verdict_of(found) == "dead_units"


def test_no_cause_comes_after_its_symptom():
    late = order_by_cause([finding("vanishing", "warning", 0), finding("lr_too_high", "warning", 500)])
    assert [f.severity for f in late] == ["warning", "warning"]
    harmless = order_by_cause([finding("vanishing", "warning"), finding("bad_init", "info")])
    assert [(f.kind, f.severity) for f in harmless] == [("vanishing", "warning"), ("bad_init", "info")]


def test_there_is_always_a_root():
    for first in KINDS:
        for second in KINDS:
            found = order_by_cause([finding(first), finding(second)])
            assert len(found) == 2
            assert found[0].severity == "warning", (first, second)


def test_worst_first_and_the_verdict():
    info, warning = finding("no_progress", "info"), finding("exploding", "warning")
    critical = finding("nonfinite", "critical", 9)
    assert verdict_of([]) == verdict_of([info]) == "healthy"
    assert worst_first([info, warning, critical]) == [critical, warning, info]
    assert verdict_of([info, warning, critical]) == "nonfinite"
    with pytest.raises(AssertionError):
        finding("no_such_kind")
    with pytest.raises(AssertionError):
        finding("nonfinite", "catastrophic")


def test_units_that_begin_as_copies():
    def started(equal, weight=(0.1, 0.1, 0.1), losses=GUESSING):
        base = run(losses, gradient=[0.1, 0.1, 0.1], weight=weight)
        units = {"equal": table([equal], [0])}
        return alarms(Observations(rms=base.rms, units=units, scalars=base.scalars, about=base.about))

    assert ("bad_init", "critical", "L00.w") in started([1.0, 1.0, 1.0])
    assert "bad_init" not in [kind for kind, *_ in started([1.0, np.nan, np.nan])]  # what follows tells them apart
    branches = started([1.0, 1.0, np.nan], (0.0, 0.0, 0.1))  # that begin at zero
    assert "bad_init" not in [kind for kind, *_ in branches]
    assert started([1.0, 1.0, 1.0], losses=LEARNING) == []


BALANCED = 1.4 + NOISE  # the loss of a discriminator that wins half of the time


@pytest.mark.parametrize(
    ("ratio", "expected"), [(2.0, ["lr_too_high"]), (0.5, []), (1e-3, []), (1e-6, ["lr_too_low"]), (2e-4, [])]
)
def test_steps_where_the_loss_shows_nothing(ratio, expected):
    update, weight = np.full((N, 2), ratio), np.full((N, 2), 1.0)
    assert kinds(game(BALANCED, update=update, weight=weight)) == expected
    returns = observed(losses=NOISE, num_steps=N, update=update, weight=weight)  # a policy gradient
    assert kinds(returns) == expected


@pytest.mark.parametrize(("lr", "expected"), [(1.0, ["lr_too_high"]), (1e-3, [])])
def test_a_usual_rate_is_not_too_high_for_a_game(lr, expected):
    choices, settings = {"optimizer": "adam"}, {"optimizer.lr": lr}
    update, weight = np.full((N, 2), 2.0), np.full((N, 2), 1.0)  # ‖ΔW‖/‖W‖ = 2
    assert kinds(game(BALANCED, update=update, weight=weight, choices=choices, settings=settings)) == expected


@pytest.mark.parametrize(("share", "expected"), [(1.0, ["saturation"]), (0.6, [])])
def test_units_where_the_loss_shows_nothing(share, expected):
    assert kinds(game(BALANCED, units={"saturated": [[share, share]] * 3})) == expected


def test_a_game_is_torn_apart():
    torn = BALANCED.copy()
    torn[60:66] = 500.0
    assert alarms(game(torn)) == [("loss_spike", "warning", None)]
    torn[60:66] = 3.0
    assert alarms(game(torn)) == []
    assert kinds(run(torn + LEARNING)) == []  # elsewhere the loss shows that it recovered


def test_a_policy_that_is_certain_has_no_gradient_left():
    sure = np.concatenate([np.linspace(0.01, -0.3, 20), np.full(80, -1e-4)])
    assert not progress_of(observed(losses=sure, num_steps=N)).is_relapse
    assert progress_of(observed(losses=np.concatenate([sure[:60], np.full(40, 5.0)]), num_steps=N)).is_relapse


def test_large_first_steps_that_were_overcome():
    update, weight = np.full((N, 2), 1e-3), np.full((N, 2), 1.0)
    update[:4] = 0.2
    relapsed = np.concatenate([np.geomspace(2.3, 0.3, 60), np.full(40, 1.0)])
    assert "lr_too_high" not in kinds(run(relapsed, update=update, weight=weight))
    assert "lr_too_high" in kinds(run(np.full(N, 2.1), update=update, weight=weight))
    update[:4] = 0.5  # far too large
    assert "lr_too_high" in kinds(run(relapsed, update=update, weight=weight))


def test_time_that_vanished_until_the_network_learned():
    gone = np.concatenate([waves(4.0), waves(0.5)])
    base = run(np.concatenate([np.geomspace(2.3, 0.7, 60), np.full(40, 0.7)]), time={"rnn.l0": gone})
    wave = base.time["rnn.l0"]._replace(steps=np.arange(20) * 5)

    def found(**more):
        return kinds(replace(base, time={"rnn.l0": wave}, **more))

    assert found() == []
    lost = run(np.full(N, 2.0)).scalars
    assert found(scalars=lost) == ["time_vanishing"]


@pytest.mark.parametrize(
    ("size", "num_rounds", "noise", "expected"),
    [
        (0.5, 3, 0.01, ["oscillation"]),
        (0.1, 3, 0.01, []),  # it stays near its level
        (0.5, 3, 0.4, []),  # the noise of single batches
        (0.5, 0.7, 0.01, []),  # it goes from one level to another
    ],
)
def test_the_loss_of_a_game_that_goes_round(size, num_rounds, noise, expected):
    time = np.linspace(0, 1, 3 * N)
    losses = 1.4 + size * np.sin(2 * np.pi * num_rounds * time) + noise * np.resize(NOISE / 0.02, 3 * N)
    observations = observed(losses=losses, num_steps=3 * N)
    in_a_game = replace(observations, about=replace(observations.about, is_game=True))
    assert [kind for kind in kinds(in_a_game) if kind == "oscillation"] == expected


def test_equal_units_and_outputs_that_take_long_to_come_down():
    equal = {"equal": [1.0] * 4}
    more = {"gradient": np.ones((10, 4)), "weight": np.ones((10, 4)), "units": equal}
    assert kinds(game(GUESSING + NOISE, **more)) == ["bad_init"]
    assert kinds(game(GUESSING + NOISE, **(more | {"units": {"equal": [0.5] * 4}}))) == []

    def from_above(num_steps):
        """A loss that comes from 9 to chance level in so many steps, and ends 44% below it."""
        return np.concatenate([np.linspace(9, 2.3, num_steps), np.linspace(2.3, 1.3, N - num_steps)]) + NOISE

    assert kinds(run(from_above(30), activation=[1.0, 1.0, 9.0])) == ["bad_init"]
    assert kinds(run(from_above(5), activation=[1.0, 1.0, 9.0])) == []


@pytest.mark.parametrize(
    ("update", "norm", "expected"),
    [
        ([1e-3, 1e-2, 1e-3, 1e-1], 30.0, ["clip_always"]),  # a multiple of the gradient: SGD
        ([1e-3, 1e-2, 1e-3, 1e-1], 5.0, []),  # it removes less
        ([1e-3, 1e-3, 1e-3, 1e-3], 30.0, []),  # Adam, whose steps do not depend on the threshold
    ],
)
def test_a_threshold_that_slows_gradient_descent_is_held_against_a_training_that_is_not_done(update, norm, expected):
    rows = np.ones((N, 4))
    falling = np.linspace(2.3, 1.2, N) + NOISE
    norms = {names.NORM_TOTAL: np.full(N, norm), names.NORM_AFTER: np.ones(N)}
    more = {"gradient": rows * [1e-2, 1e-1, 1e-2, 1.0], "weight": rows, "update": rows * update, "scalars": norms}
    assert kinds(run(falling, **more)) == expected


@pytest.mark.parametrize(
    ("losses", "last_lr", "expected"),
    [
        (2.3 - 0.01 * np.arange(N).clip(max=40), 1e-12, ["lr_too_low"]),  # 17% below chance level, and at rest
        (2.3 - 0.01 * np.arange(N).clip(max=40), 1e-4, []),  # it learns slowly, but nobody said for how long
        (LEARNING, 1e-12, []),  # learned, and then at rest
    ],
)
def test_a_rate_that_falls_to_nothing_ends_the_training(losses, last_lr, expected):
    rates = np.where(np.arange(N) < 40, 1e-2, last_lr)
    ratios = np.tile(0.1 * rates[:, None], 4)
    base = observed(losses=losses + NOISE, prior_loss=ENTROPY, update=ratios, weight=np.ones_like(ratios))
    assert kinds(replace(base, scalars={**base.scalars, names.LR: series(rates)})) == expected


def test_a_loss_that_falls_to_the_end_has_a_low_rate():
    update, weight = np.full((N, 2), 9e-4), np.full((N, 2), 1.0)
    assert kinds(run(np.linspace(2.3, 1.8, N) + NOISE, update=update, weight=weight)) == ["lr_too_low"]
    settles = np.concatenate([np.linspace(2.3, 1.8, 60), np.full(40, 1.8)])
    assert kinds(run(settles + NOISE, update=update, weight=weight)) == []
    usual = np.full((N, 2), 1.1e-3)  # the training is short, the rate is not low
    assert "lr_too_low" not in kinds(run(np.linspace(2.3, 1.8, N) + NOISE, update=usual, weight=weight))


def test_weights_that_hardly_move_make_no_loss_swing():
    swings = 2.0 + 1.5 * np.sign(np.sin(np.arange(N)))
    for size, expected in ((2e-3, True), (1e-4, False)):
        moved = run(swings, update=np.full((N, 2), size), weight=np.full((N, 2), 1.0))
        assert ("oscillation" in kinds(moved)) == expected


def test_a_spike_among_noisy_losses_is_over_if_the_last_tenth_is():
    noisy = np.where(np.arange(N) % 2, 1.3, 0.7) * 1.0
    noisy[50:56] = 3.0  # the last five have the median 1.3, the last tenth 1.0
    (spike,) = [f for f in diagnose(run(noisy)) if f.kind == "loss_spike"]
    assert spike.evidence["recovered"]
    noisy[50:] = 3.0
    (spike,) = [f for f in diagnose(run(noisy)) if f.kind == "loss_spike"]
    assert not spike.evidence["recovered"]


def test_a_short_training_is_judged_where_its_loop_says_that_it_is_all():
    def short(num_steps, client="loop", **more):
        base = observed(losses=np.full(30, 2.28), num_steps=num_steps, prior_loss=ENTROPY)
        return kinds(replace(base, about=replace(base.about, client=client, **more)))

    assert short(30) == ["no_progress"]
    assert short(30, is_open_ended=True) == []
    assert short(30, prior_loss=None) == []
    assert short(60) == []  # it goes on
    assert short(30, client="huggingface") == []


def test_targets_far_from_zero_explain_a_high_first_loss():
    losses = np.concatenate([[900.0], np.full(N - 1, 75.0)])  # the prior: the mean was learned, and nothing else
    base = replace(observed(losses=losses, num_steps=N, prior_loss=75.0))
    assert progress_of(base).fall > 0.9
    seen = Notice("target_scale", 0, 0, evidence={"mean": 29.0, "std": 8.7})
    assert progress_of(replace(base, notices=(seen,))).fall == 0


def test_outputs_that_came_down_to_chance_are_no_bad_start():
    fallen = np.concatenate([np.linspace(10.0, 2.35, 50), np.full(50, 2.35)])
    assert kinds(run(fallen, activation=[1.0, 1.0, 5.0])) == ["no_progress"]
    assert kinds(run(fallen + 1.0, activation=[1.0, 1.0, 5.0])) == ["bad_init"]


def test_adapters_begin_at_zero():
    adapter = {"activation": [1.0, 1.0, 0.1, 0.0, 5.0], "delta": [np.nan, 0.1, 0.0, 0.1, 0.1]}
    assert "bad_init" not in kinds(run(**adapter))
    assert "bad_init" in kinds(run(**adapter | {"delta": [np.nan, 0.0, 0.0, 0.1, 0.1]}))


def test_a_loss_that_begins_at_zero_has_a_size():
    erratic = np.tile([0.0, 2.0], N // 2)
    assert progress_of(observed(losses=erratic, num_steps=N)).baseline == 1.0


def test_single_examples_make_no_spike():
    rng = np.random.default_rng(4)
    single = np.linspace(1.0, 0.6, 300) * rng.exponential(1.0, 300)
    found = diagnose(observed(losses=single, num_steps=300, prior_loss=1.0))
    assert "loss_spike" not in [f.kind for f in found]
