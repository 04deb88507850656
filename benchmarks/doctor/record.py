"""Train labeled cases again, watched by `st.Doctor`, and store its observations: one npz file per case.

    python -m benchmarks.doctor.record --folder FOLDER

The seed is that of `labels.json`; with `--part PART`, all seeds of that part whose own outcome is that of the case.
Existing recordings are kept. The outcome of each run is stored next to it as JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import stabletrain as st
from benchmarks.doctor.case import PARTS, Case
from benchmarks.doctor.cases import make_cases
from benchmarks.doctor.composition import choices_of, settings_of
from benchmarks.doctor.label import begin_worker, or_none
from benchmarks.doctor.labels import BUGGY, HEALTHY, read_labels, seeds_of
from benchmarks.doctor.run import Run
from stabletrain.diagnosis.history import save
from stabletrain.diagnosis.observations import Observations


def file_name(case: Case, seed: int) -> str:
    """Return the file name of a recording."""
    return f"{case.digest}-{seed}.npz"


def observe(case: Case, seed: int) -> tuple[Observations, float]:
    """Train a case watched by the doctor; return its observations and the points at the end.

    The doctor is given the number of steps, and the prior loss if the loss is a plain mean: a user who sums or weights
    the loss cannot be expected to know it.
    """
    run = Run(case, seed)
    prior_loss = run.task.prior_loss if case.training.loss_factor == 1.0 else None
    doctor = st.Doctor(run.model, optimizer=run.optimizer, num_steps=case.training.num_steps, prior_loss=prior_loss)
    points = run(doctor)
    observations = doctor.observations
    doctor.detach()
    settings = {**observations.about.settings, **settings_of(case)}
    return replace(observations, about=replace(observations.about, choices=choices_of(case), settings=settings)), points


def record(job: tuple[Case, int, Path]) -> str:
    """Record a case, unless its recording exists."""
    case, seed, folder = job
    path = folder / file_name(case, seed)
    if not path.is_file():
        observations, points = observe(case, seed)
        part = path.with_name(f"part-{path.name}")
        save(observations, part)
        part.rename(path)
        facts = {"name": case.name, "seed": seed, "points": or_none(points)}
        path.with_suffix(".json").write_text(json.dumps(facts))
    return case.name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the recordings")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--part", choices=PARTS, help="all seeds of this part")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    labels = read_labels()
    cases = [case for case in make_cases() if labels[case.name].word in (BUGGY, HEALTHY)]
    jobs: list[Any] = [(case, labels[case.name].seed, options.folder) for case in cases]
    if options.part:
        chosen = [case for case in cases if case.part == options.part]
        jobs = [(case, seed, options.folder) for case in chosen for seed in seeds_of(case, labels[case.name])]
    with multiprocessing.get_context("spawn").Pool(options.processes, begin_worker) as pool:
        for count, name in enumerate(pool.imap_unordered(record, jobs), 1):
            if count % 50 == 0:
                print(f"{count} of {len(jobs)} recordings, the last {name}", flush=True)


if __name__ == "__main__":
    main()
