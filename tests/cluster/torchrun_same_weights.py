"""Compare the last checkpoints of two runs, bit for bit: weights, optimizer, step.

usage: python torchrun_same_weights.py RUN RUN
"""

import sys
from pathlib import Path

import torch


def leaves(value: object, name: str = "") -> dict[str, object]:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in leaves(item, f"{name}.{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, item in enumerate(value) for k, v in leaves(item, f"{name}.{i}").items()}
    return {name: value}


def load(run: str) -> dict[str, object]:
    state = torch.load(Path(run, "checkpoints", "last.ckpt"), map_location="cpu", weights_only=True)
    return leaves({key: state[key] for key in ("state_dict", "optimizer_states", "epoch", "global_step")})


def main(one: str, other: str) -> None:
    a, b = load(one), load(other)
    assert a.keys() == b.keys(), a.keys() ^ b.keys()
    for name, value in a.items():
        same = torch.equal(value, b[name]) if isinstance(value, torch.Tensor) else value == b[name]
        assert same, f"{name} differs"
    print(f"seen: {len(a)} values of {one} and {other} are the same after step {a['.global_step']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
