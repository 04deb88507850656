"""Time a newcomer's first command: a fresh clone, the install line and the command of README.md, in a terminal.

The clone, the environment and the run are made in a temporary folder, so that numba's kernels are compiled and MLflow's
database is created as for the first time; then the same command runs once more. The install is timed apart. The table
shows the seconds from Enter to the first output, to the first progress of training, to the verdict, and to the prompt;
alone, and beside four busy processes (`busy_load.py`). Only what is committed is cloned.

    python benchmarks/first_minute.py                                    # downloads the packages, needs minutes
    python benchmarks/first_minute.py --skip-install .venv/bin/python    # an interpreter that has them
"""

from __future__ import annotations

import argparse
import os
import pty
import random
import re
import shlex
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from busy_load import busy_processes, stop

ROOT = Path(__file__).parents[1]
COMMAND = ".venv/bin/python -m stabletrain"
MARKS = {
    "first output": re.compile(r"\S"),
    "first progress": re.compile(r"epoch\s*\d", re.IGNORECASE),
    "verdict": re.compile(r"verdict:"),
}
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
NOT_OURS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "MLFLOW_TRACKING_URI")
LOADS = ("quiet", "busy")


def read_quick_start(readme: str) -> tuple[str, str]:
    """Return the install line and the command of the README's quick start."""
    line = next(line for line in readme.splitlines() if "pip install" in line and COMMAND in line)
    install, _, command = line.rpartition(" && ")
    assert command.startswith(COMMAND), command
    return install, command


def time_command(line: str, folder: Path, environment: dict[str, str], limit_s: float) -> dict[str, float]:
    """Run a command in a terminal; return the seconds to each mark and to the end; inf for what never came."""
    terminal, other_end = pty.openpty()
    start, text, found = time.perf_counter(), "", dict.fromkeys((*MARKS, "prompt"), float("inf"))
    process = subprocess.Popen(
        shlex.split(line), cwd=folder, env=environment, stdin=other_end, stdout=other_end, stderr=other_end
    )
    os.close(other_end)
    stopper = subprocess.Popen(["sleep", str(limit_s)])  # a clock to wait for beside the terminal
    os.set_blocking(terminal, False)
    try:
        while True:
            chunk = _read(terminal)
            now = time.perf_counter() - start
            text = ESCAPES.sub("", text + (chunk or ""))
            for name, pattern in MARKS.items():
                if found[name] == float("inf") and pattern.search(text):
                    found[name] = now
            if process.poll() is not None and not chunk:
                break
            if stopper.poll() is not None:
                return found
            time.sleep(0.01)
        if process.returncode:
            raise SystemExit(f"{line} failed with exit code {process.returncode}:\n{text[-3000:]}")
        return found | {"prompt": time.perf_counter() - start}
    finally:
        os.close(terminal)
        for each in (process, stopper):
            stop(each)


def _read(terminal: int) -> str | None:
    try:
        return os.read(terminal, 65536).decode(errors="replace")
    except (BlockingIOError, OSError):  # nothing yet; or the other end is closed
        return None


def measure(load: str, python: str | None, num_busy: int, limit_s: float) -> dict[str, dict[str, float]]:
    """Return the seconds of the first and the second run in one fresh clone."""
    install, command = read_quick_start((ROOT / "README.md").read_text())
    environment = {k: v for k, v in os.environ.items() if k not in NOT_OURS} | {"TERM": "xterm-256color"}
    environment.pop("PYTHONPATH", None)
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        installed = time.perf_counter()
        if python is None:
            subprocess.run(["bash", "-c", install], cwd=clone, env=environment, check=True)
        else:
            command = command.replace(".venv/bin/python", str(Path(python).absolute()), 1)
            environment["PYTHONPATH"] = str(clone)
        installed = time.perf_counter() - installed
        with busy_processes(num_busy if load == "busy" else 0):
            runs = {which: time_command(command, clone, environment, limit_s) for which in ("first run", "second run")}
    runs["first run"]["install"] = installed
    for which, seconds in runs.items():
        print(f"  {load:6} {which:10}", "  ".join(f"{k} {v:.1f} s" for k, v in seconds.items()), flush=True)
    return runs


def show(results: list[tuple[str, dict[str, dict[str, float]]]], with_install: bool) -> None:
    """Print the medians."""
    columns = (*MARKS, "prompt")
    print(f"\n| run | {' | '.join(f'{c}, s' for c in columns)} |\n|{'---|' * (len(columns) + 1)}")
    for load in LOADS:
        for which in ("first run", "second run"):
            rows = [runs[which] for name, runs in results if name == load]
            print(f"| {load}, {which} | {' | '.join(spread([row[c] for row in rows]) for c in columns)} |")
    if with_install:
        print(f"\ninstall: {spread([runs['first run']['install'] for _, runs in results])} s, never beside the load")


def spread(values: list[float]) -> str:
    """Return the median, with the smallest and the largest of several."""
    ends = f" ({min(values):.1f}–{max(values):.1f})" if len(values) > 1 else ""
    return f"{statistics.median(values):.1f}{ends}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skip-install", metavar="PYTHON", help="an interpreter that has the packages")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--busy", type=int, default=4, help="busy processes")
    parser.add_argument("--limit", type=float, default=400.0, help="seconds after which a run is stopped")
    given = parser.parse_args()
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"{os.cpu_count()} cores, load {load} before the first run; {given.busy} busy processes")
    results = []
    for _ in range(given.rounds):
        for name in random.sample(LOADS, len(LOADS)):
            results.append((name, measure(name, given.skip_install, given.busy, given.limit)))
    show(results, given.skip_install is None)


if __name__ == "__main__":
    main()
