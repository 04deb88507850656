"""Measure the cost of watching every layer on every step: the time of a training step with and without it.

All methods take turns in one process, in random order. Each block of watched steps is paired with a block of unwatched
steps of the same model, right before or after it; the tables show the median and the quartiles of the ratios over all
pairs. The third table contains only the time inside stabletrain's calls. This leaves out their effect on the caches but
does not depend on other load on the machine; it is taken over intervals as long as several flushes of the file. On a
GPU, a step is timed with CUDA events. W&B and Cockpit are compared if they are installed:

    pip install wandb cockpit-for-pytorch 'setuptools<80'
    python benchmarks/watching.py --rounds 40

The results are written to `watching.json` (on a GPU `watching_cuda.json`), which `docs/make_pictures.py` draws.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from watching_growth import grow
from watching_lightning import OPTIONS, compare_in_lightning
from watching_variants import Histograms, Variant, open_variants
from watching_workloads import ON_CPU, ON_CUDA, WORKLOADS, Stepper

BLOCK_S, LONGEST_S = 0.4, 1.0  # of an unwatched block, and the upper limit of a watched one
STRETCH_S = 10.0  # of uninterrupted watching: the file is flushed every two seconds
PICTURES = Path(__file__).parents[1] / "docs/pictures"


def time_block(stepper: Stepper, num_steps: int) -> float:
    """Return the milliseconds per step."""
    if stepper.device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(num_steps):
            stepper.step()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / num_steps
    begin = time.perf_counter()
    for _ in range(num_steps):
        stepper.step()
    return 1e3 * (time.perf_counter() - begin) / num_steps


def time_watched(variant: Variant, num_steps: int) -> tuple[float, float]:
    """Return the milliseconds per step, in total and inside the call."""
    stepper = variant.stepper
    stepper.step()
    variant.begin()
    stepper.look_s = 0.0
    ms = time_block(stepper, num_steps)
    variant.end()
    return ms, 1e3 * stepper.look_s / num_steps


def time_plain(stepper: Stepper, num_steps: int) -> float:
    stepper.step()
    return time_block(stepper, num_steps)


def compare(stepper: Stepper, variants: dict[str, Variant], num_steps: int, rounds: int) -> dict[str, Any]:
    """Return what each variant adds to a step in percent, and for stabletrain's what its calls alone add."""
    ratios: dict[str, list[float]] = {title: [] for title in variants}
    plain, watched_steps = [], {title: _num_steps(variant, num_steps) for title, variant in variants.items()}
    for _ in range(rounds):
        for title in random.sample(list(variants), len(variants)):
            on = off = 0.0
            for is_watched in random.sample([True, False], 2):
                if is_watched:
                    on = time_watched(variants[title], watched_steps[title])[0]
                else:
                    off = time_plain(stepper, num_steps)
            ratios[title].append(on / off)
            plain.append(off)
    step_ms = statistics.median(plain)
    own = {title: variant for title, variant in variants.items() if isinstance(variant, Histograms)}
    return {
        "step_ms": step_ms,
        "variants": {title: summary(found) for title, found in ratios.items()},
        "calls": time_calls(own, max(2, round(1e3 * STRETCH_S / step_ms)), max(3, rounds // 3)),
    }


def time_calls(variants: dict[str, Histograms], num_steps: int, num_stretches: int) -> dict[str, Any]:
    """Return what the calls of each variant add to a step in percent, over long intervals in turn."""
    ratios: dict[str, list[float]] = {title: [] for title in variants}
    for _ in range(num_stretches):
        for title in random.sample(list(variants), len(variants)):
            ms, call = time_watched(variants[title], num_steps)
            ratios[title].append(ms / (ms - call))
    return {title: summary(found) for title, found in ratios.items()}


def _num_steps(variant: Variant, num_steps: int) -> int:
    """Warm up; return the number of watched steps in a block."""
    ms = min(time_watched(variant, 1)[0] for _ in range(2))
    return max(1, min(num_steps, round(1e3 * LONGEST_S / ms)))


def summary(ratios: list[float]) -> dict[str, float]:
    low, middle, high = (100 * (float(q) - 1) for q in np.quantile(ratios, [0.25, 0.5, 0.75]))
    return {"percent": middle, "low": low, "high": high}


def examine(name: str, device: torch.device, rounds: int, folder: Path) -> dict[str, Any]:
    """Compare all variants on one workload, then the callback in Lightning."""
    stepper = Stepper(WORKLOADS[name], device)
    time_plain(stepper, 2)
    num_steps = max(2, round(1e3 * BLOCK_S / min(time_plain(stepper, 2) for _ in range(3))))
    with open_variants(stepper, folder) as (variants, missing):
        result = compare(stepper, variants, num_steps, rounds)
    lightning = {
        option: summary(compare_in_lightning(stepper, option, num_steps, _share(option, rounds), folder / str(number)))
        for number, option in enumerate(OPTIONS)
    }
    about = {
        "title": WORKLOADS[name].title,
        "num_tensors": stepper.num_tensors,
        "num_parameters": stepper.num_parameters,
    }
    return about | result | {"missing": missing, "lightning": lightning}


def _share(option: str, rounds: int) -> int:
    return rounds if OPTIONS[option][1] == 1 else max(2, rounds // 8)  # the others have long blocks


def about_machine(device: torch.device, rounds: int) -> dict[str, Any]:
    processor = platform.processor() or platform.machine()
    cpu = Path("/proc/cpuinfo")
    if cpu.is_file():
        names = [line.partition(":")[2].strip() for line in cpu.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor,
        "num_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rounds": rounds,
    }


def cell(found: dict[str, float] | None) -> str:
    if found is None:
        return "–"
    digits = 0 if abs(found["percent"]) >= 20 else 1
    return f"{found['percent']:+.{digits}f}% ({found['low']:+.{digits}f} … {found['high']:+.{digits}f})"


def print_table(workloads: dict[str, Any], kind: str) -> None:
    """Print one row per workload and one column per method."""
    columns = list(dict.fromkeys(title for found in workloads.values() for title in found[kind]))
    print(f"\n| workload | tensors | parameters | ms per step | {' | '.join(columns)} |")
    print("|---" * (4 + len(columns)) + "|")
    for found in workloads.values():
        cells = [cell(found[kind].get(title)) for title in columns]
        about = [found["title"], found["num_tensors"], f"{found['num_parameters']:,}", f"{found['step_ms']:.1f}"]
        print("| " + " | ".join(map(str, [*about, *cells])) + " |")


def print_growth(growth: dict[str, Any]) -> None:
    for axis, found in growth.items():
        points = ", ".join(f"{size:,}: {ms:.2f}" for size, ms in zip(found["sizes"], found["ms"], strict=True))
        print(f"\nms per snapshot by {axis}: {points}; slope {found['slope']:.2f}, last {found['last_slope']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what watching every layer on every step costs.")
    parser.add_argument("--rounds", type=int, default=40, help="pairs of blocks per method (40)")
    parser.add_argument("--quick", action="store_true", help="3 rounds, as a smoke test")
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), help="by default those of the device")
    parser.add_argument("--out", type=Path, default=PICTURES, help="folder of the JSON file (docs/pictures)")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rounds = 3 if arguments.quick else arguments.rounds
    torch.manual_seed(0)
    random.seed(0)
    names = arguments.workloads or (ON_CUDA if device.type == "cuda" else ON_CPU)
    results: dict[str, Any] = {"machine": about_machine(device, rounds), "workloads": {}}
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            results["workloads"][name] = examine(name, device, rounds, Path(temporary, name))
        results["growth"] = grow(rounds, Path(temporary, "growth"), device)
    for kind in ("variants", "lightning", "calls"):
        print_table(results["workloads"], kind)
    print_growth(results["growth"])
    for found in results["workloads"].values():
        for title, why in found["missing"].items():
            print(f"\n{found['title']}: no {title}: {why}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / ("watching_cuda.json" if device.type == "cuda" else "watching.json")
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
