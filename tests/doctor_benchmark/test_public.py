"""The public scoreboard: the published figures, the 52 rebuilt programs, and how advice is carried out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.doctor.public.advice import carry_out, first_clause
from benchmarks.doctor.public.data import DATA
from benchmarks.doctor.public.losses import LOSSES, prior_of
from benchmarks.doctor.public.outcomes import digest_of, read_outcomes
from benchmarks.doctor.public.published import TOOLS, read_published
from benchmarks.doctor.public.silent import SILENT
from benchmarks.doctor.public.subject import KINDS_OF_FAULT
from benchmarks.doctor.public.subjects import PUBLISHED, SUBJECTS, TUNING, half
from benchmarks.doctor.public.train import BARE, TOLD, train
from stabletrain.vocabulary.finding import Finding

BY_NUMBER = {subject.number: subject for subject in SUBJECTS}


def finding(in_code: str) -> Finding:
    return Finding("no_progress", "warning", None, 0, 9, {}, advice=f"Advice. In code: {in_code}.")


def test_published_figures_are_those_of_the_publication():
    rows = read_published().values()
    assert [sum(row.detected[tool] for row in rows) for tool in TOOLS] == [50, 12, 36, 47]
    assert [sum(row.named[tool] for row in rows) for tool in TOOLS] == [14, 10, 7, 27]


def test_all_subjects_are_rebuilt_and_split_into_halves():
    assert [subject.number for subject in SUBJECTS] == list(range(1, 53))
    tuning, published = ({s.number for s in half(name)} for name in (TUNING, PUBLISHED))
    assert len(tuning) == len(published) == 26
    assert not tuning & published


def test_causes_name_fault_types_of_the_published_label():
    for subject in SUBJECTS:
        named = {kind for fault in read_published()[subject.number].faults for kind in KINDS_OF_FAULT[fault]}
        assert set(subject.causes) <= named, subject.number
        assert not set(subject.causes) & set(subject.beyond), subject.number


def test_programs_use_data_losses_and_layers_that_exist():
    for program in (p for subject in SUBJECTS for p in (subject.broken, subject.mended)):
        assert program.data in DATA
        assert program.loss in LOSSES
        assert program.rate > 0


def test_outcomes_are_those_of_the_programs():
    assert {n: outcome.digest for n, outcome in read_outcomes().items()} == {s.number: digest_of(s) for s in SUBJECTS}


def test_a_rate_too_low_leaves_the_loss_where_it_was_and_a_higher_one_does_not():
    broken, mended = train(BY_NUMBER[4].broken, 0), train(BY_NUMBER[4].mended, 0)
    assert broken.last_loss > 0.9 * broken.first_loss
    assert mended.last_loss < 0.3 * mended.first_loss
    assert (broken.points, mended.points) == pytest.approx((47.5, 100.0))


def test_a_softmax_of_one_unit_is_constant_and_never_learns():
    program = replace(BY_NUMBER[41].broken, epochs=1)
    model = program.make_model(torch.zeros(2, 30))
    assert torch.equal(model(torch.randn(5, 30)), torch.ones(5, 1))
    trained = train(program, 0, BARE)
    assert trained.doctor is not None
    assert trained.doctor.observations.rms  # it was watched
    assert trained.points < 80


def test_a_huge_rate_diverges_and_the_doctor_says_so():
    trained = train(replace(BY_NUMBER[1].broken, epochs=1), 0, TOLD)
    assert trained.points == -100
    assert trained.doctor is not None
    assert trained.doctor.verdict != "healthy"


def test_softmax_and_categorical_cross_entropy_are_cross_entropy_of_logits():
    program = BY_NUMBER[2].broken
    assert program.last_activation == "softmax"
    assert isinstance(list(program.make_model(torch.zeros(2, 64)))[-1], torch.nn.Linear)


def test_the_best_constant_prediction():
    labels = torch.tensor([0, 1, 1, 1])
    entropy = -(0.25 * torch.tensor(0.25).log() + 0.75 * torch.tensor(0.75).log())
    assert prior_of("categorical_crossentropy", labels) == pytest.approx(float(entropy))
    assert prior_of("binary_crossentropy", labels[:, None].float()) == pytest.approx(float(entropy))
    assert prior_of("mse", torch.tensor([[1.0], [3.0]])) == 1
    assert prior_of("mae", torch.tensor([[0.0], [0.0], [3.0]])) == 1


@pytest.mark.parametrize(
    ("in_code", "changes"),
    [
        ("set the optimizer's lr to a tenth; more", {"lr": 1e-4}),
        ("set the optimizer's lr ten times higher", {"lr": 1e-2}),
        ("set the optimizer's lr=0.03", {"lr": 0.03}),
        ("torch.optim.Adam(model.parameters(), lr=0.005)", {"lr": 0.005}),
        ('st.clip_gradients_(model.parameters(), "norm", max_norm=1.0) before each step; x', {"clip": 1.0}),
        ('st.initialize_(model, "he"), or "xavier" for tanh and sigmoid; more', {"initialize": "xavier"}),
        (
            'st.replace_activations_(model, "relu") with st.initialize_(model, "he"); more',
            {"activation": "relu", "initialize": "he"},
        ),
        ("x = (x - x_train.mean(0)) / x_train.std(0).clamp(min=1e-8)", {"standardize": "inputs"}),
        ("y = (y - y_train.mean(0)) / y_train.std(0).clamp(min=1e-8)", {"standardize": "targets"}),
        (
            "x = (x - 3) / 200, and y = (y - -5) / 7, and set the optimizer's lr=0.05, and train for 1,000 steps; more",
            {"scale_inputs": (3.0, 200.0), "scale_targets": (-5.0, 7.0), "lr": 0.05, "epochs": 67},
        ),
        ("x = (x - -3.5) / 2e+03", {"scale_inputs": (-3.5, 2000.0)}),
        (
            "remove the sigmoid: binary_cross_entropy_with_logits takes logits",
            {"layers": ("dense 4 tanh", "dense 1"), "loss": "binary_crossentropy_with_logits"},
        ),
        (
            "remove the activation after the last layer; torch.nn.functional.cross_entropy takes logits",
            {"layers": ("dense 4 tanh", "dense 1"), "loss": "binary_crossentropy_with_logits"},
        ),
        ("add torch.nn.LayerNorm after the layers", {"layers": ("dense 4", "layernorm tanh", "dense 1 sigmoid")}),
        (
            "torch.nn.functional.mse_loss in place of binary_cross_entropy_with_logits, with y = (y - 3) / 7",
            {"layers": ("dense 4 tanh", "dense 1"), "loss": "mse", "scale_targets": (3.0, 7.0)},
        ),
    ],
)
def test_the_first_clause_of_the_advice_is_carried_out(in_code, changes):
    program = replace(BY_NUMBER[41].broken, layers=("dense 4 tanh", "dense 1 sigmoid"))
    assert carry_out(program, finding(in_code)) == replace(program, **changes)


def test_classes_as_numbers_get_one_output_each():
    advice = finding("torch.nn.functional.cross_entropy(model(x), y), with one output per class")
    changed = carry_out(BY_NUMBER[21].broken, advice)
    assert changed is not None
    assert (changed.layers[-1], changed.loss, changed.targets) == ("dense 3", "categorical_crossentropy", "one_hot")


def test_advice_that_is_not_in_the_table_cannot_be_carried_out():
    assert carry_out(BY_NUMBER[41].broken, finding("think again")) is None
    assert first_clause(finding("do this; then that")) == "do this"


def test_a_changed_program_can_be_trained():
    program = replace(BY_NUMBER[4].broken, epochs=1, initialize="xavier", activation="relu", clip=1.0)
    changed = carry_out(program, finding("add torch.nn.LayerNorm after the layers"))
    assert changed is not None
    assert torch.isfinite(torch.tensor(train(changed, 0).last_loss))


def test_silent_errors_are_rebuilt_or_say_why_not():
    assert len(SILENT) == len({silent.name for silent in SILENT}) == 20
    assert all(silent.causes or silent.why_not for silent in SILENT)
    assert sum(silent.run is not None for silent in SILENT) == 7
