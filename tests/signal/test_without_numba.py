"""Watching, recording and training give the same results without numba."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stabletrain.record.reader import LayerHistogram, Scalar, read_entries

ROOT = Path(__file__).parents[2]
WATCHED = """
import sys
folder, is_hidden = sys.argv[1], sys.argv[2] == "hidden"
if is_hidden:
    sys.modules["numba"] = sys.modules["llvmlite"] = None  # importing them raises ImportError
import warnings
import numpy as np, torch
import stabletrain as st
from stabletrain.record.writer import RecordWriter

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(30, 200), torch.nn.Tanh(), torch.nn.Linear(200, 3), torch.nn.LSTM(3, 4))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    watch = st.Watch(model, optimizer=optimizer, signals=["gradient", "weight", "update"])
writer = RecordWriter(folder)
writer.prepare()
for step in range(3):
    optimizer.zero_grad()
    model(torch.randn(16, 30))[0].square().mean().backward()
    if step == 2:
        model[0].weight.grad[0, 0], model[0].weight.grad[1, 1], model[2].bias.grad[0] = np.nan, np.inf, 1e-42
    snapshot = watch.step()
    writer.write_snapshot(snapshot)
    optimizer.step()
writer.close()
arrays = snapshot.layers.arrays
numbers = {"rms": arrays.rms, "num_nonfinite": arrays.num_nonfinite, "counts": arrays.counts}
numbers |= {"special": arrays.special, "quantiles": snapshot.layers.quantiles([0.0, 0.05, 0.5, 1.0])}
numbers["warned"] = np.array([sum("numba" in str(w.message) for w in caught)])
numbers["imported"] = np.array([sys.modules.get("numba") is not None])
np.savez(folder + "/numbers.npz", **numbers)
"""
TRAINED = """
import sys
if sys.argv[1] == "hidden":
    sys.modules["numba"] = sys.modules["llvmlite"] = None
from stabletrain.__main__ import main
options = ["model=mlp", "model.width=8", "data=circles", "trainer.max_steps=4", "watch=every_step", "logger=none"]
sys.argv = ["stabletrain", *options, "output_dir=" + sys.argv[2]]
sys.exit(main())
"""


def run(program: str, *words: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


def recorded(folder: Path) -> tuple[dict, dict]:
    """Return the recorded statistics and histograms of the layers."""
    entries = [entry for entry, _ in read_entries(folder)]
    scalars = {(x.name, x.step): x.value for x in entries if isinstance(x, Scalar) and "/L0" in x.name}
    histograms = {(x.signal, x.layer, x.step): x.histogram for x in entries if isinstance(x, LayerHistogram)}
    return scalars, histograms


def assert_same_record(found: Path, expected: Path) -> None:
    (scalars, histograms), (expected_scalars, expected_histograms) = recorded(found), recorded(expected)
    assert histograms == expected_histograms
    assert scalars.keys() == expected_scalars.keys()
    assert [scalars[key] for key in scalars] == pytest.approx([expected_scalars[key] for key in scalars], rel=1e-6)
    assert histograms
    assert scalars


def assert_same_numbers(found, expected) -> None:
    for name in ("num_nonfinite", "counts", "special"):
        assert np.array_equal(found[name], expected[name]), name
    np.testing.assert_allclose(found["rms"], expected["rms"], rtol=1e-12)
    np.testing.assert_allclose(found["quantiles"], expected["quantiles"], rtol=1e-12)


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    found = {}
    for how in ("hidden", "there"):
        folder = tmp_path_factory.mktemp(how)
        run(WATCHED, str(folder), how)
        found[how] = dict(np.load(folder / "numbers.npz")), folder
    return found


def test_a_watch_finds_the_same(numbers):
    (found, _), (expected, _) = numbers["hidden"], numbers["there"]
    assert (found["imported"][0], expected["imported"][0]) == (False, True)
    assert (found["warned"][0], expected["warned"][0]) == (1, 0)
    assert expected["num_nonfinite"].sum() == 2
    assert_same_numbers(found, expected)


def test_the_record_is_the_same(numbers):
    (_, found), (_, expected) = numbers["hidden"], numbers["there"]
    assert_same_record(found, expected)


@pytest.mark.slow
def test_a_run_of_the_command_line_records_the_same(tmp_path):
    for how in ("hidden", "there"):
        run(TRAINED, how, str(tmp_path / how))
    assert_same_record(tmp_path / "hidden/tensorboard", tmp_path / "there/tensorboard")


def test_the_control_finds_a_difference(numbers):
    (found, _), (expected, _) = numbers["hidden"], numbers["there"]
    changed = {**found, "counts": found["counts"] + 1}
    with pytest.raises(AssertionError, match="counts"):
        assert_same_numbers(changed, expected)
