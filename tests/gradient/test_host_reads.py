"""How often clipping waits for the device: at most once a step, the non-finite guard and the metrics included."""

from __future__ import annotations

import math
from functools import partial
from unittest import mock

import pytest
import pytorch_lightning as pl
import torch
from host_reads import HostReads
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils.data import DataLoader, TensorDataset

from stabletrain.gradient import (
    CLIPS,
    AdaptiveClip,
    Chain,
    Clip,
    LayerClip,
    NoClip,
    NormClip,
    PercentileClip,
    ValueClip,
    ZScoreClip,
    clip_gradients_,
    device_clip,
    total_norm,
)
from stabletrain.training import TrainingModule
from stabletrain.training.optimization.gradient_clipping import ClipMeter
from stabletrain.training.optimization.stability import NonFiniteGradient

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*you defined a `validation_step` but have no `val_dataloader`.*"),
    pytest.mark.filterwarnings("ignore:.*`isinstance.treespec, LeafSpec.` is deprecated.*"),
]


def make_clips():
    """Every clip, and chains; statistical clips with a warm-up that ends within the steps below."""
    return {
        **{name: kind() for name, kind in CLIPS.items()},
        "zscore": ZScoreClip(warmup_steps=2),
        "norm_inf": NormClip(0.1, math.inf),
        "chain of four": Chain(
            {"value": ValueClip(0.5), "layer": LayerClip(0.2), "adaptive": AdaptiveClip(), "norm": NormClip(0.1)}
        ),
        "chain to a statistical one": Chain({"value": ValueClip(0.5), "zscore": ZScoreClip(warmup_steps=2)}),
        "chain from a statistical one": Chain({"zscore": ZScoreClip(warmup_steps=2), "norm": NormClip(0.1)}),
        "chain in a chain": Chain({"inner": Chain(), "percentile": PercentileClip(), "norm": NormClip(0.1)}),
    }


class Counting(TrainingModule):
    """Counts the reads in each step's clipping, guard and logging."""

    def configure_gradient_clipping(self, *args, **kwargs):
        with HostReads() as reads:
            super().configure_gradient_clipping(*args, **kwargs)
        self.counts = [*getattr(self, "counts", []), reads.total]


def fit(clip, folder, num_steps=6, poison=None):
    torch.manual_seed(0)
    x, y = torch.randn(4 * num_steps, 3), torch.randint(0, 2, (4 * num_steps,))
    if poison is not None:
        x[-1] = poison
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    module = Counting(network, "classification", 2, partial(torch.optim.SGD, lr=0.1), clip=clip)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
    )
    try:
        trainer.fit(module, DataLoader(TensorDataset(x, y), batch_size=4))
    finally:
        module.logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return module


@pytest.mark.parametrize("name", make_clips())
def test_a_step_reads_the_device_once(name, tmp_path):
    module = fit(make_clips()[name], tmp_path)
    print(f"{name}: {max(module.counts)} read(s) a step")
    assert module.counts == [1] * 6
    assert module.logged["gradient/norm/total"] >= module.logged["clip/norm_after"] > 0


def read_per_step(clip, gradients, num_steps=1):
    """The largest number of reads in a step of the meter."""
    meter, counts = ClipMeter(clip), []
    for _ in range(num_steps):
        parameters = make_parameters(gradients)
        with HostReads() as reads:
            meter.step(parameters)
        counts.append(reads.total)
    return max(counts)


def make_parameters(gradients):
    parameters = []
    for gradient in gradients:
        parameter = nn.Parameter(torch.full(gradient.shape, 0.1, dtype=gradient.dtype))
        parameter.grad = gradient.clone()
        parameters.append(parameter)
    return parameters


