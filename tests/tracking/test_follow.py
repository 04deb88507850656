import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow_fakes import INFO, begin_run, end_run, finished_run, get_run, recorded, shipped, write_steps
from servers import stop_group

from stabletrain.errors import RequestError
from stabletrain.record.writer import RecordWriter
from stabletrain.tracking.follow import follow
from stabletrain.tracking.shipper import Shipper
from stabletrain.tracking.store import Unreachable, open_client, quiet

SCRIPT = """
import json, sys
from stabletrain.record.run_folder import RunFolder
from stabletrain.tracking.follow import follow
from stabletrain.tracking.shipper import Shipper
shipper = Shipper(RunFolder(sys.argv[1]), sys.argv[2])
follow(shipper, sys.stdin, lambda event: print(json.dumps(event), flush=True), interval_s=0.2)
"""
PARENT = """
import subprocess, sys, time
command = [sys.executable, "-c", sys.argv[1], *sys.argv[2:4]]
log = open(sys.argv[4], "w")
child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""


class Pipe:
    """Lines as from a pipe: reading blocks until there is a line or the pipe is closed."""

    def __init__(self):
        self._lines = queue.Queue()

    def write(self, line):
        self._lines.put(line)

    def close(self):
        self._lines.put(None)

    def __iter__(self):
        return iter(self._lines.get, None)


class Following:
    """`follow` in a thread of this process."""

    def __init__(self, folder, uri):
        self.pipe, self.events, self.result = Pipe(), [], None
        self._thread = threading.Thread(target=self._run, args=(Shipper(folder, uri),), daemon=True)
        self._thread.start()

    def _run(self, shipper):
        self.result = follow(shipper, self.pipe, self.events.append, interval_s=0.1)

    def wait_for(self, kind, timeout_s=30):
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for event in self.events:
                if event["event"] == kind:
                    return event
            time.sleep(0.02)
        raise AssertionError(f"no {kind} in {self.events}")

    def join(self):
        self._thread.join(60)
        assert not self._thread.is_alive()


def wait_until(condition, timeout_s=30):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


def test_it_ships_while_training_writes_and_ends_when_told(runs, uri):
    folder = begin_run(runs / "run", steps=range(15))
    following = Following(folder, uri)
    ready = following.wait_for("ready")
    assert ready["url"].endswith(f"/runs/{ready['run_id']}?workflowType=machine_learning")
    assert (ready["tracking_uri"], "viewStateShareKey=" in ready["view_url"]) == (uri, True)
    writer = RecordWriter(folder.events)
    write_steps(writer, range(15, 30))
    wait_until(lambda: shipped(uri, ready["run_id"]) == recorded(folder))
    assert get_run(uri, ready["run_id"]).info.status == "RUNNING"
    write_steps(writer, range(30, 40))
    writer.close()
    end_run(folder)
    following.pipe.write("end\n")
    following.join()
    assert following.events[-1] == {"event": "done", "points": len(recorded(folder)), "images": following.result.images}
    assert shipped(uri, ready["run_id"]) == recorded(folder)
    assert get_run(uri, ready["run_id"]).info.status == "FINISHED"
    assert "mlflow_run_id" not in folder.read_summary()  # only the training process writes that file


def test_it_waits_for_a_record_to_begin(runs, uri):
    folder = begin_run(runs / "run", info=None, steps=range(0))
    following = Following(folder, uri)
    time.sleep(0.5)
    assert following.events == []
    writer = RecordWriter(folder.events)
    writer.write_info(INFO)
    following.wait_for("ready")
    writer.close()
    following.pipe.close()
    following.join()


def test_a_server_that_is_away_is_tried_again_and_at_the_end_told(runs, free_port):
    folder = finished_run(runs / "run", steps=range(3))
    following = Following(folder, f"http://127.0.0.1:{free_port}")
    following.wait_for("unreachable")
    started = time.monotonic()
    following.pipe.write("end\n")
    following.join()
    assert time.monotonic() - started < 10
    assert [e["event"] for e in following.events] == ["unreachable", "unreachable"]
    assert following.result is None


def test_a_parent_killed_outright_leaves_a_killed_run_with_all_its_points(runs, uri, tmp_path):
    folder = begin_run(runs / "run", steps=range(30))
    log = tmp_path / "events.jsonl"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, SCRIPT, str(folder.path), uri, str(log)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    child = int(parent.stdout.readline())
    wait_until(lambda: "ready" in log.read_text(), 60)
    writer = RecordWriter(folder.events)
    write_steps(writer, range(30, 60))
    writer.close()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not Path(f"/proc/{child}").exists(), 60)
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert events[-1]["event"] == "done"
    run = get_run(uri, events[0]["run_id"])
    assert shipped(uri, run.info.run_id) == recorded(folder)
    assert run.info.status == "KILLED"
    assert "was killed or ran out of memory" in run.data.tags["mlflow.note.content"]


@pytest.mark.slow
def test_a_server_down_then_up_then_killed_then_up_again_holds_every_point_once(runs, server, free_port):
    uri = f"http://127.0.0.1:{free_port}"
    folder = begin_run(runs / "run", steps=range(20))
    with pytest.raises(Unreachable):
        Shipper(folder, uri).ship()
    following = Following(folder, uri)
    following.wait_for("unreachable")
    process = server(free_port)
    ready = following.wait_for("ready")
    wait_until(lambda: has_view(uri))  # the last step of a pass
    assert shipped(uri, ready["run_id"]) == recorded(folder)
    stop_group(process)
    writer = RecordWriter(folder.events)
    write_steps(writer, range(20, 40))
    writer.close()
    wait_until(lambda: sum(e["event"] == "unreachable" for e in following.events) == 2)
    end_run(folder)
    following.pipe.write("end\n")
    following.join()
    assert following.events[-1]["event"] == "unreachable"
    server(free_port)
    first, second = Shipper(folder, uri).ship(), Shipper(folder, uri).ship()
    assert (first.run_id, first.status, first.artifacts) == (ready["run_id"], "FINISHED", 6)
    assert (second.points, second.images, second.artifacts) == (0, 0, 0)
    assert shipped(uri, first.run_id) == recorded(folder)
    if host := other_name():
        with pytest.raises(RequestError, match="refuses") as caught:
            Shipper(folder, f"http://{host}:{free_port}").ship()
        assert "MLFLOW_SERVER_ALLOWED_HOSTS" in str(caught.value)


def has_view(uri):
    with quiet():
        return any("sharedViewState" in tag for tag in open_client(uri).get_experiment_by_name("demo").tags)


def other_name():
    """Return a name of 127.0.0.1 that MLflow's server refuses by default, if this machine has one."""
    name = socket.gethostname()
    with suppress(OSError):
        if socket.gethostbyname(name).startswith("127.") and not name.startswith("localhost"):
            return name
    return None
