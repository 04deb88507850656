"""System metrics: names by process, and the number of examples in a batch."""

from __future__ import annotations

import math

import pytest
import torch

from stabletrain.training.callbacks.system_metrics import OF_PROCESS, name_by_rank, num_examples_of

ROW = [50.0, 100.0, math.nan, math.nan, 1.0, 2.0]


def test_one_process_needs_no_rank():
    found = name_by_rank([ROW])
    assert found["system/cpu_utilization_percentage"] == 50.0
    assert set(found) == {f"system/{OF_PROCESS[i]}" for i in (0, 1, 4, 5)}  # without a GPU, its metrics are left out


def test_several_processes_carry_their_rank():
    found = name_by_rank([ROW, [10.0, 20.0, 30.0, 40.0, 5.0, 6.0]])
    assert found["system/memory_usage_megabytes/rank0"] == 100.0
    assert found["system/gpu_memory_usage_megabytes/rank1"] == 30.0
    assert len(found) == 4 + 6


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ((torch.zeros(5, 2), torch.zeros(5)), 5),
        ({"x": [torch.zeros(3, 1)], "y": torch.zeros(9)}, 3),
        (torch.zeros(4), 4),
        (torch.tensor(1.0), 0),
        ([], 0),
        ("text", 0),
    ],
)
def test_examples_are_counted_by_the_first_tensor(batch, expected):
    assert num_examples_of(batch) == expected
