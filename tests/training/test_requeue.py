"""Slurm's signal: flagged when it arrives, handled between two steps."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from stabletrain.training.callbacks.requeue import Requeue, RequeueRequest, requeue_slurm_job


class FakeStrategy:
    def __init__(self, others: bool) -> None:
        self.others, self.num_checks, self.log = others, 0, []

    def reduce_boolean_decision(self, decision: bool, *, all: bool) -> bool:
        assert not all
        self.num_checks += 1
        return decision or self.others

    def barrier(self) -> None:
        self.log.append("barrier")


def trainer_of(strategy: FakeStrategy, *, is_global_zero: bool = True) -> Any:
    save = lambda path: strategy.log.append(f"save {path}")  # noqa: E731
    return SimpleNamespace(strategy=strategy, is_global_zero=is_global_zero, save_checkpoint=save)


@pytest.fixture
def strategy():
    return FakeStrategy(others=False)


@pytest.fixture(autouse=True)
def _signals():
    before = {s: signal.getsignal(s) for s in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def finish_steps(requeue: Requeue, trainer: Any, num_steps: int) -> None:
    for index in range(num_steps):
        requeue.on_train_batch_end(trainer, None, None, None, index)  # pyright: ignore[reportArgumentType]


def test_the_signal_is_answered_at_the_next_question_and_in_order(strategy):
    requeue = Requeue("last.ckpt", requeue=lambda: strategy.log.append("requeue"))  # pyright: ignore[reportArgumentType]
    finish_steps(requeue, trainer_of(strategy), 25)
    assert (strategy.num_checks, strategy.log) == (2, [])  # no signal: two checks, nothing saved
    os.kill(os.getpid(), signal.SIGUSR1)
    finish_steps(requeue, trainer_of(strategy), 9)
    assert strategy.log == []
    with pytest.raises(RequeueRequest) as caught:
        finish_steps(requeue, trainer_of(strategy), 10)
    assert strategy.log == ["save last.ckpt", "requeue", "barrier"]
    assert caught.value.code == 143


def test_an_epoch_shorter_than_ten_steps_asks_at_its_end(strategy):
    requeue = Requeue("last.ckpt", requeue=lambda: None)  # pyright: ignore[reportArgumentType]
    os.kill(os.getpid(), signal.SIGUSR1)
    with pytest.raises(RequeueRequest):
        requeue.on_train_epoch_end(trainer_of(strategy), None)  # pyright: ignore[reportArgumentType]


def test_a_process_without_the_signal_saves_with_the_others_and_requeues_nothing():
    strategy = FakeStrategy(others=True)
    requeue = Requeue("last.ckpt", requeue=lambda: strategy.log.append("requeue"))  # pyright: ignore[reportArgumentType]
    with pytest.raises(RequeueRequest):
        finish_steps(requeue, trainer_of(strategy, is_global_zero=False), 10)
    assert strategy.log == ["save last.ckpt", "barrier"]


def test_a_handler_that_was_there_requeues_and_gets_its_signal_back(strategy):
    def submitit(number: int, frame: object) -> None:
        strategy.log.append(f"submitit {number}")
        raise SystemExit

    signal.signal(signal.SIGUSR2, submitit)
    requeue = Requeue("last.ckpt", signal.SIGUSR2)  # pyright: ignore[reportArgumentType]
    os.kill(os.getpid(), signal.SIGUSR2)
    with pytest.raises(RequeueRequest):
        finish_steps(requeue, trainer_of(strategy), 10)
    assert strategy.log == ["save last.ckpt", f"submitit {int(signal.SIGUSR2)}", "barrier"]
    requeue.close()
    assert signal.getsignal(signal.SIGUSR2) is submitit


def test_a_late_signal_does_not_end_the_report(strategy):
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    requeue = Requeue("last.ckpt", requeue=lambda: strategy.log.append("requeue"))  # pyright: ignore[reportArgumentType]
    requeue.close()
    os.kill(os.getpid(), signal.SIGUSR1)  # the default action would end this process
    finish_steps(requeue, trainer_of(strategy), 10)
    assert (requeue.is_asked, strategy.log) == (False, [])
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN


@pytest.mark.parametrize(
    ("array", "job"), [({}, "17"), ({"SLURM_ARRAY_JOB_ID": "16", "SLURM_ARRAY_TASK_ID": "3"}, "16_3")]
)
def test_the_job_is_requeued_by_its_own_number(monkeypatch, tmp_path, array, job):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/asked\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name, value in {"SLURM_JOB_ID": "17", **array}.items():
        monkeypatch.setenv(name, value)
    requeue_slurm_job()
    assert (tmp_path / "asked").read_text() == f"requeue {job}\n"
