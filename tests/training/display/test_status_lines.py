"""The two lines of the progress bar, for given values and widths."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from stabletrain.training.display.readings import Readings
from stabletrain.training.display.status_lines import status_lines
from stabletrain.vocabulary.finding import Finding

HEALTHY = Readings(
    step=1234,
    total_steps=5000,
    epoch=3,
    num_epochs=10,
    share=0.27,
    steps_per_second=212.3,
    left_s=17.8,
    elapsed_s=6.0,
    loss=2.3026,
    metric=("val/accuracy", 0.91234),
    gradients=(3.1e-4, 2.4e-2),
    findings=[],
)
VANISHING = Finding("vanishing", "critical", "L00.network.layers.0.weight", 0, 99, {})
NO_PROGRESS = Finding("no_progress", "warning", None, 0, 99, {})


def texts(readings, width, **settings):
    return ["".join(text for text, _ in line) for line in status_lines(readings, width, **settings)]


def styles(readings, width=120):
    return {text: style for line in status_lines(readings, width) for text, style in line}


def test_everything_fits_eighty_columns():
    assert texts(HEALTHY, 80) == [
        "epoch  3/10  ━━━━━━╸━━━━━━━━━━━━━━━━━━  step 1,234/5,000  212 steps/s  0:18 left",
        "loss 2.303  val/accuracy 0.9123  grad 3e-4 … 2e-2  healthy",
    ]
    assert styles(HEALTHY)["healthy"] == "green"


def test_sixty_columns_keep_all_values():
    assert texts(HEALTHY, 60) == [
        "epoch  3/10  ━━╸━━━━━━━  1,234/5,000  212 steps/s  0:18 left",
        "loss 2.303  val/accuracy 0.9123  grad 3e-4 … 2e-2  healthy",
    ]


@pytest.mark.parametrize("width", [10, 20, 30, 40, 50, 60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal(width):
    readings = replace(HEALTHY, findings=[VANISHING, NO_PROGRESS], activity="validating 3/40", num_nonfinite=2)
    assert max(map(len, texts(readings, max(width, 30)))) <= max(width, 30)
    if width >= 40:
        assert "━" * 8 in texts(replace(readings, share=1.0), width)[0]
        assert "vanishing" in texts(readings, width)[1]


def test_a_wide_terminal_has_a_bar_of_sixty():
    bar = texts(HEALTHY, 200)[0]
    assert bar.count("━") + bar.count("╸") == 60


def test_the_worst_cause_is_named_with_its_layer_as_far_as_there_is_room():
    readings = replace(HEALTHY, findings=[NO_PROGRESS, VANISHING])
    assert texts(readings, 120)[1].endswith("  vanishing in L00.network.layers.0.weight and 1 more")
    assert texts(readings, 80)[1] == ("loss 2.303  val/accuracy 0.9123  grad 3e-4 … 2e-2  vanishing in L00… and 1 more")
    assert styles(replace(HEALTHY, findings=[VANISHING]))["vanishing in L00.network.layers.0.weight"] == "bold red"
    assert styles(replace(HEALTHY, findings=[NO_PROGRESS]))["no progress"] == "bold yellow"


def test_nothing_is_said_before_it_is_known():
    assert texts(Readings(), 80) == ["epoch 1  step 0  0:00 elapsed"]
    assert texts(Readings(share=0.0, total_steps=90, num_epochs=2), 60) == [
        "epoch 1/2  ━━━━━━━━━━━━━━━━━━━━━━━  step  0/90  0:00 elapsed"
    ]
    assert "healthy" not in texts(replace(HEALTHY, findings=None), 120)[1]


def test_an_unknown_end_has_no_bar_but_the_time_so_far():
    endless = replace(HEALTHY, share=None, total_steps=None, num_epochs=None, left_s=None)
    assert texts(endless, 80)[0] == "epoch 3  step 1,234  212 steps/s  0:06 elapsed"


def test_the_end_shows_the_whole_time_and_a_full_bar():
    over = replace(HEALTHY, step=5000, epoch=10, share=1.0, is_over=True)
    line = texts(over, 80)[0]
    assert line.startswith("epoch 10/10  ━━━━━")
    assert line.endswith("step 5,000/5,000  212 steps/s  in 0:06")
    assert "╸" not in line
    assert "green" in styles(over).values()


@pytest.mark.parametrize(("loss", "shown"), [(math.nan, "loss nan"), (math.inf, "loss inf")])
def test_a_loss_that_is_not_finite_is_red(loss, shown):
    assert styles(replace(HEALTHY, loss=loss))[shown] == "bold red"
    assert styles(HEALTHY)["loss 2.303"] == ""


def test_zero_and_nonfinite_gradients():
    readings = replace(HEALTHY, gradients=(0.0, 0.0), num_nonfinite=1)
    assert texts(readings, 120)[1] == "loss 2.303  val/accuracy 0.9123  grad 0 … 0  non-finite in 1 layer  healthy"
    assert "non-finite in 12 layers" in texts(replace(readings, num_nonfinite=12), 120)[1]


def test_a_validation_is_mentioned():
    assert "  212 steps/s  validating 3/40  0:18 left" in texts(replace(HEALTHY, activity="validating 3/40"), 120)[0]


def test_ascii_has_a_bar_too():
    line = texts(HEALTHY, 80, ascii_only=True)[0]
    assert line.isascii()
    assert "======>---" in line