KINDS = {
    "float64": [torch.full((4, 3), 2.0, dtype=torch.float64)],
    "half": [torch.full((4, 3), 2.0, dtype=torch.float16), torch.full((3,), 2.0, dtype=torch.bfloat16)],
    "mixed": [torch.full((4, 3), 2.0, dtype=torch.bfloat16), torch.full((3,), 2.0), torch.tensor(1.0).double()],
    "scalar and empty": [torch.tensor(3.0), torch.empty(0, 2)],
    "sparse": [torch.eye(5, 3).mul(2.0).to_sparse(1), torch.ones(3)],
    "nan": [torch.tensor([1.0, math.nan])],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", make_clips())
def test_other_gradients_are_read_once_too(name, kind):
    assert read_per_step(make_clips()[name], KINDS[kind], num_steps=4) == 1


@pytest.mark.parametrize("name", CLIPS)
def test_by_name_is_one_read_as_well(name):
    parameters = make_parameters([torch.ones(4, 3)])
    with HostReads() as reads:
        norm = clip_gradients_(parameters, name)
    assert reads.total == 1
    assert type(norm) is torch.Tensor
    assert norm.dtype == torch.float32
    assert norm.item() == pytest.approx(12**0.5)


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize(("value", "most"), [(0.0, 2), (math.inf, 2), (3e38, 8), (1e-30, 8)])
def test_norms_out_of_the_ordinary_range_take_a_few_more(name, value, most):
    """One that is 0 or infinite may be so by the arithmetic: a second read, of the largest element, tells."""
    reads = read_per_step(CLIPS[name](), [torch.full((4, 3), value), torch.full((2,), value)])
    assert 2 <= reads <= most


def test_two_statistical_clips_take_a_second_read_only_when_the_first_acts():
    clip = Chain({"zscore": ZScoreClip(warmup_steps=2), "percentile": PercentileClip(100.0)})
    parameters, meter, counts = make_parameters([torch.zeros(4)]), ClipMeter(clip), []
    for size in (1.0, 1.1, 1.05, 50.0, 1.0):
        parameters[0].grad = torch.full((4,), size)
        with HostReads() as reads:
            meter.step(parameters)
        counts.append(reads.total)
    assert counts == [1, 1, 1, 2, 1]


def test_a_clip_by_units_after_a_statistical_one_takes_a_second_read_for_the_norm_after():
    clip = Chain({"percentile": PercentileClip(), "value": ValueClip(0.5)})
    assert read_per_step(clip, [torch.ones(4)]) == 2


def test_a_nonfinite_gradient_stops_before_the_step_after_one_read(tmp_path):
    with pytest.raises(NonFiniteGradient):
        fit(NormClip(0.1), tmp_path, poison=math.nan)


class Waiting(Clip):
    """A clip as one writes it without thinking of the device."""

    def __call__(self, parameters):
        parameters = list(parameters)
        norm = total_norm([p.grad for p in parameters])
        if norm.isfinite() and norm > 1.0:
            for parameter in parameters:
                parameter.grad.mul_(float(1.0 / norm))
        return norm


def test_the_count_is_right_about_a_clip_that_waits():
    gradients = [torch.full((4,), 2.0)]
    parameters = make_parameters(gradients)
    with HostReads() as reads:
        Waiting()(parameters)
    assert reads.total == 4  # the norm's range, isfinite, the comparison, the factor
    assert read_per_step(Waiting(), gradients) == 6  # the meter reads the norm before, and the one after
    meter = ClipMeter(Waiting())
    _, values = meter.step(make_parameters(gradients))
    assert [float(values[n]) for n in ("gradient/norm/total", "clip/norm_after", "clip/fraction")] == [4.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "read",
    [
        lambda t: t[0].item(),
        lambda t: float(t[0]),
        lambda t: bool(t[0] > 0),
        lambda t: int(t[0]),
        lambda t: t[0] in {2.0, 1.0} or math.isfinite(t[1]),
        lambda t: t.tolist(),
        lambda t: t.numpy(),
        lambda t: t.cpu(),
        lambda t: t.equal(t),
        lambda t: t.nonzero(),
        lambda t: t[t > 0],
        lambda t: t.masked_select(t > 0),
        lambda t: t.unique(),
        lambda t: torch.allclose(t, t),
    ],
)
def test_every_kind_of_read_is_counted(read):
    tensor = torch.tensor([1.0, 2.0])
    with HostReads() as reads:
        read(tensor)
    assert reads.total >= 1
    with HostReads() as none:
        torch.where(tensor > 1, tensor, 0.0).sum().sqrt().add_(1).to(torch.float64)
    assert none.total == 0


@pytest.mark.parametrize("name", ["none", "norm", "value", "layer", "adaptive", "chain"])
def test_on_a_device_whose_values_cannot_be_read(name, monkeypatch):
    """Fake tensors have a device and no values: whatever depends on these raises. The one read is given its result."""
    with FakeTensorMode():
        parameters = [nn.Parameter(torch.empty(shape, device="cuda")) for shape in ((4, 3), (3,), ())]
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter)
        with pytest.raises(DataDependentOutputException):
            bool(parameters[0].grad.sum() > 0)
        given = mock.Mock(side_effect=lambda scalars: [1.0] * len(scalars))
        monkeypatch.setattr(device_clip, "_read_scalars", given)
        norm, values = ClipMeter(CLIPS[name]()).step(parameters)
        assert given.call_count == 1
        assert {scalar.device.type for scalar in given.call_args.args[0]} == {"cuda"}
    assert norm == 1.0
    assert {value.device.type for value in values.values()} == {"cpu"}  # Lightning does not move them


def test_a_clip_that_looks_at_values_fails_on_that_device():
    with FakeTensorMode():
        parameter = nn.Parameter(torch.empty(3, device="cuda"))
        parameter.grad = torch.empty_like(parameter)
        with pytest.raises((DataDependentOutputException, RuntimeError)):  # the latter from `float`
            Waiting()([parameter])


def test_no_clip_changes_nothing_and_knows_the_norm_after():
    parameters = make_parameters([torch.tensor([3.0, 4.0])])
    _, values = ClipMeter(NoClip()).step(parameters)
    assert float(values["clip/norm_after"]) == float(values["gradient/norm/total"]) == 5.0
    assert float(values["clip/fraction"]) == 0.0
