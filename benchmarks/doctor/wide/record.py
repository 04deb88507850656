"""Train labeled cases again, watched by `st.Doctor`, and store what it observed: one npz file per case and network.

    python -m benchmarks.doctor.wide.record --folder FOLDER

Each case is recorded twice: `bare`, by `st.Doctor(model)` alone, and `told`, where the doctor is given the optimizer,
the number of steps, and the prior loss if a user would know it. A program with two networks has a doctor for each.
Existing recordings are kept: after a change of what the doctor observes, record into a new folder.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from pathlib import Path

import stabletrain as st
from benchmarks.doctor.label import begin_worker, or_none
from benchmarks.doctor.labels import BUGGY, HEALTHY, read_labels
from benchmarks.doctor.wide.case import PARTS, Case
from benchmarks.doctor.wide.cases import make_cases
from benchmarks.doctor.wide.label import LABELS
from benchmarks.doctor.wide.run import Run
from stabletrain.diagnosis.history import save
from stabletrain.diagnosis.observations import Observations

BARE, TOLD = "bare", "told"
LINES = (BARE, TOLD)


def file_name(case: Case, seed: int, line: str, network: str) -> str:
    """Return the file name of a recording."""
    return f"{case.digest}-{seed}-{line}-{network}.npz"


def make_doctors(run: Run, line: str) -> dict[str, st.Doctor]:
    """Return a doctor for each network of a run."""
    networks = run.program.networks
    if line == BARE:
        return {name: st.Doctor(network) for name, network in networks.items()}
    factor = run.settings.loss_factor
    prior_loss = run.program.prior_loss if factor == 1.0 and len(networks) == 1 else None
    return {
        name: st.Doctor(network, optimizer=run.optimizers[name], num_steps=run.num_steps, prior_loss=prior_loss)
        for name, network in networks.items()
    }


def observe(case: Case, seed: int, line: str) -> tuple[dict[str, Observations], float]:
    """Train a case watched; return what each network's doctor observed, and the points at the end."""
    run = Run(case, seed)
    doctors = make_doctors(run, line)
    points = run(doctors)
    found = {name: doctor.observations for name, doctor in doctors.items()}
    for doctor in doctors.values():
        doctor.detach()
    return found, points


def record(job: tuple[Case, int, str, Path]) -> str:
    """Record a case, unless its recording exists."""
    case, seed, line, folder = job
    facts = folder / f"{case.digest}-{seed}-{line}.json"
    if not facts.is_file():
        observations, points = observe(case, seed, line)
        for network, seen in observations.items():
            save(seen, folder / file_name(case, seed, line, network))
        text = {"name": case.name, "seed": seed, "points": or_none(points), "networks": list(observations)}
        facts.write_text(json.dumps(text))
    return case.name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the recordings")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part")
    parser.add_argument("--line", choices=LINES, action="append", help="only this way to make the doctor")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    labels = read_labels(LABELS)
    cases = [c for c in make_cases() if c.part in (options.part or PARTS) and c.name in labels]
    chosen = [c for c in cases if labels[c.name].word in (BUGGY, HEALTHY)]
    jobs = [(c, labels[c.name].seed, line, options.folder) for line in options.line or LINES for c in chosen]
    with multiprocessing.get_context("spawn").Pool(options.processes, begin_worker) as pool:
        for count, name in enumerate(pool.imap_unordered(record, jobs, chunksize=4), 1):
            if count % 50 == 0:
                print(f"{count} of {len(jobs)} recordings, the last {name}", flush=True)


if __name__ == "__main__":
    main()
