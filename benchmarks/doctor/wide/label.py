"""Train every candidate unwatched, and label it by its outcome.

    python -m benchmarks.doctor.wide.label --folder FOLDER

Results are stored in FOLDER by case and seed, so that the command can be interrupted and repeated. Labels are written
to `benchmarks/doctor/wide/labels.json` after each seed: of every case that has so many results, as its reference has.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from benchmarks.doctor.label import begin_worker, or_none
from benchmarks.doctor.labels import Label, Outcome, label_all, read_labels, write_labels
from benchmarks.doctor.wide.case import NUM_SEEDS, PARTS, Case
from benchmarks.doctor.wide.cases import make_cases
from benchmarks.doctor.wide.run import Run

LABELS = Path(__file__).with_name("labels.json")


def path_of(case: Case, seed: int, folder: Path) -> Path:
    """Return where the result of a run is stored."""
    return folder / f"{case.digest}-{seed}.json"


def train(job: tuple[Case, int, Path]) -> str:
    """Train a case with one seed, unless its result exists, and store the points."""
    case, seed, folder = job
    path = path_of(case, seed, folder)
    if not path.is_file():
        start = time.process_time()
        points = Run(case, seed)()
        facts = {"name": case.name, "points": or_none(points), "seconds": round(time.process_time() - start, 2)}
        path.with_suffix(".part").write_text(json.dumps(facts))
        path.with_suffix(".part").rename(path)
    return case.name


def read_outcomes(cases: Iterable[Case], folder: Path, num_seeds: int) -> dict[str, Outcome]:
    """Return the points of the first seeds of each case that has results for all of them."""
    paths = {case.name: [path_of(case, seed, folder) for seed in case.seeds[:num_seeds]] for case in cases}
    done = {name: found for name, found in paths.items() if all(path.is_file() for path in found)}
    return {
        name: Outcome(tuple(json.loads(path.read_text())["points"] for path in found)) for name, found in done.items()
    }


def label_known(cases: Iterable[Case], outcomes: dict[str, Outcome]) -> dict[str, Label]:
    """Return the labels of the cases that have an outcome, as their reference has."""
    known = [case for case in cases if case.name in outcomes and case.reference in outcomes]
    return label_all(known, outcomes)  # pyright: ignore[reportArgumentType]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where results are kept")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part; the labels of the others stay")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=NUM_SEEDS, help="train the first so many seeds only")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    cases = [case for case in make_cases() if case.part in (options.part or PARTS)]
    labels = read_labels(LABELS) if LABELS.is_file() else {}
    with multiprocessing.get_context("spawn").Pool(options.processes, begin_worker) as pool:
        for num_seeds in range(1, options.seeds + 1):  # all cases with one seed, then the next: results come early
            jobs = [(case, case.seeds[num_seeds - 1], options.folder) for case in cases]
            for count, name in enumerate(pool.imap_unordered(train, jobs, chunksize=4), 1):
                if count % 50 == 0:
                    print(f"seed {num_seeds}: {count} of {len(jobs)} runs, the last {name}", flush=True)
            labels |= label_known(cases, read_outcomes(cases, options.folder, num_seeds))
            write_labels(labels, LABELS)
            print(f"{num_seeds} seeds:", dict(Counter(label.word for label in labels.values())), flush=True)


if __name__ == "__main__":
    main()
