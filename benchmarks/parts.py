"""The cost of a model part: the time of a training step with it, relative to the same network without it.

The options of a group take turns in one process on one core, so that other load slows all of them alike. Printed is the
median over rounds of the ratio to the group's first option in the same round.

    python benchmarks/parts.py norm 40
"""

from __future__ import annotations

import statistics
import sys
import time

import torch
from torch import nn

from stabletrain.errors import RequestError
from stabletrain.network import CNN, GRU, LSTM, MLP, RNN, DenseNet1d, Parts, ResNet, Transformer
from stabletrain.network.activation import ACTIVATIONS
from stabletrain.network.normalization import NORMS, LayerNorm, NoNorm
from stabletrain.network.residual import (
    AddResidual,
    DeepNormResidual,
    DenseResidual,
    HighwayResidual,
    LayerScaleResidual,
    NoResidual,
    ReZeroResidual,
    ScaledResidual,
)
from stabletrain.network.surgery.reparametrization import find_reparametrization, reparametrize_

RESIDUALS = {
    "none": NoResidual,
    "add": AddResidual,
    "scaled": ScaledResidual,
    "rezero": ReZeroResidual,
    "layerscale": LayerScaleResidual,
    "deepnorm": DeepNormResidual,
    "highway": HighwayResidual,
    "dense": DenseResidual,
}
ACTIVATION_ORDER = ["identity", *sorted(set(ACTIVATIONS) - {"identity"})]
STEPS = 3  # per round

# Network and input shape of each column; batches of 64.
NETWORKS = {
    "mlp": (lambda p: MLP(64, 10, p, depth=8, width=256), (64, 64)),
    "cnn": (lambda p: CNN(3, 10, p, depth=4, width=32), (64, 3, 16, 16)),
    "lstm": (lambda p: LSTM(8, 10, p, depth=2, width=64, implementation="unrolled"), (64, 16, 8)),
    "transformer": (lambda p: Transformer(8, 10, p, depth=2, width=64), (64, 32, 8)),
}


def build(group: str, option: str, network: str) -> nn.Module | None:
    """Build one network; return None if it does not support the option."""
    activation, norm, residual = nn.Tanh, NoNorm, NoResidual
    if network == "transformer":
        norm, residual = LayerNorm, AddResidual
    if group == "activation":
        activation = ACTIVATIONS[option]
    elif group == "norm":
        norm = NORMS[option]
    else:
        residual = RESIDUALS[option]
    parts = Parts(activation, norm, residual)
    make = NETWORKS[network][0]
    if option == "deepnorm" and network == "transformer":
        make = lambda p: Transformer(8, 10, p, depth=2, width=64, placement="post")  # noqa: E731
    try:
        model = make(parts)
    except RequestError:
        return None
    kind = find_reparametrization(norm(8))
    return reparametrize_(model, kind) if kind else model


class Stepper:
    """Takes training steps of one network."""

    def __init__(self, model: nn.Module, shape: tuple[int, ...]) -> None:
        self.model = model
        self.x = torch.randn(shape)
        self.target = torch.randint(10, (shape[0],))
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step(self) -> None:
        loss = nn.functional.cross_entropy(self.model(self.x), self.target)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def time_s(self) -> float:
        start = time.perf_counter()
        for _ in range(STEPS):
            self.step()
        return (time.perf_counter() - start) / STEPS


def compare(steppers: dict[str, Stepper], rounds: int) -> dict[str, tuple[float, float]]:
    """Return the median ratio to the first and the median time of a step in milliseconds, for each."""
    for stepper in steppers.values():
        stepper.time_s()
    times: dict[str, list[float]] = {name: [] for name in steppers}
    for _ in range(rounds):
        for name, stepper in steppers.items():
            times[name].append(stepper.time_s())
    first = next(iter(times.values()))
    ratios = {name: [t / f for t, f in zip(row, first, strict=True)] for name, row in times.items()}
    return {name: (statistics.median(ratios[name]), 1e3 * statistics.median(times[name])) for name in steppers}


def print_group(group: str, rounds: int) -> None:
    options = {"activation": ACTIVATION_ORDER, "norm": list(NORMS), "residual": list(RESIDUALS)}[group]
    columns: dict[str, dict[str, tuple[float, float]]] = {}
    for network, (_, shape) in NETWORKS.items():
        built = {option: build(group, option, network) for option in options}
        steppers = {option: Stepper(model, shape) for option, model in built.items() if model is not None}
        columns[network] = compare(steppers, rounds)
    print("| option | " + " | ".join(NETWORKS) + " |")
    for option in options:
        cells = [f"{columns[n][option][0]:.2f}" if option in columns[n] else "–" for n in NETWORKS]
        print(f"| {option} | " + " | ".join(cells) + " |")


def print_families(rounds: int) -> None:
    """Compare all families at their default sizes, on batches of 64: sequences of 8 steps of 8, or 8 × 8 images."""
    steppers = {
        "mlp": Stepper(MLP(64, 10), (64, 64)),
        "rnn": Stepper(RNN(8, 10), (64, 8, 8)),
        "lstm": Stepper(LSTM(8, 10), (64, 8, 8)),
        "gru": Stepper(GRU(8, 10), (64, 8, 8)),
        "cnn": Stepper(CNN(1, 10), (64, 1, 8, 8)),
        "resnet": Stepper(ResNet(1, 10), (64, 1, 8, 8)),
        "densenet1d": Stepper(DenseNet1d(8, 10), (64, 8, 8)),
        "transformer": Stepper(Transformer(8, 10), (64, 8, 8)),
        "lstm unrolled": Stepper(LSTM(8, 10, implementation="unrolled"), (64, 8, 8)),
        "gru unrolled": Stepper(GRU(8, 10, implementation="unrolled"), (64, 8, 8)),
        "rnn unrolled": Stepper(RNN(8, 10, implementation="unrolled"), (64, 8, 8)),
    }
    print("| family | parameters | ms per step | over mlp |")
    for name, (ratio, ms) in compare(steppers, rounds).items():
        count = sum(p.numel() for p in steppers[name].model.parameters())
        print(f"| {name} | {count:,} | {ms:.1f} | {ratio:.1f} |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    chosen, count = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 40
    if chosen == "model":
        print_families(count)
    else:
        print_group(chosen, count)
