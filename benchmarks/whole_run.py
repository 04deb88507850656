"""Compare whole runs of small networks: a bare PyTorch loop, plain Lightning, and stabletrain.

All three train the same network with the same optimizer on the same batches, clip the gradient's norm, validate after
every epoch, keep the last and the best checkpoint, and test the best. Plain Lightning and stabletrain log to
TensorBoard and to MLflow, in a local sqlite store that already exists: the training loss every ten steps, the
validation loss and accuracy after every epoch. The bare loop only prints. stabletrain also watches the gradients and
diagnoses, as it does by default; its CPU time includes the process that copies the run to MLflow.

Each run is a process of its own, and the three take turns. The seconds of training are those of all epochs, from the
first step to the end of the last epoch; those of the command include everything, from the start of Python to its end.
The ratios are taken within each round, so that a change in the load of the machine affects both. On a busy machine only
CPU seconds are meaningful.

    python benchmarks/whole_run.py
    python benchmarks/whole_run.py --models rnn --threads 1 --rounds 5 --bar
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from whole_run_jobs import MODELS, SCRIPTS, Job, make_store, prepare
from whole_run_process import Run, run

MEASURED = ("train_s", "train_cpu_s", "command_s", "command_cpu_s")
LIMITS = {"training": 1.10, "command": 2.0}  # stabletrain relative to plain Lightning: seconds, CPU seconds


def compare(job: Job, num_threads: int, rounds: int, bar: bool, folder: Path) -> dict[str, list[Run]]:
    """Run all kinds in turn; the order is reversed in every second round."""
    found: dict[str, list[Run]] = {kind: [] for kind in SCRIPTS}
    for number in range(rounds):
        for kind in list(SCRIPTS)[:: -1 if number % 2 else 1]:
            out = folder / f"{job.model}-{num_threads}-{number}-{kind}"
            found[kind].append(run(job.command(kind, out, bar), out, num_threads, bar))
            last = found[kind][-1]
            about = f"training {last.train_s:.1f} s, command {last.command_cpu_s:.1f} CPU s, loss {last.loss:.6f}"
            print(f"{job.model} {num_threads} thread(s), round {number + 1}, {kind}: {about}", file=sys.stderr)
    return found


def cell(values: list[float], digits: int = 1) -> str:
    """Return the median and the range."""
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f} … {max(values):.{digits}f})"


def print_table(model: str, num_threads: int, found: dict[str, list[Run]]) -> None:
    """Print one row for each kind of run."""
    for kind, runs in found.items():
        measured = [
            [getattr(r, name) for r in runs] for name in ("train_s", "train_cpu_s", "command_s", "command_cpu_s")
        ]
        print(f"| {model} | {num_threads} | {kind} | {' | '.join(map(cell, measured))} | {runs[-1].loss:.4f} |")


def print_ratios(results: dict[tuple[str, int], dict[str, list[Run]]]) -> None:
    """Print stabletrain relative to plain Lightning, beside the limits."""
    print("\n| model | threads | training, s | training, CPU s | command, s | command, CPU s |")
    print("|---" * 6 + "|")
    for (model, num_threads), found in results.items():
        cells = []
        for name in MEASURED:
            pairs = zip(found["stabletrain"], found["Lightning"], strict=True)
            cells.append(cell([getattr(ours, name) / getattr(theirs, name) for ours, theirs in pairs], 2))
        print(f"| {model} | {num_threads} | {' | '.join(cells)} |")
    limits = f"at most {LIMITS['training']:.2f} in seconds of training, {LIMITS['command']:.2f} in CPU seconds"
    print(f"\nstabletrain relative to plain Lightning; the aim is {limits} of the command.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare whole runs of small networks.")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="numbers of threads (1 2)")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each kind (2)")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of 39 steps (10)")
    parser.add_argument("--bar", action="store_true", help="run in a terminal, with a progress bar")
    arguments = parser.parse_args()
    results: dict[tuple[str, int], dict[str, list[Run]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        store = make_store(folder / "mlflow.db")
        for model in arguments.models:
            job = prepare(model, arguments.epochs, store, folder / model)
            for num_threads in arguments.threads:
                results[model, num_threads] = compare(job, num_threads, arguments.rounds, arguments.bar, folder)
    print("| model | threads | run | training, s | training, CPU s | command, s | command, CPU s | validation loss |")
    print("|---" * 8 + "|")
    for (model, num_threads), found in results.items():
        print_table(model, num_threads, found)
    print_ratios(results)


if __name__ == "__main__":
    main()
