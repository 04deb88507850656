"""Clipping inside real Lightning runs: mixed precision, accumulation, fused optimizers."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from stabletrain.gradient import CLIPS, NormClip, ZScoreClip
from stabletrain.training import TrainingModule

SGD = partial(torch.optim.SGD, lr=0.1)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*you defined a `validation_step` but have no `val_dataloader`.*"),
]


def fit(clip, optimizer=SGD, num_steps=6, batch_size=8, **settings):
    """Train a small network; return it and the norms before each clipping."""
    norms = []

    class Watched(type(clip)):
        def __call__(self, parameters):
            norms.append(float(super().__call__(parameters)))
            return torch.tensor(norms[-1])

    clip.__class__ = Watched
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    x, y = torch.randn(8 * num_steps, 3), torch.randint(0, 2, (8 * num_steps,))
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **settings,
    )
    module = TrainingModule(network, "classification", 2, optimizer, clip=clip)
    trainer.fit(module, DataLoader(TensorDataset(x, y), batch_size=batch_size))
    return network, norms


def half_precision():
    """fp16 with a loss scaler, which Lightning would replace by bf16 here."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("half", ["bf16-mixed", "16-mixed"])
def test_half_precision_sees_the_unscaled_gradient(name, half):
    settings = {"precision": "bf16-mixed"} if half == "bf16-mixed" else {"plugins": [half_precision()]}
    plain, norms = fit(CLIPS[name]())
    network, found = fit(CLIPS[name](), **settings)
    assert found == pytest.approx(norms, rel=0.05)  # a scaled one would be 65536 times that
    for parameter, expected in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=0.05, atol=5e-3)


@pytest.mark.parametrize("name", CLIPS)
def test_accumulated_batches_are_clipped_once_as_a_whole(name):
    plain, norms = fit(CLIPS[name]())
    network, found = fit(CLIPS[name](), batch_size=2, accumulate_grad_batches=4)
    assert found == pytest.approx(norms, rel=1e-4)
    for parameter, expected in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected)


@pytest.mark.parametrize("half", ["32-true", "bf16-mixed"])
def test_a_fused_optimizer_takes_the_clipped_gradient(half):
    fused = partial(torch.optim.AdamW, lr=0.1, fused=True)
    plain, norms = fit(NormClip(0.01), partial(torch.optim.AdamW, lr=0.1), precision=half)
    network, found = fit(NormClip(0.01), fused, precision=half)
    assert found == pytest.approx(norms, rel=0.05)
    for parameter, expected in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=0.05, atol=0.01)


def test_a_step_that_the_loss_scaler_skips_is_not_remembered():
    clip = ZScoreClip()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)  # overflows fp16 until it has been halved often enough
    _, norms = fit(clip, num_steps=40, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    finite = [n for n in norms if torch.isfinite(torch.tensor(n))]
    assert 0 < len(finite) < len(norms)
    assert clip.state_dict()["warmup"] == pytest.approx(finite[:25])
