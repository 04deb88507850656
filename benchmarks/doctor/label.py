"""Train every candidate unwatched, with five seeds each, and label it by its outcome.

    python -m benchmarks.doctor.label --folder FOLDER

Results are stored in FOLDER by case and seed, so that the command can be interrupted and repeated. Labels are written
to `benchmarks/doctor/labels.json` after each seed.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import time
from collections import Counter
from pathlib import Path

import torch

from benchmarks.doctor.case import NUM_SEEDS, Case
from benchmarks.doctor.cases import make_cases
from benchmarks.doctor.labels import Outcome, label_all, write_labels
from benchmarks.doctor.run import Run

NICE = 10


def train(job: tuple[Case, int, Path]) -> str:
    """Train a case with one seed, unless its result exists, and store the points."""
    case, seed, folder = job
    path = folder / f"{case.digest}-{seed}.json"
    if not path.is_file():
        start = time.process_time()
        points = Run(case, seed)()
        facts = {"name": case.name, "points": or_none(points), "seconds": round(time.process_time() - start, 2)}
        path.with_suffix(".part").write_text(json.dumps(facts))
        path.with_suffix(".part").rename(path)
    return case.name


def or_none(points: float) -> float | None:
    """Return the points for JSON: rounded, None for NaN."""
    return None if math.isnan(points) else round(points, 2)


def read_outcome(case: Case, folder: Path, num_seeds: int) -> Outcome:
    """Return the points of the first `num_seeds` seeds."""
    paths = [folder / f"{case.digest}-{seed}.json" for seed in case.seeds[:num_seeds]]
    return Outcome(tuple(json.loads(path.read_text())["points"] for path in paths))


def begin_worker() -> None:
    """Use one thread at low priority."""
    os.nice(max(0, NICE - os.nice(0)))
    torch.set_num_threads(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where results are kept")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=NUM_SEEDS, help="train the first so many seeds only")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    cases = make_cases()
    with multiprocessing.get_context("spawn").Pool(options.processes, begin_worker) as pool:
        for num_seeds in range(1, options.seeds + 1):  # all cases with one seed, then the next: results come early
            jobs = [(case, case.seeds[num_seeds - 1], options.folder) for case in cases]
            for count, name in enumerate(pool.imap_unordered(train, jobs), 1):
                if count % 50 == 0:
                    print(f"seed {num_seeds}: {count} of {len(jobs)} runs, the last {name}", flush=True)
            labels = label_all(cases, {case.name: read_outcome(case, options.folder, num_seeds) for case in cases})
            write_labels(labels)
            print(f"{num_seeds} seeds:", dict(Counter(label.word for label in labels.values())), flush=True)


if __name__ == "__main__":
    main()
