"""A real training on the live page, from its start to its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from live_server import Live, Tab

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def test_a_real_training_from_start_to_end(live: Live, tab: Callable[..., Tab]):
    folder = live.root / "real"
    command = [sys.executable, "-m", "stabletrain", "experiment=vanishing_depth", "logger=tensorboard"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    shown = tab().open()
    shown.page.set_default_timeout(300_000)  # on a busy machine, the imports take minutes
    with subprocess.Popen([*command, f"output_dir={folder}"], env=environment, stdout=subprocess.DEVNULL) as training:
        shown.page.locator("#rows a").wait_for()
        shown.page.locator("#rows a").click()
        shown.page.locator("#depth.warning").wait_for()
        first = shown.page.inner_text("#depth")
        assert "vanishing" in first
        shown.page.locator("#state.training").wait_for()
        assert training.wait() == 0
    shown.wait_for_text("#state", "finished")
    findings = json.loads((folder / "findings.json").read_text())
    shown.wait_for_text("#verdict h1", "✖ Vanishing gradients")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["verdict"] == "vanishing"
    steps = shown.page.inner_text("#steps").replace(",", "")
    assert steps.startswith(f"{summary['steps']} of {summary['steps']} (100%)")
    assert shown.page.locator("#marks button").count() >= 1
    assert findings[0]["overrides"][0] in shown.page.inner_text("#findings")
    assert shown.complaints == []
