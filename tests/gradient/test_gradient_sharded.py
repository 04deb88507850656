"""Every clip in two processes gives what it gives in one, for replicated, sharded and mixed gradients.

A small network with what is awkward to shard: odd sizes, a first axis of one (an empty shard in the second
process), a transposed convolution, stacked gates.
"""

from __future__ import annotations

import copy
import os
import traceback
import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from stabletrain.gradient import CLIPS, AdaptiveClip, Chain, NormClip, PercentileClip, ValueClip, ZScoreClip, total_norm

NUM_STEPS = 7
INF = float("inf")
KINDS = ("ddp", "fsdp", "fsdp_part", "fsdp_second_axis")


def make_clips():
    return {
        **{name: kind() for name, kind in CLIPS.items()},
        "norm_inf": NormClip(0.1, INF),
        "norm_1": NormClip(0.1, 1.0),
        "value": ValueClip(0.01),
        "adaptive_all": AdaptiveClip(exclude="none"),
        "zscore": ZScoreClip(warmup_steps=3),
        "chain": Chain({"adaptive": AdaptiveClip(), "percentile": PercentileClip(50.0), "norm": NormClip(0.05)}),
    }


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.up = nn.ConvTranspose1d(3, 4, 3, groups=1)
        self.grouped = nn.ConvTranspose1d(4, 2, 3, groups=2)
        self.rnn = nn.LSTM(2, 3, batch_first=True)
        self.narrow = nn.Linear(3, 1)
        self.head = nn.Linear(1, 5)

    def forward(self, x):
        x = self.grouped(self.up(self.embedding(x).transpose(1, 2))).transpose(1, 2)
        return self.head(self.narrow(self.rnn(x)[0][:, -1]))


def wrap(network, kind):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Shard

    mesh = init_device_mesh("cpu", (2,))
    if kind == "ddp":
        return nn.parallel.DistributedDataParallel(network)
    if kind == "fsdp_part":  # the other half keeps plain gradients, which DDP or the user must reduce
        for module in (network.rnn, network.head):
            fully_shard(module, mesh=mesh)
        return network
    second = kind == "fsdp_second_axis"
    place = (lambda p: Shard(1) if p.ndim > 1 and p.size(1) % 2 == 0 else None) if second else None
    return fully_shard(network, mesh=mesh, shard_placement_fn=place)


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def train(network, plain, clip, data, mine, weight):
    """Steps of SGD; returns the norms before clipping, the gradients after, and the weights at the end."""
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    norms, gradients = [], []
    for step, (x, y) in enumerate(data):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(x[mine]), y[mine]) * (100.0 if step == 5 else 1.0)
        loss.backward()
        average_plain_(plain, weight)
        norm = clip(plain.parameters())
        assert type(norm) is torch.Tensor
        norms.append(float(norm))
        gradients.append([whole(p.grad).clone() for p in plain.parameters()])
        optimizer.step()
    return norms, gradients, [whole(p.detach()).clone() for p in plain.parameters()]


def average_plain_(plain, weight):
    """Under `fsdp_part` the gradients that are not sharded."""
    if weight != 0.5:
        return
    for parameter in plain.parameters():
        if not hasattr(parameter.grad, "full_tensor"):
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad.mul_(weight)


def compare(rank, kind):
    torch.manual_seed(0)
    first = Network()
    data = [(torch.randint(0, 5, (8, 4)), torch.randint(0, 5, (8,))) for _ in range(NUM_STEPS)]
    mine = slice(4 * rank, 4 * rank + 4)
    for name in make_clips():
        alone, together = copy.deepcopy(first), copy.deepcopy(first)
        clip_alone, clip_together = make_clips()[name], make_clips()[name]
        clip_alone.attach(alone)
        clip_together.attach(together)  # before sharding, as the training does
        expected = train(alone, alone, clip_alone, data, slice(None), 1.0)
        wrapped = wrap(together, kind)
        found = train(wrapped, together, clip_together, data, mine, 0.5 if kind == "fsdp_part" else 1.0)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")
        check_state(name, clip_together.state_dict(), clip_alone.state_dict())


def check_state(name, found, expected):
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            check_state(name, found[key], expected[key])
    elif isinstance(expected, list):
        assert found == pytest.approx(expected, rel=1e-4), name
    else:
        assert [float(v) for v in torch.as_tensor(found).flatten()] == pytest.approx(
            [float(v) for v in torch.as_tensor(expected).flatten()], rel=1e-3, abs=1e-9
        ), name


def check_nonfinite(rank):
    """A bad number in one process' shard is seen by both, and neither changes anything."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2,))
    for bad in (INF, -INF, float("nan")):
        gradients = [torch.tensor([[5.0, 1.0], [bad, 2.0]]), torch.tensor([3.0]), torch.full((3,), 2.0)]
        for name, clip in make_clips().items():
            parameters = [nn.Parameter(distribute_tensor(torch.ones_like(g), mesh, [Shard(0)])) for g in gradients]
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = distribute_tensor(gradient, mesh, [Shard(0)])
            assert not clip(parameters).isfinite(), (name, bad)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                assert torch.equal(parameter.grad.full_tensor().nan_to_num(7.0), gradient.nan_to_num(7.0)), name


def check_range(rank):
    """Norms that overflow or underflow float32, empty shards included; half precision too."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2,))
    for value in (3e38, 1e25, 1.0, 1e-25, 1e-37):
        tensors = [torch.full((3, 2), value), torch.full((1,), -value), torch.full((5,), value)]
        sharded = [distribute_tensor(t, mesh, [Shard(0)]) for t in tensors]
        for p in (1.0, 2.0, 3.0, INF):
            expected = pytest.approx(float(total_norm(tensors, p)), rel=1e-5, abs=0)
            assert float(total_norm(sharded, p)) == expected, (value, p)
            own = float(total_norm([t.to_local() for t in sharded], p))  # what a process would find alone
            assert p == INF or own != expected
            assert float(total_norm([tensors[0], *sharded[1:]], p)) == expected, (value, p)
    half = [t.half() for t in (torch.full((3,), 6e4), torch.full((1,), 2.0))]
    found = total_norm([distribute_tensor(t, mesh, [Shard(0)]) for t in half])
    assert float(found) == pytest.approx(float(total_norm(half)), rel=1e-5)


TASKS = {
    **{kind: partial(compare, kind=kind) for kind in KINDS},
    "nonfinite": check_nonfinite,
    "range": check_range,
}


def work(rank, folder):
    """Do every task in one pair of processes: their start takes longer than all of them."""
    warnings.simplefilter("ignore")  # torch's own, about gloo and views
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
    os._exit(0)  # gloo's threads at times abort the interpreter's own end, when a mesh was made


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    if not torch.distributed.is_available():
        pytest.skip("torch was built without torch.distributed")
    folder = tmp_path_factory.mktemp("outcomes")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_two_processes_do_as_one(task, outcomes):
    assert [(outcomes / f"{task}.{rank}").read_text() for rank in range(2)] == ["", ""]
