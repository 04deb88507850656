"""The live page: how long a list of many runs takes to open, and what an open page costs a training.

    python benchmarks/live_page.py                  # both, in about four minutes
    python benchmarks/live_page.py --only list --runs 1000
    python benchmarks/live_page.py --only training --pairs 8 --seconds 4

list: a folder of copies of one recorded run (300 steps of 12 layers, default watch). The server is started anew; a
client asks as the page does, until it has all rows; if Chromium is installed, a browser opens the page too.

training: one training on one thread, during which the page is asked once a second, for the list and for the run, as an
open browser does, and then not, in turn. The speed is that of the record: steps per second between the first and the
last loss of each stretch, which begins ten seconds after the page was opened or closed. Once with a core left for the
server, once with both on the same core.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil

from stabletrain.record.reader import Position, Scalar, read_entries
from stabletrain.record.run_folder import RunFolder
from stabletrain.record.writer import RecordWriter
from stabletrain.signal.histogram import Histogram
from stabletrain.signal.snapshot import LayerStatistics, Snapshot
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.statuses import FINISHED

ROOT = Path(__file__).parents[1]
CHROMIUM = Path("/usr/bin/chromium")
WARMUP_S = 20.0
SETTLE_S = 10.0  # after the page was opened or closed: what was recorded meanwhile is read at once
TRAINING = ["model=mlp", "model.depth=12", "data=digits", "trainer=cpu", "trainer.max_epochs=-1", "logger=tensorboard"]


@contextmanager
def serving(folder: Path, cores: Sequence[int] = ()) -> Iterator[tuple[str, psutil.Process]]:
    """Start the server; yield its address and its process once it answers."""
    port = free_port()
    command = [sys.executable, "-m", "stabletrain.live_page", str(folder), "--port", str(port)]
    process = subprocess.Popen([*pinned(cores), *command], cwd=ROOT)
    address = f"http://127.0.0.1:{port}"
    try:
        while process.poll() is None:
            with suppress(OSError), urllib.request.urlopen(address, timeout=10):
                break
            time.sleep(0.05)
        yield address, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pinned(cores: Sequence[int]) -> list[str]:
    """Return the words before a command that keep it on some cores."""
    return ["taskset", "-c", ",".join(map(str, cores))] if cores and shutil.which("taskset") else []


def ask(url: str, version: str = "") -> tuple[bytes, str]:
    """Return the answer and its version; no answer if it has not changed."""
    request = urllib.request.Request(url, headers={"If-None-Match": version} if version else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read(), answer.headers.get("ETag") or ""
    except urllib.error.HTTPError as error:
        if error.code != 304:
            raise
        return b"", version


# The list.


def write_runs(root: Path, num_runs: int, num_steps: int = 300, num_layers: int = 12) -> int:
    """Write one run and copies of it, all ended; return the size of a record in bytes."""
    counts = np.zeros(256, np.int64)
    counts[100:120] = 10
    folder = RunFolder(root / "run-0000")
    writer = RecordWriter(folder.events)
    choices = {"model": "mlp", "data": "digits", "clip": "norm", "optimizer": "adam"}
    writer.write_info({"choices": choices, "run_name": "a run", "training": {"num_steps": num_steps}})
    for step in range(num_steps):
        writer.write_scalars(step, {names.TRAIN_LOSS: 2.3 * 0.99**step, names.NORM_TOTAL: 1.0, names.NORM_AFTER: 1.0})
        if step % 10 == 0:
            histogram = Histogram(counts) if step % 50 == 0 else None
            layers = [LayerStatistics(f"L{k:02d}.layers.{k}", 200, 0.01, 0, histogram) for k in range(num_layers)]
            writer.write_snapshot(Snapshot(step, tuple(layers)))
    writer.close()
    folder.update_summary(status=FINISHED, verdict="healthy", metrics={names.VAL_LOSS: 0.1}, steps=num_steps)
    folder.write_findings([])
    for k in range(1, num_runs):
        shutil.copytree(folder.path, root / f"run-{k:04d}")
    return writer.path.stat().st_size


def measure_list(num_runs: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        size = write_runs(root, num_runs)
        print(f"{num_runs} runs, {size / 1e3:.0f} kB of record each")
        with serving(root) as (address, process):
            start, used = time.perf_counter(), cpu_s(process)
            ask(address + "/")
            first_s, rows, since, num_asked = None, 0, "", 0
            while True:
                found = json.loads(ask(f"{address}/runs.json?since={since}")[0])
                since, rows, num_asked = found["since"], rows + len(found["rows"]), num_asked + 1
                first_s = first_s or time.perf_counter() - start
                if not found["unread"]:
                    break
            all_s, used = time.perf_counter() - start, cpu_s(process) - used
            assert rows == num_runs
            print(f"first rows after {first_s:.2f} s, all after {all_s:.2f} s ({num_asked} requests, {used:.2f} s CPU)")
            start = time.perf_counter()
            answer, _ = ask(f"{address}/runs.json")
            print(f"opened again: {time.perf_counter() - start:.2f} s, {len(answer) / 1e6:.2f} MB")
            used = cpu_s(process)
            for _ in range(20):
                time.sleep(1.0)
                ask(f"{address}/runs.json?since={since}")
            print(f"open and idle: {100 * (cpu_s(process) - used) / 20:.1f}% of a core")
            print(f"memory of the server: {process.memory_info().rss / 2**20:.0f} MB")
        if CHROMIUM.is_file():
            with serving(root) as (address, _):
                print(f"in Chromium, all rows after {open_in_browser(address, num_runs):.2f} s")


def open_in_browser(address: str, num_rows: int) -> float:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as api:
        browser = api.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        start = time.perf_counter()
        page.goto(address)
        page.locator("#rows tr").nth(num_rows - 1).wait_for()
        took_s = time.perf_counter() - start
        browser.close()
    return took_s


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


# The training.


class OpenPage(threading.Thread):
    """Asks for the list and for one run once a second, as a browser with both pages open."""

    def __init__(self, address: str, name: str) -> None:
        super().__init__(daemon=True)
        self.address, self.name_of_run = address, name
        self.stopped = threading.Event()

    def run(self) -> None:
        since = version = ""
        while not self.stopped.is_set():
            start = time.monotonic()
            since = json.loads(ask(f"{self.address}/runs.json?since={since}")[0])["since"]
            version = ask(f"{self.address}/data/{self.name_of_run}", version)[1]
            self.stopped.wait(max(0.0, 1.0 - (time.monotonic() - start)))


def measure_training(num_pairs: int, seconds: float) -> None:
    cores = sorted(os.sched_getaffinity(0))
    print(f"{'':<22} {'closed':>12} {'open':>12} {'open/closed':>24} {'server':>10}")
    if len(cores) > 1:
        measure_on("server on another core", cores[:1], cores[1:], num_pairs, seconds)
    measure_on("server on the same", cores[:1], cores[:1], num_pairs, seconds)


def measure_on(title: str, cores: Sequence[int], server_cores: Sequence[int], num_pairs: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(Path(name) / "run")
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "stabletrain", *TRAINING, f"output_dir={folder.path}"]
        training = subprocess.Popen([*pinned(cores), *command], env=environment, stdout=subprocess.DEVNULL)
        try:
            with serving(Path(name), server_cores) as (address, server):
                speeds, shares = alternate(folder, address, server, num_pairs, seconds)
        finally:
            training.kill()
            training.wait()
    ratios = [is_open / closed for closed, is_open in speeds]
    closed, is_open = (statistics.median(pair[k] for pair in speeds) for k in (0, 1))
    low, high = np.quantile(ratios, [0.25, 0.75])
    spread = f"{statistics.median(ratios):.3f} ({low:.3f}–{high:.3f})"
    print(f"{title:<22} {closed:>8.1f} st/s {is_open:>7.1f} st/s {spread:>24} {100 * statistics.median(shares):>9.1f}%")


def alternate(
    folder: RunFolder, address: str, server: psutil.Process, num_pairs: int, seconds: float
) -> tuple[list[tuple[float, float]], list[float]]:
    """Return steps per second with the page closed and open, for each pair, and the server's share of a core."""
    position: Position = {}
    while not any(isinstance(entry, Scalar) and entry.step > 50 for entry, _ in read_entries(folder.events)):
        time.sleep(0.5)
    time.sleep(WARMUP_S / 4)
    speeds, shares = [], []
    for _ in range(num_pairs):
        pair = []
        for is_open in (False, True):
            page = OpenPage(address, folder.path.name)
            if is_open:
                page.start()
            time.sleep(SETTLE_S)
            position, used = skip_to_end(folder, position), cpu_s(server)
            time.sleep(seconds)
            if is_open:
                page.stopped.set()
                page.join()
                shares.append((cpu_s(server) - used) / seconds)
            speed, position = speed_since(folder, position)
            pair.append(speed)
        speeds.append((pair[0], pair[1]))
    return speeds, shares


def skip_to_end(folder: RunFolder, position: Position) -> Position:
    return speed_since(folder, position)[1]


def speed_since(folder: RunFolder, position: Position) -> tuple[float, Position]:
    """Return the steps per second of what was recorded after a position, and the position of the end."""
    times: list[tuple[float, int]] = []
    for entry, reached in read_entries(folder.events, position):
        position = reached
        if isinstance(entry, Scalar) and entry.name == names.TRAIN_LOSS:
            times.append((entry.time_s, entry.step))
    if len(times) < 2:
        return float("nan"), position
    (first_s, first), (last_s, last) = times[0], times[-1]
    return (last - first) / (last_s - first_s), position


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["list", "training"])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0)
    arguments = parser.parse_args()
    if arguments.only != "training":
        measure_list(arguments.runs)
    if arguments.only != "list":
        measure_training(arguments.pairs, arguments.seconds)


if __name__ == "__main__":
    main()
