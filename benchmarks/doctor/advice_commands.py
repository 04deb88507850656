"""Follow the doctor's advice from the command line: run a failing command, then the first remedy.

    python -m benchmarks.doctor.advice_commands --folder FOLDER

Prints a Markdown table; results are kept in FOLDER, so that the command can be interrupted and repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from stabletrain.report.rerun_commands import PROGRAM, rerun_command

COMMANDS = (
    "experiment=vanishing_depth",
    "model=cnn activation=sigmoid model.depth=8 optimizer=sgd trainer.max_epochs=10",
    "model=mlp optimizer=sgd optimizer.lr=1e-5 trainer.max_epochs=10",
    "model=mlp optimizer=adam optimizer.lr=3 trainer.max_epochs=10",
    "model=mlp optimizer=momentum optimizer.lr=20 trainer.max_epochs=10",
    "model=mlp optimizer=adam optimizer.lr=1e-7 trainer.max_epochs=10",
    "experiment=exploding_time",
    "model=mlp activation=tanh init=normal init.std=3 trainer.max_epochs=10",
    "model=mlp model.depth=12 init=normal init.std=0.01 trainer.max_epochs=10",
    "model=lstm optimizer.lr=1 trainer.max_epochs=5",
)


def run(words: list[str], folder: Path, num_threads: int) -> dict[str, Any]:
    """Run a command; return its verdict, its test accuracy and the first remedy of its first finding."""
    done = folder / "result.json"
    if not done.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "stabletrain", *words, "logger=none", f"output_dir={folder / 'run'}"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(num_threads)}
        code = subprocess.run(command, env=environment, capture_output=True).returncode
        summary = json.loads((folder / "run/summary.json").read_text())
        findings = json.loads((folder / "run/findings.json").read_text())
        first = next((f for f in findings if f["severity"] != "info"), None)
        result = {
            "exit_code": code,
            "verdict": summary["verdict"],
            "accuracy": summary["metrics"].get("test/accuracy"),
            "override": first["overrides"][0] if first and first["overrides"] else "",
        }
        done.write_text(json.dumps(result))
    return json.loads(done.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where results are kept")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sample", type=int, default=len(COMMANDS), help="only so many commands, drawn at random")
    options = parser.parse_args()
    chosen = random.Random(0).sample(range(len(COMMANDS)), options.sample)
    print("| command | verdict | accuracy | first remedy | then | accuracy |\n|---|---|---|---|---|---|")
    for number in sorted(chosen):
        words = COMMANDS[number]
        before = run(shlex.split(words), options.folder / f"{number}-before", options.threads)
        again = rerun_command({"command": f"{PROGRAM} {words}"}, before["override"]).removeprefix(PROGRAM)
        later = options.folder / f"{number}-after"
        after = run(shlex.split(again), later, options.threads) if before["override"] else {}
        cells = [f"`{words}`", before["verdict"], before["accuracy"], f"`{before['override']}`"]
        print("|", *(f"{cell} |" for cell in (*cells, after.get("verdict"), after.get("accuracy"))), flush=True)


if __name__ == "__main__":
    main()
