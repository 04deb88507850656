"""The main job from end to end: the command, its record, MLflow read back, both pages in a browser."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow_fakes import recorded, shipped
from servers import find_free_port, stop_group
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stabletrain.data import Digits
from stabletrain.record.reader import load_record
from stabletrain.tracking.metrics import is_shipped
from stabletrain.tracking.mlflow_view import VIEW_ID, VIEW_NAME, decode_view
from stabletrain.tracking.store import embedded_uri, open_client

ROOT = str(Path(__file__).parents[2])
MAIN_JOB = ["model=rnn", "clip=norm"]


def run(folder: Path, *words: str, timeout_s: float = 240, **environment: str) -> str:
    env = {**os.environ, "PYTHONPATH": ROOT, **environment}
    command = [sys.executable, "-m", "stabletrain", *words]
    result = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def main_job(tmp_path_factory) -> Path:
    """The folder in which the README's first command ran."""
    folder = tmp_path_factory.mktemp("main_job")
    (folder / "stdout.txt").write_text(run(folder, *MAIN_JOB))
    return folder


@pytest.fixture(scope="module")
def run_dir(main_job) -> Path:
    (folder,) = [p for p in (main_job / "runs").iterdir() if (p / "summary.json").is_file()]
    return folder


@pytest.fixture(scope="module")
def client(main_job):
    return open_client(embedded_uri(main_job / "runs"))


@pytest.fixture
def mlflow_run(client, run_dir):
    return client.get_run(json.loads((run_dir / "summary.json").read_text())["mlflow_run_id"])


def test_it_learns_and_says_so(main_job, run_dir):
    summary = json.loads((run_dir / "summary.json").read_text())
    out = (main_job / "stdout.txt").read_text()
    assert summary["metrics"]["val/accuracy"] >= 0.90
    assert summary["metrics"]["test/accuracy"] >= 0.90
    assert (summary["status"], summary["verdict"]) == ("finished", "healthy")
    assert summary["mlflow_tracking_uri"] == embedded_uri(main_job / "runs")
    assert out.count(summary["mlflow_url"]) in (1, 2)  # at the end; at the start too, if MLflow was ready before that
    assert "verdict: healthy" in out
    assert {p.name for p in run_dir.iterdir()} == {
        "config.yaml",
        "tensorboard",
        "checkpoints",
        "findings.json",
        "summary.json",
        "report.html",
    }


def test_tensorboard_reads_a_histogram_per_layer_and_step_that_adds_up(run_dir):
    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"histograms": 0, "scalars": 0}).Reload()
    tags = sorted(tag for tag in events.Tags()["histograms"] if tag.startswith("gradient/"))
    sizes = {"weight_ih_l0": 512, "weight_hh_l0": 4096, "bias_ih_l0": 64, "bias_hh_l0": 64, "weight": 640, "bias": 10}
    assert [t.rpartition(".")[2] for t in tags] == list(sizes)
    assert tags[0] == "gradient/histogram/L00.rnn.weight_ih_l0"
    steps = [0, *range(49, 1170, 50)]
    for tag in tags:
        layers = events.Histograms(tag)
        assert [h.step for h in layers] == steps
        for h in layers:
            assert sum(h.histogram_value.bucket) == sizes[tag.rpartition(".")[2]] == h.histogram_value.num
    losses = events.Scalars("train/loss")
    assert [loss.step for loss in losses] == [0, *range(9, 1170, 10)]
    assert np.mean([e.value for e in losses[-10:]]) < 0.1 < losses[0].value


def test_mlflow_holds_every_recorded_point_once(main_job, run_dir, mlflow_run):
    assert shipped(embedded_uri(main_job / "runs"), mlflow_run.info.run_id) == recorded_in(run_dir)
    assert mlflow_run.info.status == "FINISHED"


def recorded_in(run_dir: Path):
    from stabletrain.record.run_folder import RunFolder

    return [point for point in recorded(RunFolder(run_dir)) if is_shipped(point[0], num_layers=6)]


def test_mlflow_says_what_the_run_is(client, mlflow_run, run_dir):
    data = mlflow_run.data
    assert data.params["model"] == "rnn"
    assert data.params["clip"] == "norm"
    assert data.params["clip.max_norm"] == "1.0"
    assert len(data.params) < 60
    assert data.tags["stabletrain.verdict"] == "healthy"
    assert "model=rnn clip=norm" in data.tags["stabletrain.command"]
    assert "healthy" in data.tags["mlflow.note.content"]
    assert {d.dataset.name for d in mlflow_run.inputs.dataset_inputs} >= {"digits"}
    assert "system/memory_usage_megabytes" in data.metrics
    record = load_record(run_dir)
    assert data.tags.get("mlflow.source.git.commit") == record.info["git_commit"] or record.info["git_commit"] is None


