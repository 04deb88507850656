"""The process beside training: it starts before the record exists, is out of the way, and ends with training."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from mlflow_fakes import begin_run, end_run, get_run, recorded, shipped

from stabletrain.tracking import priority
from stabletrain.tracking.follow import follow_run
from stabletrain.tracking.priority import NICENESS, lower_priority, run_with_low_priority
from stabletrain.tracking.shipper import Shipper
from stabletrain.tracking.shipper_process import ENVIRONMENT, ShipperProcess
from stabletrain.tracking.training_pipe import TrainingPipe

ROOT = str(Path(__file__).parents[2])
HEAVY = ("torch", "pytorch_lightning", "hydra", "omegaconf", "sklearn", "numba", "matplotlib", "tensorboard.plugins")
# The program, with one more thread that says what it has imported once it waits for `begin`.
WATCHED = """
import json, sys, threading, time
from stabletrain.app import shipping_program
def tell():
    awaited = {"stabletrain.tracking.follow", "mlflow.store.tracking.sqlalchemy_store"}
    while not awaited <= set(sys.modules):
        time.sleep(0.05)
    time.sleep(0.5)
    print(json.dumps({"modules": sorted(sys.modules)}), flush=True)
threading.Thread(target=tell, daemon=True).start()
shipping_program.main(sys.argv[1:])
"""


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ROOT)


def priority_of(thread):
    return os.getpriority(os.PRIO_PROCESS, thread)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, the niceness is that of the process")
def test_only_the_calling_thread_makes_way():
    found = []

    def measure():
        for _ in range(2):  # again changes nothing
            lower_priority()
            found.append(priority_of(threading.get_native_id()))

    before = priority_of(0)
    thread = threading.Thread(target=measure)
    thread.start()
    thread.join()
    assert found == [max(NICENESS, before)] * 2
    assert priority_of(0) == before


@pytest.mark.parametrize("is_urgent", [True, False])
def test_the_priority_is_raised_once_training_waits(monkeypatch, is_urgent):
    calls, threads = [], []
    monkeypatch.setattr(priority, "CHECK_S", 0.01)
    monkeypatch.setattr(os, "setpriority", lambda *call: calls.append(call))

    def work():
        threads.append(threading.get_native_id())
        time.sleep(0.3)

    run_with_low_priority(work, lambda: is_urgent)
    assert set(calls) == ({(os.PRIO_PROCESS, threads[0], priority_of(0))} if is_urgent else set())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, the niceness is that of the process")
def test_passes_during_training_are_of_low_priority_and_the_last_one_is_not(runs, uri):
    seen = []

    class Measured(Shipper):
        def ship(self, *, ended=None, **options):
            seen.append((ended, priority_of(threading.get_native_id())))
            return super().ship(ended=ended, **options)

    folder = begin_run(runs / "run", steps=range(3))
    training = TrainingPipe(iter(()))  # closed at once
    follow_run(lambda: Measured(folder, uri), training, lambda event: None, 0.1)
    assert seen == [(True, priority_of(0))]
    seen.clear()
    lines, go_on = Lines(), threading.Event()
    events = []

    def emit(event):
        events.append(event["event"])
        go_on.set()

    thread = threading.Thread(
        target=follow_run, args=(lambda: Measured(folder, uri), TrainingPipe(lines), emit, 0.1), daemon=True
    )
    thread.start()
    assert go_on.wait(60)
    end_run(folder)
    lines.close()
    thread.join(60)
    assert seen == [(False, max(NICENESS, priority_of(0))), (True, priority_of(0))]  # nothing new in between
    assert events == ["ready", "done"]


class Lines:
    def __init__(self):
        self._closed = threading.Event()

    def close(self):
        self._closed.set()

    def __iter__(self):
        self._closed.wait()
        return iter(())


def test_without_a_record_nothing_is_shipped_and_no_store_made(tmp_path):
    events = []
    process = ShipperProcess(tmp_path / "run", events.append)
    assert process.finish(60)
    assert events == []
    assert list(tmp_path.iterdir()) == []


def test_started_early_it_waits_with_its_imports_done_and_without_heavy_modules(tmp_path):
    command = [sys.executable, "-c", WATCHED, str(tmp_path / "run"), str(tmp_path / "exported")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    modules = json.loads(process.stdout.readline())["modules"]
    assert "mlflow.tracking.client" in modules
    assert [name for name in HEAVY if name in modules] == []
    assert process.poll() is None  # it waits
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_started_before_the_record_it_ships_all_of_it(runs, uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    events, exported = [], []
    process = ShipperProcess(runs / "run", events.append, exported.append)
    assert os.getpgid(process._process.pid) == process._process.pid  # Ctrl-C does not reach it
    assert os.getsid(process._process.pid) == os.getsid(0)  # one autogroup, in which a niceness counts
    environment = Path(f"/proc/{process._process.pid}/environ").read_bytes().split(b"\0")
    assert {f"{name}={value}".encode() for name, value in ENVIRONMENT.items()} <= set(environment)
    folder = begin_run(runs / "run", steps=range(15))
    process.begin()
    deadline = time.monotonic() + 120
    while not events:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert events[0]["event"] == "ready"
    assert get_run(uri, events[0]["run_id"]).info.status == "RUNNING"
    end_run(folder)
    assert process.finish(120)
    assert events[-1]["event"] == "done"
    assert shipped(uri, events[0]["run_id"]) == recorded(folder)
    assert get_run(uri, events[0]["run_id"]).info.status == "FINISHED"
    assert [path.exists() for path in exported] == [False]  # called once; the shipper has deleted the folder


def test_an_export_that_fails_or_hangs_does_not_keep_training(tmp_path):
    def fail(target):
        raise OSError("disk full")

    assert ShipperProcess(tmp_path / "run", lambda event: None, fail).finish(60)
    hanging = ShipperProcess(tmp_path / "run", lambda event: None, lambda target: time.sleep(600))
    began = time.monotonic()
    hanging.finish(3)
    assert time.monotonic() - began < 60


def test_pictures_are_drawn_at_the_end_unless_live(runs, uri):
    from mlflow_fakes import artifact_names

    folder = begin_run(runs / "run", steps=range(3))
    shipper = Shipper(folder, uri, live_pictures=False)
    during = shipper.ship(ended=False)
    assert (during.images, artifact_names(uri, during.run_id)) == (0, [])
    assert not shipper.has_news()
    end_run(folder)
    after = shipper.ship()
    assert after.images == 4  # the heatmap and the ridges of step 0, both also as those of the end
    assert Shipper(begin_run(runs / "live", steps=range(3), info=None), uri).ship(ended=False).images == 2
