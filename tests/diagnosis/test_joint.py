"""What was found together is fixed by one remedy, for a model that stabletrain did not compose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from observed import observed

from stabletrain.diagnosis.circumstances import Circumstances, circumstances_of
from stabletrain.diagnosis.joint import joint_remedy
from stabletrain.diagnosis.observations import About
from stabletrain.diagnosis.plan import with_remedies
from stabletrain.diagnosis.progress import progress_of
from stabletrain.diagnosis.rates import Rate, rate_of
from stabletrain.diagnosis.remedies import steady_fall
from stabletrain.vocabulary.clients import LIGHTNING
from stabletrain.vocabulary.finding import BECAUSE, Finding
from stabletrain.vocabulary.notice import REMEDY

GOOD_RATE = Circumstances(rate=Rate(1e-3, True, 1.0, 1.0, 5000))
ADAM = "torch.optim.Adam(model.parameters(), lr=0.001)"  # in place of gradient descent, whose rate depends on the loss
INPUTS, TARGETS = "x = (x - 3) / 200", "y = (y - 5) / 7"


def found(kind: str, severity: str = "warning", **evidence: Any) -> Finding:
    return Finding(kind, severity, None, 0, 9, evidence)


def code(findings: list[Finding], about: About) -> str:
    """The first thing to do, as the first finding says it."""
    return with_remedies(findings, about)[0].advice.partition("In code: ")[2].partition("; ")[0].rstrip(".")


def test_inputs_and_targets_are_scaled_together():
    both = [found("target_scale", **{REMEDY: TARGETS}), found("input_scale", **{REMEDY: INPUTS})]
    assert code(both, GOOD_RATE) == f"{TARGETS}, and {INPUTS}"
    assert code(both[:1], GOOD_RATE) == TARGETS
    info = [both[0], found("input_scale", "info", **{REMEDY: INPUTS})]
    assert code(info, GOOD_RATE) == TARGETS  # what does no harm is left alone


def test_a_rate_far_from_usual_belongs_to_an_activation_that_does_not_fit():
    wrong = [found("output_activation", **{REMEDY: "remove the sigmoid: cross_entropy takes logits"})]
    slow = Circumstances(rate=Rate(1e-5, False, 1e-2, 1e-2, 5000))
    assert code(wrong, slow) == f"{wrong[0].evidence[REMEDY]}, and {ADAM}"
    assert code(wrong, GOOD_RATE) == wrong[0].evidence[REMEDY]
    assert joint_remedy(wrong, About()) is None  # nothing is known of the rate


def test_the_updates_of_adam_must_agree_that_its_rate_is_unusual():
    wrong = [found("input_scale", **{REMEDY: INPUTS})]
    small_steps = Circumstances(rate=Rate(1.0, True, 1e-5, 1e-5, 5000))  # as Adadelta, whose usual rate is 1
    large_steps = Circumstances(rate=Rate(1.0, True, 10.0, 10.0, 5000))
    assert code(wrong, small_steps) == INPUTS
    assert code(wrong, large_steps) == f"{INPUTS}, and set the optimizer's lr=0.001"


def test_the_rate_is_not_moved_against_what_a_cause_says():
    low = Circumstances(rate=Rate(1e-8, True, None, None, 5000))
    inputs = found("input_scale", **{REMEDY: INPUTS})
    assert code([found("lr_too_low"), inputs], low) == f"{INPUTS}, and set the optimizer's lr=0.001"
    high, *_ = with_remedies([found("lr_too_high"), inputs, found("lr_too_low", "info")], low)
    assert "lr=0.001" not in high.advice


def test_the_rate_is_in_the_words_of_the_client():
    slow = Circumstances(client=LIGHTNING, rate=Rate(1e-5, False, 1e-2, 1e-2, 5000))
    call = ADAM.replace("model", "self")
    assert code([found("input_scale", **{REMEDY: INPUTS})], slow) == f"{INPUTS}, and {call} in configure_optimizers"


def test_a_symptom_adds_nothing():
    findings = [found("input_scale", **{REMEDY: INPUTS}), found("lr_too_low", "info", **{BECAUSE: "input_scale"})]
    assert code(findings, GOOD_RATE) == INPUTS


def test_independent_causes_are_fixed_together_without_contradiction():
    about = Circumstances(rate=Rate(1e-6, True, 1.0, 1.0, 5000), is_saturating=True)
    first, second = with_remedies([found("vanishing"), found("lr_too_low")], about)
    assert '"relu") with st.initialize_(model, "he"), and set the optimizer\'s lr=' in first.advice
    assert "lower" not in second.advice
    rose = [found("lr_too_high", lr_before=1e-3), found("input_scale", **{REMEDY: INPUTS})]
    assert joint_remedy(rose, GOOD_RATE) is None


def test_a_short_training_is_to_be_longer():
    short = Circumstances(rate=Rate(1e-3, True, 1.0, 1.0, 60), num_steps=60)
    assert code([found("lr_too_low")], short).endswith(", and train for 2,000 steps")
    assert code([found("bad_init")], short).endswith(", and train for 2,000 steps")
    enough = Circumstances(rate=Rate(1e-3, True, 1.0, 1.0, 600), num_steps=600)
    assert "train for" not in code([found("bad_init")], enough)
    long = Circumstances(rate=Rate(1e-3, True, 1.0, 1.0, 6000), num_steps=6000)
    assert "train for" not in code([found("lr_too_low")], long)


def test_trained_weights_are_not_initialized_by_it():
    about = Circumstances(rate=Rate(1e-6, True, 1.0, 1.0, 5000), is_saturating=True, is_pretrained=True)
    (first, _) = with_remedies([found("vanishing"), found("lr_too_low")], about)
    assert "initialize_(" not in first.advice.partition("In code")[2]


def test_a_loss_that_falls_steadily_gets_larger_steps():
    small = Circumstances(rate=Rate(1e-3, True, 1.0, 1.0, 5000))
    assert code([found("no_progress", steady_fall=0.1)], small) == "set the optimizer's lr=0.02"
    near = Circumstances(rate=Rate(1e-3, True, 20.0, 20.0, 5000))
    assert (
        code([found("no_progress", steady_fall=0.1)], near) == "set the optimizer's lr=0.005"
    )  # where steps get too large
    assert "lr" not in code([found("no_progress")], small)


def test_a_steady_fall_is_lowest_at_the_end():
    falling, turning = np.linspace(2.0, 1.8, 100), np.linspace(2.0, 1.6, 100)
    turning[60:] = 1.9
    steady, back = (progress_of(observed(losses=x, num_steps=100, prior_loss=0.1)) for x in (falling, turning))
    assert steady is not None
    assert back is not None
    assert steady_fall(steady) == {"steady_fall": pytest.approx(0.095, abs=0.01)}
    assert steady_fall(back) == {}


def test_a_network_of_saturating_layers_alone_does_not_rectify():
    sigmoids = {"saturated": np.zeros((9, 2)), "dead": np.zeros((9, 2))}  # zeros are counted at every layer's input
    mixed = {"saturated": np.zeros((9, 1)), "dead": np.zeros((9, 2))}
    pure, other = (circumstances_of(observed(units=units)) for units in (sigmoids, mixed))
    assert (pure.is_saturating, pure.is_rectifying) == (True, False)
    assert (other.is_saturating, other.is_rectifying) == (True, True)
    assert '"relu")' in code([found("vanishing")], pure)
    assert '"relu")' not in code([found("vanishing")], other)


def test_the_optimizer_of_a_single_weight_is_told_by_the_rate():
    gradient = np.full((9, 1), 5.0)
    for update, is_adaptive in ((5e-3, False), (3e-3, True)):  # lr = 1e-3; RMSprop begins with lr / √(1 − α)
        seen = observed(gradient, update=np.full((9, 1), update), settings={"optimizer.lr": 1e-3})
        assert rate_of(seen).is_adaptive is is_adaptive


def test_a_rate_that_one_cause_raises_is_not_lowered_by_another():
    high = Circumstances(rate=Rate(1.0, True))
    findings = [found("lr_too_low"), found("oscillation"), found("input_scale", **{REMEDY: INPUTS})]
    assert code(findings, high) == INPUTS


def test_new_weights_and_activations_make_the_present_updates_meaningless():
    slow = Circumstances(rate=Rate(1e-3, False, 2e-3, 2e-3, 5000), is_saturating=True)
    assert code([found("vanishing")], slow).endswith(f'st.initialize_(model, "he"), and {ADAM}')


def test_smaller_steps_take_more_of_them():
    short = Circumstances(num_steps=800, rate=Rate(1.5, False, 1.0, 1.0, 800))
    assert code([found("lr_too_high")], short).endswith(", and train for 2,000 steps")
    assert "train for" not in code([found("lr_too_high")], Circumstances(num_steps=5000, rate=Rate(1.5, False, 1.0)))


def test_a_short_training_at_chance_level_is_told_to_go_on():
    short = Circumstances(num_steps=24, rate=Rate(1.0, None, 1e-3, 1e-3, 24))
    assert code([found("no_progress")], short) == "train for 2,000 steps"


def test_steps_far_below_the_rate_are_those_of_no_known_optimizer():
    gradient, weight = np.full((9, 2), [5.0, 0.01]), np.ones((9, 2))
    for size, is_adaptive in ((1.0, True), (0.005, None)):  # Adam, and Adadelta, whose usual rate is 1
        seen = observed(gradient, update=np.full((9, 2), size), weight=weight, settings={"optimizer.lr": 1.0})
        assert rate_of(seen).is_adaptive is is_adaptive


def test_a_first_step_that_destroyed_the_weights_was_too_large():
    assert Rate(0.5, True, first=10.0, typical=0.0).is_above_target
    assert not Rate(0.5, True, first=0.01, typical=0.0).is_above_target
