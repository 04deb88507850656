"""Check on many seeds and numbers of threads that the experiments do what README and docs say.

    python -m benchmarks.demonstrations --folder FOLDER --seeds 20 --threads 1 2 4

Each run is a process of its own. Results are appended to FOLDER/runs.jsonl, so that the command can be interrupted and
repeated: only what is missing runs. At the end it prints for each command on how many runs the promise was kept.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ACCURACY = "test/accuracy"


@dataclass(frozen=True)
class Promise:
    """What the documentation says of a command.

    Attributes:
        words: The arguments of the command.
        exit_code: Its exit code.
        verdict: The doctor's verdict; None if nothing is said.
        accuracy: Least and largest test accuracy.
    """

    words: str
    exit_code: int = 0
    verdict: str | None = None
    accuracy: tuple[float, float] = (0.0, 1.0)

    def is_kept(self, run: dict[str, Any]) -> bool:
        """Return whether a run did what is said."""
        least, most = self.accuracy
        accuracy = run["accuracy"] if run["accuracy"] is not None else 0.0
        return (
            run["exit_code"] == self.exit_code
            and self.verdict in (None, run["verdict"])
            and (self.exit_code != 0 or least <= accuracy <= most)
        )


PROMISES = (
    Promise("experiment=vanishing_depth", verdict="vanishing", accuracy=(0.0, 0.15)),
    Promise("experiment=vanishing_depth activation=relu init=he", verdict="healthy", accuracy=(0.8, 1.0)),
    Promise("experiment=exploding_time", exit_code=3, verdict="nonfinite"),
    Promise("experiment=exploding_time clip=norm init=orthogonal", verdict="healthy", accuracy=(0.6, 1.0)),
    Promise("experiment=critical_depth", verdict="healthy", accuracy=(0.85, 1.0)),
    Promise("experiment=rezero_depth", verdict="healthy", accuracy=(0.9, 1.0)),
    Promise("experiment=densenet1d", verdict="healthy", accuracy=(0.8, 1.0)),
    Promise("experiment=long_memory", verdict="healthy"),
    Promise("experiment=temporal_order", verdict="healthy"),
)


def run(words: str, seed: int, num_threads: int, folder: Path) -> dict[str, Any]:
    """Run a command in a process of its own; return its exit code, verdict and test accuracy."""
    output = folder / "run"
    shutil.rmtree(output, ignore_errors=True)
    more = [f"seed={seed}", f"threads={num_threads}", "logger=none", f"output_dir={output}"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(num_threads), "OMP_WAIT_POLICY": "PASSIVE"}
    start = time.perf_counter()
    command = [sys.executable, "-m", "stabletrain", *words.split(), *more]
    code = subprocess.run(command, env=environment, cwd=folder, capture_output=True).returncode
    path = output / "summary.json"
    summary = json.loads(path.read_text()) if path.is_file() else {}
    return {
        "words": words,
        "seed": seed,
        "threads": num_threads,
        "exit_code": code,
        "verdict": summary.get("verdict"),
        "accuracy": (summary.get("metrics") or {}).get(ACCURACY),
        "steps": summary.get("steps"),
        "seconds": round(time.perf_counter() - start, 1),
    }


def read(path: Path) -> list[dict[str, Any]]:
    """Return the runs so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def table(runs: Sequence[dict[str, Any]], promises: Iterable[Promise] = PROMISES) -> list[str]:
    """Return a Markdown table: on how many runs each promise was kept."""
    lines = ["| command | runs | as said | otherwise | test accuracy, least to largest |", "|---|---|---|---|---|"]
    for promise in promises:
        found = [r for r in runs if r["words"] == promise.words]
        kept = [r for r in found if promise.is_kept(r)]
        others = sorted({f"seed {r['seed']}, {r['threads']} threads" for r in found if r not in kept})
        scores = sorted(r["accuracy"] for r in found if r["accuracy"] is not None)
        span = f"{scores[0]:.2f}–{scores[-1]:.2f}" if scores else "none"
        lines.append(f"| `{promise.words}` | {len(found)} | {len(kept)} | {'; '.join(others) or 'none'} | {span} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where results are kept")
    parser.add_argument("--seeds", type=int, default=20, help="seeds from 0")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--only", default="", help="commands that contain this text")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / "runs.jsonl"
    chosen = [promise for promise in PROMISES if options.only in promise.words]
    done = {(r["words"], r["seed"], r["threads"]) for r in read(path)}
    for seed in range(options.seeds):  # all commands with one seed, then the next: results come early
        for num_threads in options.threads:
            for promise in chosen:
                if (promise.words, seed, num_threads) in done:
                    continue
                found = run(promise.words, seed, num_threads, options.folder)
                print("kept  " if promise.is_kept(found) else "BROKEN", json.dumps(found), flush=True)
                with path.open("a") as file:
                    file.write(json.dumps(found) + "\n")
    print("\n".join(table(read(path), chosen)))


if __name__ == "__main__":
    main()
