import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from stabletrain.errors import RequestError
from stabletrain.tracking.page_servers import link_runs, serve

SCRIPT = """
import sys
from stabletrain.tracking.page_servers import serve
say = lambda line: print(line, flush=True)
serve(sys.argv[1], sys.argv[2], mlflow_port=int(sys.argv[3]), tensorboard_port=int(sys.argv[4]), say=say)
"""


def free_ports(count):
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def answers(port):
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as page:
        return page.status == 200
    return False


def test_a_store_that_does_not_exist_is_told(tmp_path):
    with pytest.raises(RequestError) as caught:
        serve(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path)
    assert caught.value.command == "stabletrain train"


@pytest.mark.parametrize("key", ["mlflow_port", "tensorboard_port"])
def test_a_taken_port_is_told_with_a_free_one(runs, uri, key):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        ports = dict(zip(("mlflow_port", "tensorboard_port"), free_ports(2), strict=True)) | {key: taken}
        with pytest.raises(RequestError) as caught:
            serve(uri, runs, **ports)
    assert (caught.value.key, caught.value.found) == (f"ui.{key}", taken)
    command, _, port = caught.value.command.rpartition("=")
    assert command == f"stabletrain ui ui.{key}"
    assert int(port) != taken


def test_both_pages_answer_and_end_with_it(runs, uri):
    ports = free_ports(2)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", SCRIPT, uri, str(runs), *map(str, ports)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        lines = [process.stdout.readline().split() for _ in range(2)]
        assert lines == [
            ["MLflow", f"http://127.0.0.1:{ports[0]}/#/experiments?workflowType=machine_learning"],
            ["TensorBoard", f"http://127.0.0.1:{ports[1]}/"],
        ]
        assert [answers(port) for port in ports] == [True, True]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        time.sleep(0.2)
        assert [answers(port) for port in ports] == [False, False]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_tensorboard_is_shown_each_run_once_and_new_ones_too(tmp_path):
    shown = tmp_path / "shown"
    shown.mkdir()
    (tmp_path / "runs/one/tensorboard").mkdir(parents=True)
    (tmp_path / "runs/mlartifacts/1/artifacts/tensorboard").mkdir(parents=True)
    link_runs(tmp_path / "runs", shown)
    assert [p.name for p in shown.iterdir()] == ["one"]
    (tmp_path / "runs/two/tensorboard").mkdir(parents=True)
    for _ in range(2):
        link_runs(tmp_path / "runs", shown)
    assert {p.name: p.resolve() for p in shown.iterdir()} == {
        name: tmp_path / "runs" / name / "tensorboard" for name in ("one", "two")
    }
