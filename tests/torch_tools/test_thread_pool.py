"""A spinning pool is recognized by two clocks, which these tests turn by hand."""

import os
import subprocess
import sys

import pytest
import torch

from stabletrain.torch_tools import thread_pool
from stabletrain.torch_tools.thread_pool import (
    BUSY_SHARE,
    MAX_TESTS,
    PoolWatch,
    describe_spinning,
    does_pool_spin,
    seconds_without_core,
)


class Machine:
    """A machine on which the training has no core for a share of the time."""

    def __init__(self, share, num_threads=2, spins=True):
        self.share, self.num_threads, self.spins = share, num_threads, spins
        self.now = self.waited = 0.0
        self.said, self.num_tests = [], 0
        self.watch = PoolWatch(
            lambda *found: self.said.append(found),
            clock=lambda: self.now,
            waited=lambda: self.waited,
            num_threads=lambda: self.num_threads,
            spins=self.test,
        )

    def test(self):
        self.num_tests += 1
        return self.spins

    def train(self, seconds, step_s=0.1):
        for _ in range(round(seconds / step_s)):
            self.now += step_s
            self.waited += self.share * step_s
            self.watch.step()


def test_a_spinning_pool_on_a_busy_machine_is_said_once_with_its_share():
    machine = Machine(share=0.6)
    machine.train(3.9)
    assert machine.said == []  # one window is not enough
    machine.train(60)
    assert machine.said == [(2, pytest.approx(0.6))]
    assert machine.num_tests == 1


@pytest.mark.parametrize("step_s", [0.001, 0.5, 7.0])
def test_it_is_recognized_whatever_a_step_takes(step_s):
    machine = Machine(share=0.8)
    machine.train(60, step_s)
    assert len(machine.said) == 1


@pytest.mark.parametrize(
    "machine",
    [
        Machine(share=0.0),  # two threads on an idle machine
        Machine(share=BUSY_SHARE * 0.9),  # a little other load, or a run that waits for its data
        Machine(share=0.8, num_threads=1),  # slow, but no thread waits for another
    ],
    ids=["idle", "little load", "one thread"],
)
def test_nothing_is_said_and_the_pool_is_not_tested(machine):
    machine.train(60)
    assert (machine.said, machine.num_tests) == ([], 0)


def test_nothing_is_said_if_the_threads_sleep_while_they_wait():
    machine = Machine(share=0.8, spins=False)
    machine.train(60)
    assert (machine.said, machine.num_tests) == ([], MAX_TESTS)


def test_a_short_load_is_not_said():
    machine = Machine(share=0.8)
    for _ in range(10):
        machine.share = 0.8
        machine.train(1.0)
        machine.share = 0.0
        machine.train(10)
    assert machine.said == []


def test_nothing_is_said_where_the_system_does_not_count():
    said = []
    watch = PoolWatch(lambda *x: said.append(x), clock=iter(range(0, 1000, 5)).__next__, waited=lambda: None)
    for _ in range(50):
        watch.step()
    assert said == []


def test_the_scheduler_counts_in_nanoseconds(tmp_path, monkeypatch):
    path = tmp_path / "schedstat"
    monkeypatch.setattr(thread_pool, "_SCHEDULER", path)
    assert seconds_without_core() is None
    path.write_text("7000000000 2500000000 42\n")
    assert seconds_without_core() == 2.5
    path.write_text("0 0 0\n")  # a kernel built without the counters
    assert seconds_without_core() is None


def test_one_thread_never_spins():
    torch.set_num_threads(1)
    assert not does_pool_spin()


@pytest.mark.parametrize(("used", "expected"), [(0.0019, True), (0.0, False), (0.0009, False)])
def test_the_pool_spins_if_others_use_the_processor_in_a_pause(monkeypatch, used, expected):
    torch.set_num_threads(2)
    monkeypatch.setattr(thread_pool, "_used_in_pause", lambda: used)
    assert does_pool_spin() is expected


def test_threads_that_sleep_are_told_from_threads_that_spin():
    """In processes of their own: the library reads its environment when it is loaded."""
    program = """
import torch
from stabletrain.torch_tools.thread_pool import does_pool_spin
torch.set_num_threads(2)
print(any(does_pool_spin() for _ in range(3)))
"""
    if sys.platform != "linux" or "backend: OpenMP" not in torch.__config__.parallel_info():
        pytest.skip("torch was built without OpenMP, or this is not Linux")
    for policy, expected in (("PASSIVE", "False"), ("ACTIVE", "True")):
        environment = os.environ | {"OMP_WAIT_POLICY": policy, "OMP_NUM_THREADS": "2"}
        line = [sys.executable, "-W", "ignore", "-c", program]
        found = subprocess.run(line, env=environment, capture_output=True, text=True, check=True, timeout=900)
        assert found.stdout.strip() == expected


def test_the_note_has_the_figures_and_the_remedy():
    note = describe_spinning(2, 0.613, "Use threads=1.")
    assert "2 threads" in note
    assert "61%" in note
    assert note.endswith("Use threads=1.")
