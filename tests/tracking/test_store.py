import multiprocessing
import os
import socket
import time

import pytest

from stabletrain.errors import RequestError
from stabletrain.tracking.store import (
    Unreachable,
    embedded_uri,
    is_reachable,
    open_client,
    public_uri,
    quiet,
    resolve_tracking_uri,
    run_url,
    view_url,
)


def test_the_explicit_setting_stands_above_the_environment_above_the_embedded_store(tmp_path, monkeypatch):
    run_dir = tmp_path / "runs" / "one"
    embedded = f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"
    assert resolve_tracking_uri(None, run_dir) == embedded_uri(run_dir.parent) == embedded
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere:5000")
    assert resolve_tracking_uri(None, run_dir) == "http://somewhere:5000"
    assert resolve_tracking_uri("https://else.where", run_dir) == "https://else.where"


def test_a_relative_store_does_not_follow_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_tracking_uri("sqlite:///mlflow.db", "run") == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert resolve_tracking_uri(None, "runs/run") == f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"


@pytest.mark.parametrize("uri", ["mlruns", "/data/mlruns", "file:///data/mlruns"])
def test_a_folder_is_refused_with_what_to_use_instead(uri):
    with pytest.raises(RequestError) as caught:
        resolve_tracking_uri(uri, "runs/one")
    assert (caught.value.key, caught.value.found) == ("tracking_uri", uri)
    assert "sqlite:////" in str(caught.value.command)


def test_a_store_below_a_folder_that_no_uri_can_name_is_refused(tmp_path):
    with pytest.raises(RequestError, match="question mark"):
        resolve_tracking_uri(None, tmp_path / "what?" / "run")


def test_links_open_in_the_mode_for_training_and_hold_no_password():
    assert run_url("http://me:secret@host:5000/", "1", "abc") == (
        "http://host:5000/#/experiments/1/runs/abc?workflowType=machine_learning"
    )
    assert view_url("sqlite:////x/mlflow.db", "1", "v") == (
        "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey=v"
    )
    assert public_uri("http://me:se@cret@host:1/p") == "http://host:1/p"


def test_a_closed_port_costs_no_minute(free_port):
    started = time.monotonic()
    uri = f"http://127.0.0.1:{free_port}"
    assert "does not answer" in str(is_reachable(uri))
    with pytest.raises(Unreachable):
        open_client(uri)
    assert time.monotonic() - started < 5
    assert is_reachable("sqlite:////x/mlflow.db") is None


def test_a_server_that_accepts_and_never_answers_costs_seconds(monkeypatch):
    from mlflow.exceptions import MlflowException

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        uri = f"http://127.0.0.1:{listener.getsockname()[1]}"
        client = open_client(uri)
        started = time.monotonic()
        with pytest.raises(MlflowException), quiet():
            client.get_run("0" * 32)
        assert time.monotonic() - started < 5


def first_writer(uri, name, barrier, results):
    barrier.wait()
    try:
        client = open_client(uri)
        experiment = client.create_experiment(name)
        results.put((name, client.create_run(experiment).info.status))
    except Exception as error:
        results.put((name, repr(error)))


@pytest.mark.slow
def test_four_processes_set_one_database_up_and_all_survive(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(4), context.Queue()
    names = [f"experiment {i}" for i in range(4)]
    processes = [
        context.Process(target=first_writer, args=(embedded_uri(tmp_path / "new"), n, barrier, results)) for n in names
    ]
    for process in processes:
        process.start()
    outcomes = dict(results.get(timeout=100) for _ in processes)
    for process in processes:
        process.join()
    assert outcomes == dict.fromkeys(names, "RUNNING")


def test_the_default_experiment_does_not_lie_in_the_working_folder(template):
    client = open_client(f"sqlite:///{template}")
    location = client.get_experiment("0").artifact_location
    assert location.startswith((template.parent / "mlartifacts").as_uri())
    assert "_MLFLOW_SERVER_ARTIFACT_ROOT" not in os.environ
