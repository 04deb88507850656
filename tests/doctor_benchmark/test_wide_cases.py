"""The wide part: its list of cases, its programs, its loop, its faults and its scoring."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from benchmarks.doctor.labels import BUGGY, HEALTHY, Label
from benchmarks.doctor.wide import ailments, mistakes
from benchmarks.doctor.wide.case import PARTS, Case, Settings
from benchmarks.doctor.wide.cases import AILMENTS, CLIPS, MISTAKES, make_cases
from benchmarks.doctor.wide.faults import Fault
from benchmarks.doctor.wide.label import label_known
from benchmarks.doctor.wide.record import LINES, make_doctors
from benchmarks.doctor.wide.run import Run
from benchmarks.doctor.wide.score import ALLEGED, Score, errors, format_row, score
from benchmarks.doctor.wide.tasks import TASKS, TASKS_OF, tuning
from stabletrain.diagnosis.observations import Observations
from stabletrain.vocabulary.finding import Finding

PLAIN = Case("several_labels/reference", "tuning", reference="several_labels/reference")
FAST = ("several_labels", "heavy_tails", "q_learning", "gan")  # of every kind of loop


def run_of(task, fault=None, settings=None, seed=0):
    return Run(Case(f"{task}/x", "tuning", settings or Settings(), fault), seed)


def stepped(run):
    run.take_step({})
    return run


def short(run, num_steps):
    run.num_steps = num_steps
    return run


def weights(run):
    return torch.cat([p.detach().flatten() for network in run.program.networks.values() for p in network.parameters()])


def test_the_list_is_the_same_each_time_and_nothing_is_in_two_parts():
    first = make_cases()
    make_cases.cache_clear()
    assert make_cases() == first
    assert len({case.name for case in first}) == len({case.digest for case in first}) == len(first)
    seeds = {part: {s for case in first if case.part == part for s in case.seeds} for part in PARTS}
    for one, other in itertools.combinations(PARTS, 2):
        assert not seeds[one] & seeds[other]
        assert not TASKS_OF[one].keys() & TASKS_OF[other].keys()
        assert not set(TASKS_OF[one].values()) & set(TASKS_OF[other].values())


def test_every_part_has_each_kind_of_fault_and_what_it_is_compared_with():
    cases = make_cases()
    names = {case.name for case in cases}
    assert all(case.reference in names for case in cases)
    kinds = {type(fault) for fault in (*MISTAKES.values(), *AILMENTS.values(), *(fault for _, fault in CLIPS.values()))}
    assert {type(case.fault) for case in cases if case.fault} == kinds
    rare = {mistakes.SingleExample, mistakes.LeftInEval, mistakes.BroadcastTargets}
    for part in ("tuning", "reporting"):
        assert {type(case.fault) for case in cases if case.part == part and case.fault} >= kinds - rare


@pytest.fixture
def quick_start(monkeypatch):
    """Programs that begin from a trained network begin from an untrained one."""
    starts = (tuning._pretrained_mlp, tuning._pretrained_cnn, tuning._pretrained_text)
    for start in starts:
        start.cache_clear()
    monkeypatch.setattr(tuning, "train_quietly", lambda *_: None)
    yield
    for start in starts:
        start.cache_clear()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.usefixtures("quick_start")
def test_every_program_takes_a_step_that_depends_on_its_seed_alone(task):
    first, again = (stepped(run_of(task)) for _ in range(2))
    assert first.losses == again.losses
    assert math.isfinite(first.losses[0])
    assert torch.equal(weights(first), weights(again))
    assert 0.0 <= first.points() <= 100.0
    program = first.program
    for path in (*program.parts, *program.frozen, *([program.head] if program.head else [])):
        assert list(program.model.get_submodule(path).parameters())


@pytest.mark.parametrize("task", FAST)
def test_programs_train(task):
    assert run_of(task)() > 70.0


@pytest.mark.parametrize(
    "fault",
    [
        mistakes.ZeroGradBeforeStep(),
        mistakes.OtherOptimizer(),
        mistakes.ShuffledLabels(),
        mistakes.ScheduleToZero(0.02),
        ailments.RateTooLow(3000.0),
        ailments.NanInBatch(0.3),
        ailments.DeadUnits(-10.0),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_faults_ruin_a_program(fault):
    points = run_of("several_labels", fault)()
    assert math.isnan(points) or points < 60.0


def test_a_watched_run_ends_as_an_unwatched_one():
    for line in LINES:
        unwatched = short(run_of("gan"), 15)
        unwatched()
        watched = short(run_of("gan"), 15)
        doctors = make_doctors(watched, line)
        watched(doctors)
        assert torch.equal(weights(unwatched), weights(watched))
        assert set(doctors) == {"discriminator", "generator"}
        assert all(len(d.observations.scalars["train/loss"].steps) == 15 for d in doctors.values())


def moved(run):
    before = {name: p.detach().clone() for name, p in run.program.model.named_parameters()}
    run.take_step({})
    return {name for name, p in run.program.model.named_parameters() if not torch.equal(p, before[name])}


def test_mistakes_do_what_they_say():
    everything = {f"{part}.{name}" for part in ("body.0", "body.2", "head") for name in ("weight", "bias")}
    assert moved(run_of("several_labels")) == everything
    assert moved(run_of("several_labels", mistakes.ZeroGradBeforeStep())) == set()
    assert moved(run_of("several_labels", mistakes.OtherOptimizer())) == set()
    assert moved(run_of("several_labels", mistakes.LackingPart(-1))) == {n for n in everything if "head" not in n}
    assert moved(run_of("several_labels", mistakes.DetachedPart(1))) == {"head.weight", "head.bias"}
    assert moved(run_of("several_labels", mistakes.FrozenPart(0))) == {n for n in everything if "body.0" not in n}


def test_gradients_add_up_without_zero_grad():
    plain, faulty = run_of("heavy_tails"), run_of("heavy_tails", mistakes.MissingZeroGrad())
    gradients = [[], []]
    for found, run in zip(gradients, (plain, faulty), strict=True):
        for optimizer in run.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = 0.0
        run.base_lr = 0.0
        for _ in range(2):
            run.take_step({})
            found.append(run.program.model.head.bias.grad.clone())
    assert torch.allclose(gradients[1][1], gradients[0][0] + gradients[0][1])


def test_the_clip_acts_where_it_is_put():
    norms = {}
    for when in ("before_step", "before_backward", "after_step", "before_unscale"):
        fault = mistakes.MisplacedClip(when) if when != "before_step" else None
        run = run_of("unscaled", fault, Settings("plain_sgd", clip=0.1, scaler=1024.0))
        before = weights(run)
        run.take_step({})
        norms[when] = (weights(run) - before).norm().item()
    lr = run.base_lr
    assert norms["before_step"] == pytest.approx(0.1 * lr, rel=1e-2)
    assert norms["before_unscale"] == pytest.approx(0.1 * lr / 1024, rel=1e-2)
    assert norms["before_backward"] == norms["after_step"] > 10 * norms["before_step"]


def test_batches_accumulate_to_the_gradient_of_the_whole():
    settings = Settings(accumulate=4)
    run = run_of("heavy_tails", settings=settings)
    run.take_step({})
    batches = [run_of("heavy_tails", settings=settings)]
    program, generator = batches[0].program, batches[0].generator
    whole = torch.stack([program.loss(program.batch(16, generator), "model") for _ in range(4)]).mean()
    whole.backward()
    assert torch.allclose(program.model.head.bias.grad, run.program.model.head.bias.grad)


def test_outcomes_of_what_has_none_yet_give_no_label():
    cases = make_cases()[:3]
    assert label_known(cases, {}) == {}


def finding(kind, severity="warning", first_step=0):
    return Finding(kind, severity, None, first_step, first_step, {})


def test_the_worse_network_speaks_first():
    said = [[finding("lr_too_low")], [finding("nonfinite", "critical", 5), finding("oscillation")]]
    remaining = iter(said)
    assert score([Observations(), Observations()], lambda _: next(remaining)).kinds == (
        *("nonfinite", "oscillation"),
        "lr_too_low",
    )


def test_shares_count_harmless_mistakes_apart():
    named = replace(PLAIN, name="several_labels/a", fault=mistakes.MissingZeroGrad())
    missed = replace(PLAIN, name="several_labels/b", fault=mistakes.OtherOptimizer())
    harmless = replace(PLAIN, name="several_labels/c", fault=mistakes.ActivatedOutput("same"))
    rate = replace(PLAIN, name="several_labels/d", fault=ailments.RateTooLow(100.0))
    cases = [PLAIN, named, missed, harmless, rate]
    words = [HEALTHY, BUGGY, BUGGY, HEALTHY, BUGGY]
    labels = {c.name: Label(w, (90.0,), 90.0, 0) for c, w in zip(cases, words, strict=True)}
    kinds = [("input_scale",), ("lr_too_high", "gradients_accumulate"), (), ("output_activation",), ("lr_too_low",)]
    scores = {c.name: Score(k) for c, k in zip(cases, kinds, strict=True)}
    cells = [cell.strip() for cell in format_row("told", cases, labels, scores).split("|")[1:-1]]
    assert cells[1:5] == ["3", "66.7% (2 of 3)", "50.0% (1 of 2)", "50.0% (1 of 2)"]
    assert cells[5:9] == ["50.0% (1 of 2)", "1", "100.0% (1 of 1)", "100.0% (1 of 1)"]
    assert cells[9:] == ["1", "100.0% (1 of 1)", "0.0% (0 of 1)"]
    assert [line.split(":")[0] for line in errors(cases, labels, scores)] == [
        "- false alarm",
        "- missed",
        "- wrong kind",
    ]


def test_kinds_that_name_mistakes_are_those_of_the_faults():
    named = {kind for fault in MISTAKES.values() for kind in fault.exact}
    assert set(ALLEGED) <= named
    assert not Fault().exact
