"""Measure which networks train faster on two threads than on one: the calibration of `threads=auto`.

For every composition, blocks of steps on one and on two threads take turns in random order in one process. A process of
its own measures each way of waiting, since OpenMP reads its environment when it is loaded: `asleep`
(OMP_WAIT_POLICY=PASSIVE, which the command sets) and `spinning` (OpenMP's default).

| column | meaning |
|---|---|
| products | millions of multiply-adds of an average matrix product over a batch: what `threads=auto` goes by |
| auto | threads that `threads=auto` chooses here |
| ms | median milliseconds of a step on one thread, with the quartiles |
| wall | the time on one thread over that on two: above 1, two threads pay |
| CPU | the processor time on two threads over that on one |
| bound | processor time of the calling thread, one over two: no other load changes it, `wall` cannot exceed it |

    python benchmarks/threads.py                       # on an idle machine, 3 minutes
    python benchmarks/threads.py --busy 4              # beside four busy processes
    python benchmarks/threads.py --only 'model=rnn' 'model=transformer data=text'
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from busy_load import busy_processes

ROOT = Path(__file__).parents[1]
COMPOSITIONS = (
    "model=mlp",
    "model=mlp model.width=256",
    "model=mlp model.width=256 data.batch_size=256",
    "model=mlp model.width=1024",
    "model=rnn",
    "model=lstm",
    "model=lstm data=adding model.width=128",
    "model=lstm model.width=256",
    "model=lstm model.width=512",
    "model=gru model.width=128 data.batch_size=128",
    "model=cnn",
    "model=cnn data=mnist_small",
    "model=resnet",
    "model=resnet data=mnist_small",
    "model=densenet1d data.form=pixels",
    "model=transformer",
    "model=transformer data=text",
    "model=transformer data=text model.width=128",
)
WAITING = {"asleep": "PASSIVE", "spinning": None}
BLOCK_S = 0.05
NOT_OURS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def make_step(composition: str) -> tuple[Any, float | None]:
    """Return a function that trains one step of a composition, and the multiply-adds of its average product."""
    import torch
    from torch.nn import functional

    from stabletrain.app.building.build import build
    from stabletrain.app.building.build_data import examples_of
    from stabletrain.app.composition.compose import compose
    from stabletrain.torch_tools.multiply_adds import mean_multiply_adds

    built = build(compose(composition.split()).config)
    network, data = built.network.train(), built.data
    products = mean_multiply_adds(network, examples_of(data, 2), data.batch_size)
    pairs = [data.train[i] for i in range(data.batch_size)]
    inputs, targets = torch.stack([x for x, _ in pairs]), torch.stack([y for _, y in pairs])
    optimizer = torch.optim.Adam(network.parameters())

    def step() -> None:
        optimizer.zero_grad()
        outputs = network(inputs)
        if data.task == "regression":
            loss = functional.mse_loss(outputs, targets)
        else:
            loss = functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())
        loss.backward()
        optimizer.step()

    return step, products


def measure(composition: str, seconds: float) -> dict[str, Any]:
    """Return the row of one composition."""
    import torch

    from stabletrain.app.building.build_on_threads import choose_num_threads

    torch.set_num_threads(1)
    step, products = make_step(composition)
    for _ in range(3):
        step()
    start = time.perf_counter()
    step()
    num_steps = max(1, int(BLOCK_S / (time.perf_counter() - start)))
    found: dict[int, list[tuple[float, float, float]]] = {1: [], 2: []}
    while time.perf_counter() - start < seconds or len(found[2]) < 5:
        for num_threads in random.sample([1, 2], 2):
            torch.set_num_threads(num_threads)
            step()
            begin = time.perf_counter(), time.process_time(), time.thread_time()
            for _ in range(num_steps):
                step()
            end = time.perf_counter(), time.process_time(), time.thread_time()
            found[num_threads].append(tuple(1e3 * (b - a) / num_steps for a, b in zip(begin, end, strict=True)))  # pyright: ignore
    wall, cpu, own = (
        {n: statistics.median(block[i] for block in blocks) for n, blocks in found.items()} for i in range(3)
    )
    lower, _, upper = statistics.quantiles([block[0] for block in found[1]], n=4)
    return {
        "composition": composition,
        "products": None if products is None else products / 1e6,
        "auto": choose_num_threads(products, 2),
        "ms": (wall[1], lower, upper),
        "wall": wall[1] / wall[2],
        "cpu": cpu[2] / cpu[1],
        "bound": own[1] / own[2],
    }


def measure_apart(compositions: list[str], seconds: float, policy: str | None) -> list[dict[str, Any]]:
    """Measure in a process of its own, whose threads wait as asked."""
    environment = {k: v for k, v in os.environ.items() if k not in NOT_OURS} | {"PYTHONPATH": str(ROOT)}
    if policy is not None:
        environment["OMP_WAIT_POLICY"] = policy
    line = [sys.executable, "-W", "ignore", __file__, "--inside", "--seconds", str(seconds), "--only", *compositions]
    output = subprocess.run(line, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout
    return [json.loads(row) for row in output.splitlines() if row.startswith("{")]


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table of one way of waiting."""
    print("| composition | products, M | auto | ms (1 thread) | wall | CPU | bound |\n|---|---|---|---|---|---|---|")
    for r in rows:
        median, lower, upper = r["ms"]
        products = "?" if r["products"] is None else f"{r['products']:.1f}"
        print(
            f"| `{r['composition']}` | {products} | {r['auto']} | {median:.1f} ({lower:.1f}–{upper:.1f}) "
            f"| {r['wall']:.2f} | {r['cpu']:.2f} | {r['bound']:.2f} |"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(COMPOSITIONS), metavar="OVERRIDES")
    parser.add_argument("--seconds", type=float, default=3.0, help="per composition and way of waiting")
    parser.add_argument("--busy", type=int, default=0, help="busy processes beside")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        for composition in given.only:
            print(json.dumps(measure(composition, given.seconds)), flush=True)
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {given.busy} busy processes")
    with busy_processes(given.busy):
        for title, policy in WAITING.items():
            print(f"\nThreads wait {title}:\n")
            show(measure_apart(given.only, given.seconds, policy))


if __name__ == "__main__":
    main()
