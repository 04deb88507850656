"""On two processes, counts over FSDP2 shards add up to those of the full gradient; under DDP it is counted once."""

from __future__ import annotations

import copy
import os
import re
import traceback
import warnings
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import nn

import stabletrain
from stabletrain.signal.kernels.reduce import measure_tensors
from stabletrain.signal.watch import Watch
from stabletrain.vocabulary.signals import SIGNALS


class Network(nn.Module):
    """A network with odd sizes, and a first axis of size 1, which results in an empty shard on the second process."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 5)
        self.rnn = nn.LSTM(5, 3, batch_first=True)
        self.narrow = nn.Linear(3, 1)
        self.head = nn.Linear(1, 5)

    def forward(self, x):
        return self.head(self.narrow(self.rnn(self.embedding(x))[0][:, -1]))


def run(network, plain, batch, rank):
    """Take one step on one process; return the snapshot and the full gradients."""
    x, y = batch
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.1)
    watch = Watch(network, optimizer=optimizer, signals=[s for s in SIGNALS if s not in ("activation", "delta")])
    nn.functional.cross_entropy(network(x), y).backward()
    snapshot = watch.step()
    gathered = [whole(p.grad) for p in plain.parameters()]
    optimizer.step()
    return snapshot, gathered


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.clone()


def batches():
    torch.manual_seed(1)
    return [(torch.randint(0, 7, (4, 6)), torch.randint(0, 5, (4,))) for _ in range(2)]


def check_fsdp(rank):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    network = Network()
    fully_shard(network, mesh=init_device_mesh("cpu", (2,)))
    snapshot, gathered = run(network, network, batches()[rank], rank)
    order = [x.layer.partition(".")[2] for x in snapshot.layers]
    by_path = dict(zip((n for n, _ in network.named_parameters()), gathered, strict=True))
    expected = measure_tensors([x.layer for x in snapshot.layers], [by_path[p] for p in order], histograms=True)
    for found, reference in zip(snapshot.layers, expected, strict=True):
        assert found.histogram == reference.histogram, found.layer  # exactly, signs and special values too
        assert (found.size, found.num_nonfinite) == (reference.size, reference.num_nonfinite)
        assert found.rms == pytest.approx(reference.rms, rel=1e-9)
    own = [p.grad.to_local().numel() for p in network.parameters()]
    assert sum(own) < sum(x.size for x in snapshot.layers)  # negative control: no process holds all elements
    for signal in ("weight", "update", "moment", "clip"):
        sizes = [x.size for x in snapshot.signals[signal]]
        assert sizes == [x.size for x in snapshot.layers], signal
    assert snapshot.update_ratios.keys() == {x.layer for x in snapshot.layers}


def check_ddp(rank):
    torch.manual_seed(0)
    network = Network()
    alone = copy.deepcopy(network)
    wrapped = nn.parallel.DistributedDataParallel(network)
    snapshot, gathered = run(wrapped, network, batches()[rank], rank)
    x, y = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    nn.functional.cross_entropy(alone(x), y).backward()
    assert [s.size for s in snapshot.layers] == [p.numel() for p in alone.parameters()]  # once, not once per process
    expected = measure_tensors([s.layer for s in snapshot.layers], gathered, histograms=True)
    assert snapshot.layers == expected
    for statistics, parameter in zip(snapshot.layers, alone.parameters(), strict=True):
        assert statistics.rms == pytest.approx(float(parameter.grad.double().square().mean().sqrt()), rel=1e-4)


def check_mixed(rank):
    """Measure sharded (on either axis), replicated, partial, plain, empty, bfloat16 and non-finite tensors at once."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    plain = [torch.randn(5, 4), torch.randn(3, 6), torch.randn(7), torch.randn(2, 2), torch.empty(0), torch.randn(9)]
    plain[0][4, 3], plain[1][0, 0], plain[5][8] = float("nan"), -float("inf"), 1e-42
    plain[5] = plain[5].bfloat16()
    tensors = [
        distribute_tensor(plain[0], mesh, [Shard(0)]),
        distribute_tensor(plain[1], mesh, [Shard(1)]),
        distribute_tensor(plain[2], mesh, [Replicate()]),
        DTensor.from_local(plain[3] * (0.25 if rank else 0.75), mesh, [Partial()]),
        plain[4],
        distribute_tensor(plain[5], mesh, [Shard(0)]),
    ]
    from stabletrain.signal.kernels.shards import measure_shards

    layers = [f"L{i:02d}" for i in range(len(plain))]
    found, expected = measure_shards(layers, tensors, histograms=True), measure_tensors(layers, plain, histograms=True)
    for one, other in zip(found, expected, strict=True):
        assert one.histogram == other.histogram, one.layer
        assert one.rms == (None if other.rms is None else pytest.approx(other.rms, rel=1e-6))
    norms = measure_shards(layers, tensors, histograms=False)
    assert [x.num_nonfinite for x in norms] == [1, 1, 0, 0, 0, 0]
    assert norms[0].histogram is None


TASKS = {"fsdp": check_fsdp, "ddp": check_ddp, "mixed": check_mixed}


def work(rank, folder):
    warnings.simplefilter("ignore")  # from torch, about gloo
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    for name, task in TASKS.items():
        try:
            task(rank)
            outcome = ""
        except Exception:
            outcome = traceback.format_exc()
        (Path(folder) / f"{name}.{rank}").write_text(outcome)
    torch.distributed.destroy_process_group()
    os._exit(0)  # with a device mesh, gloo's threads sometimes abort the interpreter's shutdown


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    if not torch.distributed.is_available():
        pytest.skip("torch was built without torch.distributed")
    folder = tmp_path_factory.mktemp("shards")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", TASKS)
def test_two_processes(outcomes, name, rank):
    outcome = (outcomes / f"{name}.{rank}").read_text()
    assert not outcome, outcome


def test_one_module_knows_what_a_dtensor_is_made_of():
    internals = re.compile(
        r"\.placements|\.to_local\(|_local_tensor|[\"']device_mesh|[\"']full_tensor|distribute_tensor"
    )
    root = Path(stabletrain.__file__).parent
    found = {path.name for path in root.rglob("*.py") if internals.search(path.read_text())}
    assert found == {"local_shards.py"}
