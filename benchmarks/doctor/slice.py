"""Select the small slice of the recordings that the repository contains, on which every change of a rule is tested.

    python -m benchmarks.doctor.slice --folder FOLDER

It has the smallest recordings of each family that the rules get right, with numbers rounded to eight fraction bits.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.doctor.case import Case
from benchmarks.doctor.cases import make_cases
from benchmarks.doctor.labels import BUGGY, HEALTHY, Label, read_labels
from benchmarks.doctor.score import alarms
from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.history import load, save
from stabletrain.diagnosis.observations import Observations, Table

SLICE = Path(__file__).with_name("slice")
MAX_BYTES = 1_000_000
DROPPED_BITS = 15  # of the 23 fraction bits of float32
LEFT_OUT = ("moment", "clip")  # signals that no rule reads by layer


def shorten(values: np.ndarray) -> np.ndarray:
    """Return the numbers rounded to eight fraction bits; non-finite ones are kept."""
    bits = values.astype(np.float32).view(np.uint32)
    rounded = (bits + np.uint32(1 << (DROPPED_BITS - 1))) & np.uint32(0xFFFFFFFF ^ ((1 << DROPPED_BITS) - 1))
    return np.where(np.isfinite(values), rounded.view(np.float32), values.astype(np.float32)).astype(np.float64)


def shorten_all(observations: Observations) -> Observations:
    """Return the observations in compact form."""
    found = {
        name: {key: x._replace(values=shorten(x.values)) for key, x in getattr(observations, name).items()}
        for name in ("rms", "time", "scalars", "units")
    }
    tables: dict[str, Table] = {key: x for key, x in found["rms"].items() if key not in LEFT_OUT}
    kept = {key: x for key, x in observations.nonfinite.items() if key == "gradient"}
    return replace(observations, **{**found, "rms": tables, "nonfinite": kept})


def choose(cases: Iterable[Case], labels: Mapping[str, Label], folder: Path) -> dict[str, Observations]:
    """Return the smallest recording of each family and label that the rules get right."""
    sizes = {case.name: folder / f"{case.digest}-{labels[case.name].seed}.npz" for case in cases}
    by_size = sorted((c for c in cases if sizes[c.name].is_file()), key=lambda c: sizes[c.name].stat().st_size)
    found: dict[tuple[str, str], tuple[str, Observations]] = {}
    for case in by_size:
        key = (case.family, labels[case.name].word)
        if key in found:
            continue
        observations = shorten_all(load(sizes[case.name]))
        if bool(alarms(diagnose(observations))) == (labels[case.name].word == BUGGY):
            found[key] = case.name, observations
    return dict(found.values())


def file_of(name: str) -> Path:
    """Return the path of a recording in the slice."""
    return SLICE / f"{name.replace('/', '--')}.npz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the recordings")
    options = parser.parse_args()
    labels = read_labels()
    cases = [case for case in make_cases() if labels[case.name].word in (BUGGY, HEALTHY)]
    SLICE.mkdir(exist_ok=True)
    for path in SLICE.glob("*.npz"):
        path.unlink()
    size = 0
    for name, observations in choose(cases, labels, options.folder).items():
        save(observations, file_of(name))
        size += file_of(name).stat().st_size
        if size > MAX_BYTES:
            file_of(name).unlink()
            break
    print(f"{len(list(SLICE.glob('*.npz')))} recordings, {size:,} bytes")


if __name__ == "__main__":
    main()
