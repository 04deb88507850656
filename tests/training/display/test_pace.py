"""Speed and time left, and when to draw, on a clock that the test turns."""

from __future__ import annotations

import pytest

from stabletrain.training.display.pace import WINDOW_S, Budget, Pace
from stabletrain.training.display.throttle import MAX_PAUSE_S, Throttle


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize(
    ("budget", "total", "share"),
    [
        (Budget(num_steps=500), 500, 0.2),
        (Budget(num_epochs=4, num_batches=100), 400, 0.25),
        (Budget(num_steps=200, num_epochs=4, num_batches=100), 200, 0.5),
        (Budget(num_steps=1000, num_epochs=2, num_batches=100), 200, 0.5),
        (Budget(num_epochs=4, num_batches=50, batches_per_step=4), 52, 0.5),  # 12.5 steps an epoch are 13
        (Budget(num_epochs=4, num_batches=100, batches_per_step=None), None, 0.25),  # two optimizers: two steps a batch
        (Budget(num_epochs=4), None, None),
        (Budget(num_batches=100), None, None),
    ],
)
def test_how_long_a_run_is(budget, total, share):
    assert budget.total_steps == total
    assert budget.share_done(step=100, num_batches=100) == share


def test_the_share_never_exceeds_one():
    assert Budget(num_steps=10).share_done(12, 0) == 1.0


def test_speed_and_time_left(clock):
    pace = Pace(clock)
    assert (pace.steps_per_second, pace.left_s) == (None, None)
    clock.now += 30  # the first step compiles
    pace.note(1, 0.01)
    assert (pace.steps_per_second, pace.left_s) == (None, None)
    clock.now += 2
    pace.note(11, 0.11)
    assert pace.steps_per_second == 5.0
    assert pace.left_s == pytest.approx(0.89 / 0.1 * 2)
    assert pace.elapsed_s == 32.0


def test_old_speed_is_forgotten(clock):
    pace = Pace(clock)
    for step in range(101):  # 1 step a second, then 10
        pace.note(step, None)
        clock.now += 1.0
    for step in range(100, 100 + 10 * 2 * int(WINDOW_S), 10):
        pace.note(step, None)
        clock.now += 1.0
    assert pace.steps_per_second == pytest.approx(10.0)
    assert pace.left_s is None


def test_validation_does_not_slow_the_steps_but_counts_for_the_time_left(clock):
    pace = Pace(clock)
    pace.note(0, 0.0)
    clock.now += 10
    pace.leave()
    clock.now += 5
    pace.leave()  # of a second loader
    clock.now += 5
    pace.come_back()
    pace.come_back()
    pace.note(100, 0.5)
    assert pace.steps_per_second == 10.0
    assert pace.left_s == pytest.approx(20.0)
    assert pace.elapsed_s == 20.0


def test_a_resumed_run_counts_from_where_it_resumes(clock):
    pace = Pace(clock)
    pace.note(900, 0.9)
    clock.now += 1
    pace.note(950, 0.95)
    assert (pace.steps_per_second, pace.left_s) == (50.0, pytest.approx(1.0))


def test_drawing_takes_a_bounded_share_of_the_time(clock):
    throttle = Throttle(0.2, clock)
    assert throttle.next_s <= clock.now
    throttle.drawn(clock.now)
    assert throttle.next_s == pytest.approx(clock.now + 0.2)
    throttle.drawn(clock.now - 0.01)  # a drawing of 10 ms
    assert throttle.next_s == pytest.approx(clock.now + 1.0)
    throttle.drawn(clock.now - 5.0)
    assert throttle.next_s == pytest.approx(clock.now + MAX_PAUSE_S)
    throttle.wait(0.5)
    assert throttle.next_s == clock.now + 0.5