def test_mlflow_holds_pictures_with_steps_and_the_artifacts(client, mlflow_run):
    run_id = mlflow_run.info.run_id
    names = [Path(f.path).name for f in client.list_artifacts(run_id, "images")]
    ridges, heatmap = (
        {int(n.split("+")[2]) for n in names if n.startswith(f"gradient~{k}+")} for k in ("ridges", "heatmap")
    )
    assert (min(ridges), max(ridges) >= 1149) == (0, True)
    assert len(ridges) >= 5
    assert len(heatmap) == 1  # of the whole run
    assert min(heatmap) >= 1149
    files = {f.path for f in client.list_artifacts(run_id)}
    assert {"config.yaml", "findings.json", "summary.json", "report.html", "tensorboard"} <= files


def test_mlflow_holds_the_best_model_with_signature_and_example(client, mlflow_run, run_dir, monkeypatch):
    import mlflow

    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", None, raising=False)
    mlflow.set_tracking_uri(json.loads((run_dir / "summary.json").read_text())["mlflow_tracking_uri"])
    (output,) = mlflow_run.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    info = mlflow.models.get_model_info(model.model_uri)
    assert info.signature.inputs.inputs[0].shape == (-1, 8, 8)
    assert info.signature.outputs.inputs[0].shape == (-1, 10)
    assert info.saved_input_example_info is not None
    loaded = mlflow.pytorch.load_model(model.model_uri)
    images = torch.stack([Digits(form="rows").test[i][0] for i in range(7)])
    assert loaded(images).shape == (7, 10)  # any batch size, although four were given as the example


def test_mlflow_has_the_saved_view(client, mlflow_run):
    tags = client.get_experiment(mlflow_run.info.experiment_id).tags
    entry = json.loads(tags[f"mlflow.sharedViewState.{VIEW_ID}"])
    assert entry["name"] == VIEW_NAME
    assert len(tags[f"mlflow.sharedViewState.{VIEW_ID}"]) <= 20_000
    state = json.dumps(decode_view(tags[f"mlflow.sharedViewState.{VIEW_ID}"]))
    for name in ("gradient/rms/L00.rnn.weight_ih_l0", "gradient/rms/L05.head.bias", "gradient/ridges"):
        assert name in state


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_both_pages_show_the_layers(main_job, run_dir, page):
    """`stabletrain ui`, then MLflow's view with its slider and TensorBoard's histograms, in a real browser."""
    mlflow_port, tensorboard_port, live_port = (find_free_port() for _ in range(3))
    ports = [f"ui.mlflow_port={mlflow_port}", f"ui.tensorboard_port={tensorboard_port}", f"ui.live_port={live_port}"]
    env = {**os.environ, "PYTHONPATH": ROOT}
    process = subprocess.Popen(
        [sys.executable, "-m", "stabletrain", "ui", *ports],
        cwd=main_job,
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        for line, port in zip(lines, (live_port, tensorboard_port, mlflow_port), strict=True):
            assert f"http://127.0.0.1:{port}" in line
        url = json.loads((run_dir / "summary.json").read_text())["mlflow_url"].replace(":5000", f":{mlflow_port}")
        page.goto(url)
        page.get_by_text("Verdict: ").first.wait_for()
        experiment = url.split("/experiments/")[1].split("/")[0]
        page.goto(
            f"http://127.0.0.1:{mlflow_port}/#/experiments/{experiment}/runs"
            f"?workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey={VIEW_ID}"
        )
        page.get_by_text("Gradient of every layer (RMS)").wait_for()
        page.get_by_text("gradient/rms/L00.rnn.weight_ih_l0").first.wait_for()
        page.get_by_role("slider").first.wait_for()
        keep(page, "mlflow_view")
        page.goto(f"http://127.0.0.1:{tensorboard_port}/?darkMode=false#histograms")
        for name in ("L00.rnn.weight_ih_l0", "L01.rnn.weight_hh_l0", "L05.head.bias"):
            page.get_by_text(name).first.wait_for()
        assert page.get_by_text("mlartifacts").count() == 0
        time.sleep(2)
        keep(page, "tensorboard_histograms")
    finally:
        process.terminate()  # it ends both pages, which killing it would not
        try:
            process.wait(30)
        finally:
            stop_group(process)
            process.stdout.close()


def keep(page, name: str) -> None:
    """Keep a screenshot if STABLETRAIN_SCREENSHOTS names a folder."""
    if folder := os.environ.get("STABLETRAIN_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder, f"{name}.png"))


@pytest.mark.slow
def test_a_server_that_is_down_costs_nothing_and_gets_everything_later(tmp_path, server, free_port):
    down = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port}"}
    short = [*MAIN_JOB, "trainer.max_epochs=6", "output_dir=mine"]
    start = time.monotonic()
    out = run(tmp_path, *short, **down)
    assert time.monotonic() - start < 60
    assert "stabletrain sync mine" in out
    assert "verdict:" in out
    server(free_port)
    first = run(tmp_path, "sync", "mine", **down)
    second = run(tmp_path, "sync", "mine", **down)
    points = recorded_in(tmp_path / "mine")
    summary = json.loads((tmp_path / "mine/summary.json").read_text())
    assert f"{len(points):,} points" in first
    assert "mine: 0 points, 0 images, 0 artifacts shipped" in second
    assert shipped(down["MLFLOW_TRACKING_URI"], summary["mlflow_run_id"]) == points
