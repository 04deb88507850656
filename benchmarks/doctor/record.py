"""Train labeled cases again, watched by `st.Doctor`, and store its observations: one npz file per case.

    python -m benchmarks.doctor.record --folder FOLDER
    python -m benchmarks.doctor.record --folder ANOTHER --bare

With `--bare`, the doctor is told nothing but the model. The seed is that of `labels.json`; with `--part PART`, all
seeds of that part whose own outcome is that of the case, unless a sample is drawn. Existing recordings are kept. The
outcome of each run is stored next to it as JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
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


def observe(case: Case, seed: int, bare: bool = False) -> tuple[Observations, float]:
    """Train a case watched by the doctor; return its observations and the points at the end.

    The doctor is given the number of steps, and the prior loss if the loss is a plain mean: a user who sums or weights
    the loss cannot be expected to know it. It also follows the gradient through time. A bare doctor is given nothing.
    """
    run = Run(case, seed)
    if bare:
        doctor = st.Doctor(run.model)
        points = run(Untold(doctor))
    else:
        prior_loss = run.task.prior_loss if case.training.loss_factor == 1.0 else None
        doctor = st.Doctor(run.model, optimizer=run.optimizer, num_steps=case.training.num_steps, prior_loss=prior_loss)
        points = run(doctor)
    observations = doctor.observations
    doctor.detach()
    settings = {**observations.about.settings, **settings_of(case)}
    return replace(observations, about=replace(observations.about, choices=choices_of(case), settings=settings)), points


class Untold:
    """Passes on to a doctor the steps and validations of a run, and nothing else."""

    def __init__(self, doctor: st.Doctor) -> None:
        self.step, self.validate = doctor.step, doctor.validate

    def follow_time(self, *_: Any) -> None:
        """Do nothing."""


def record(job: tuple[Case, int, Path, bool]) -> str:
    """Record a case, unless its recording exists."""
    case, seed, folder, bare = job
    path = folder / file_name(case, seed)
    if not path.is_file():
        observations, points = observe(case, seed, bare)
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
    parser.add_argument("--bare", action="store_true", help="tell the doctor nothing but the model")
    parser.add_argument("--sample", type=int, help="only so many cases, drawn at random, of the part if one is given")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    labels = read_labels()
    cases = [case for case in make_cases() if labels[case.name].word in (BUGGY, HEALTHY)]
    if options.part:
        cases = [case for case in cases if case.part == options.part]
    seeds = {case.name: [labels[case.name].seed] for case in cases}
    if options.sample:
        cases = random.Random(0).sample(cases, min(options.sample, len(cases)))
    elif options.part:
        seeds = {case.name: seeds_of(case, labels[case.name]) for case in cases}
    jobs: list[Any] = [(case, seed, options.folder, options.bare) for case in cases for seed in seeds[case.name]]
    with multiprocessing.get_context("spawn").Pool(options.processes, begin_worker) as pool:
        for count, name in enumerate(pool.imap_unordered(record, jobs), 1):
            if count % 50 == 0:
                print(f"{count} of {len(jobs)} recordings, the last {name}", flush=True)


if __name__ == "__main__":
    main()
