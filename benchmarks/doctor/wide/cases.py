"""All cases: every program as it is, in healthy variants and with faults, in a fixed order."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator

from benchmarks.doctor.wide import ailments as a
from benchmarks.doctor.wide import mistakes as m
from benchmarks.doctor.wide.case import Case, Settings
from benchmarks.doctor.wide.faults import Fault
from benchmarks.doctor.wide.program import Program
from benchmarks.doctor.wide.tasks import TASKS_OF

# Candidates of each task: those with the smallest hashes. Mistakes that few programs can have are chosen apart.
NUM_HEALTHY = {"tuning": 4, "validation": 4, "reporting": 7}  # false alarms are to be known to within a percent
NUM_SPECIFIC, NUM_GENERAL, NUM_AILMENTS = 4, 4, 3
SPECIFIC = (
    *(m.ConstantInput, m.ActivatedOutput, m.ScaledInput, m.ScaledTarget, m.BroadcastTargets, m.LeftInEval),
    *(m.SingleExample, m.ShuffledLabels),
)
SGD = Settings("sgd")
CLIPPED = Settings("sgd", lr_factor=5.0, clip=0.2)  # a learning rate that needs its clipping
SCALED = Settings("plain_sgd", clip=1.0, scaler=65536.0)

HEALTHY: dict[str, Settings] = {
    "sgd": SGD,
    "rmsprop": Settings("rmsprop"),
    "adamw": Settings("adamw", schedule="cosine", weight_decay=0.01),
    "warmup": Settings(schedule="warmup", lr_factor=1.5),
    "onecycle": Settings(schedule="onecycle"),
    "steps": Settings(schedule="steps"),
    "slower": Settings(lr_factor=0.5),
    "faster": Settings(lr_factor=2.0),
    "large_batches": Settings(batch_factor=2.0),
    "small_batches": Settings(batch_factor=0.5, lr_factor=0.7),
    "accumulate": Settings(batch_factor=2.0, accumulate=4),
    "clip": Settings(clip=1.0),
    "bf16": Settings(bf16=True),
    "small_loss": Settings(loss_factor=0.01),
    "summed_loss": Settings(loss_factor=64.0),
    "longer": Settings(steps_factor=2.0, schedule="cosine"),
    "clipped_sgd": CLIPPED,
    "scaler": SCALED,
}
MISTAKES: dict[str, Fault] = {
    "missing_zero_grad": m.MissingZeroGrad(),
    "zero_grad_before_step": m.ZeroGradBeforeStep(),
    "other_optimizer": m.OtherOptimizer(),
    "lacking_first": m.LackingPart(0),
    "lacking_last": m.LackingPart(-1),
    "detached_first": m.DetachedPart(0),
    "detached_second": m.DetachedPart(1),
    "frozen_first": m.FrozenPart(0),
    "frozen_last": m.FrozenPart(-1),
    "constant_input": m.ConstantInput(),
    "activated_output": m.ActivatedOutput("same"),
    "relu_output": m.ActivatedOutput("relu"),
    "input_times_255": m.ScaledInput(255.0),
    "input_off_center": m.ScaledInput(1.0, 30.0),
    "input_hundredth": m.ScaledInput(0.003),
    "target_times_1000": m.ScaledTarget(1000.0),
    "target_off_center": m.ScaledTarget(1.0, 100.0),
    "broadcast": m.BroadcastTargets(),
    "eval_from_start": m.LeftInEval(0.0),
    "eval_after_validation": m.LeftInEval(0.1),
    "single_example": m.SingleExample(),
    "schedule_per_batch": m.ScheduleToZero(0.02),
    "raised_by_hand": m.RaisedByHand(300.0, 0.5),
    "labels_shuffled": m.ShuffledLabels(),
}
MISTAKES_OF_SGD = {"sgd_missing_zero_grad": "missing_zero_grad", "sgd_activated_output": "activated_output"}
CLIPS: dict[str, tuple[str, m.MisplacedClip]] = {
    "clip_before_backward": ("clipped_sgd", m.MisplacedClip("before_backward")),
    "clip_after_step": ("clipped_sgd", m.MisplacedClip("after_step")),
    "clip_before_unscale": ("scaler", m.MisplacedClip("before_unscale")),
}
AILMENTS: dict[str, Fault] = {
    "tenth_weights": a.ScaledWeights(0.1),
    "tenfold_weights": a.ScaledWeights(10.0),
    "equal_weights": a.ScaledWeights(0.0),
    "sigmoids": a.SigmoidUnits(0.3),
    "dead": a.DeadUnits(-10.0),
    "rate_times_100": a.RateTooHigh(100.0),
    "rate_times_1000": a.RateTooHigh(1000.0),
    "rate_by_100": a.RateTooLow(100.0),
    "rate_by_3000": a.RateTooLow(3000.0),
    "tiny_batches": a.TinyBatches(20.0),
    "nan_in_batch": a.NanInBatch(0.3),
    "nan_in_weight": a.NanInWeight(0.5),
    "weights_blown_up": a.WeightsBlownUp(30.0, 0.8),
    "poisoned_batch": a.PoisonedBatch(1e4, 0.7),
}


def _faulty(faults: dict[str, Fault], program: type[Program]) -> Iterator[tuple[str, Settings, Fault, str]]:
    for name, fault in faults.items():
        if fault.applies(program):
            yield name, Settings(), fault, "reference"


def _mistakes(program: type[Program]) -> Iterator[tuple[str, Settings, Fault, str]]:
    yield from _faulty(MISTAKES, program)
    for name, other in MISTAKES_OF_SGD.items():
        if MISTAKES[other].applies(program):
            yield name, SGD, MISTAKES[other], "sgd"
    for name, (reference, fault) in CLIPS.items():
        yield name, HEALTHY[reference], fault, reference


def _order(task: str, name: str) -> str:
    return hashlib.sha256(f"wide {task} {name}".encode()).hexdigest()


def _of_task(task: str, part: str, program: type[Program]) -> Iterator[Case]:
    def case(name: str, settings: Settings, fault: Fault | None = None, reference: str = "reference") -> Case:
        return Case(f"{task}/{name}", part, settings, fault, f"{task}/{reference}")

    def first(count: int, cases: list[Case]) -> list[Case]:
        return sorted(cases, key=lambda x: _order(task, x.name.partition("/")[2]))[:count]

    healthy = {name: case(name, settings) for name, settings in HEALTHY.items()}
    if program.frozen:
        healthy["frozen"] = case("frozen", Settings(frozen=True))
    possible = [case(*x) for x in _mistakes(program)]
    specific = first(NUM_SPECIFIC, [x for x in possible if isinstance(x.fault, SPECIFIC)])
    general = first(NUM_GENERAL, [x for x in possible if not isinstance(x.fault, SPECIFIC)])
    mistakes = [*specific, *general]
    ailments = first(NUM_AILMENTS, [case(*x) for x in _faulty(AILMENTS, program)])
    chosen = {x.name: x for x in first(NUM_HEALTHY[part], list(healthy.values()))}
    compared = {
        x.reference: healthy[x.reference.partition("/")[2]] for x in mistakes if not x.reference.endswith("/reference")
    }
    yield case("reference", Settings())
    yield from {**chosen, **compared}.values()
    yield from (*mistakes, *ailments)


@functools.lru_cache(maxsize=1)
def make_cases() -> tuple[Case, ...]:
    """Return all candidates; in each task the reference first."""
    found = [
        x for part, tasks in TASKS_OF.items() for task, program in tasks.items() for x in _of_task(task, part, program)
    ]
    assert len({x.digest for x in found}) == len({x.name for x in found}) == len(found)
    return tuple(found)
