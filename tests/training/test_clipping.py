"""Clipping of any LightningModule, and the metrics of how often it acts."""

from __future__ import annotations

import math

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from stabletrain.errors import RequestError
from stabletrain.gradient import CLIPS, AdaptiveClip, NoClip, NormClip, ZScoreClip, total_norm
from stabletrain.training.callbacks.loss_logging import LogLoss
from stabletrain.training.optimization.gradient_clipping import ClipGradients, ClipMeter, require_one_clip
from stabletrain.training.optimization.stability import NonFiniteGradient

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*no `val_dataloader`.*"),
]


class Foreign(pl.LightningModule):
    def __init__(self, scale=100.0):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.scale, self.norms = nn.Linear(3, 1), scale, []

    def training_step(self, batch, batch_idx):
        return {"loss": self.scale * self.linear(batch[0]).square().mean()}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)

    def optimizer_step(self, *args, **kwargs):
        super().optimizer_step(*args, **kwargs)
        self.norms.append(float(torch.cat([p.grad.flatten() for p in self.parameters()]).norm()))


class ClipsItself(Foreign):
    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        self.clip_gradients(optimizer, 0.25, "norm")


def fit(module, clip, folder, x=None, **settings):
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(1)) if x is None else x
    callback = ClipGradients(clip)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        callbacks=[callback, LogLoss()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **settings,
    )
    trainer.fit(module, DataLoader(TensorDataset(x), batch_size=4))
    return trainer, callback


def test_another_module_is_clipped_before_its_step(tmp_path):
    module = Foreign()
    trainer, callback = fit(module, NormClip(0.5), tmp_path)
    assert module.norms == pytest.approx([0.5] * 3, rel=1e-4)
    assert float(trainer.callback_metrics["clip/norm_after"]) == pytest.approx(0.5, rel=1e-4)
    assert float(trainer.callback_metrics["gradient/norm/total"]) > 0.5
    assert float(trainer.callback_metrics["clip/fraction"]) == 1.0
    assert float(trainer.callback_metrics["train/loss"]) > 0
    assert callback.state_dict()["num_clipped"] == 3
    untouched = Foreign()
    fit(untouched, NoClip(), tmp_path)
    assert min(untouched.norms) > 0.5


def test_a_module_that_clips_itself_is_left_alone(tmp_path):
    module = ClipsItself()
    trainer, _ = fit(module, NoClip(), tmp_path)
    assert module.norms == pytest.approx([0.25] * 3, rel=1e-4)
    assert float(trainer.callback_metrics["gradient/norm/total"]) > 0.25
    assert not {"clip/norm_after", "clip/fraction"} & set(trainer.callback_metrics)  # unknown: it clips afterwards


@pytest.mark.parametrize("clip", [NormClip(1.0), ZScoreClip()])
def test_a_module_that_clips_itself_is_refused_a_second_clip(clip, tmp_path):
    module = ClipsItself()
    before = module.linear.weight.detach().clone()
    with pytest.raises(RequestError, match="ClipsItself clips in its own") as caught:
        fit(module, clip, tmp_path)
    assert (caught.value.key, caught.value.found, caught.value.closest) == ("clip", type(clip).__name__, "none")
    assert torch.equal(module.linear.weight, before)


def test_a_method_set_on_the_module_counts_as_its_own():
    module = Foreign()
    require_one_clip(module, NormClip())
    module.configure_gradient_clipping = lambda *arguments: None
    with pytest.raises(RequestError):
        require_one_clip(module, NormClip())
    require_one_clip(module, NoClip())


def test_a_trainer_that_clips_is_refused_a_second_clip_and_left_alone_otherwise(tmp_path):
    with pytest.raises(RequestError) as caught:
        fit(Foreign(), NormClip(0.5), tmp_path, gradient_clip_val=0.25)
    assert caught.value.key == "trainer.gradient_clip_val"
    module = Foreign()
    trainer, _ = fit(module, NoClip(), tmp_path, gradient_clip_val=0.25)
    assert module.norms == pytest.approx([0.25] * 3, rel=1e-4)
    assert "clip/norm_after" not in trainer.callback_metrics


def test_the_callback_shows_its_clip_the_model(tmp_path):
    class Foreign2(Foreign):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3, 3)

        def training_step(self, batch, batch_idx):
            return super().training_step([self.first(batch[0])], batch_idx)

    clip = AdaptiveClip()
    fit(Foreign2(), clip, tmp_path)
    assert isinstance(clip._last, nn.Linear)


@pytest.mark.parametrize(("norm_type", "before"), [(1.0, 7.0), (2.0, 5.0), (float("inf"), 4.0)])
def test_the_norm_after_is_the_norm_that_was_limited(norm_type, before):
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, -4.0])
    meter = ClipMeter(NormClip(2.0, norm_type))
    _, values = meter.step([weight])
    assert float(values["gradient/norm/total"]) == before
    assert float(values["clip/norm_after"]) == pytest.approx(2.0, rel=1e-6)
    assert float(values["clip/fraction"]) == 1.0
    torch.testing.assert_close(weight.grad, torch.tensor([3.0, -4.0]) * 2 / before)


@pytest.mark.parametrize("size", [3e38, 1e30, 1.0, 1e-30, 1e-44, 0.0])
@pytest.mark.parametrize("name", CLIPS)
def test_the_norm_after_is_that_of_the_gradients(name, size):
    weight = nn.Parameter(torch.ones(50, 2))
    weight.grad = torch.full((50, 2), size)
    before, values = ClipMeter(CLIPS[name]()).step([weight])
    assert before == pytest.approx(float(weight.grad.new_tensor(size)) * 10, rel=1e-6)
    assert float(values["clip/norm_after"]) == pytest.approx(float(total_norm([weight.grad])), rel=1e-5)
    assert float(values["clip/fraction"]) == (float(total_norm([weight.grad])) < before * (1 - 1e-6))


def test_a_nonfinite_gradient_stops_before_the_step(tmp_path):
    module = Foreign()
    before = module.linear.weight.detach().clone()
    x = torch.zeros(4, 3)
    x[0, 0] = float("inf")
    with pytest.raises(NonFiniteGradient):
        fit(module, NormClip(0.5), tmp_path, x)
    assert torch.equal(module.linear.weight, before)


def test_the_count_goes_on_where_it_was():
    weight = nn.Parameter(torch.zeros(2))
    meter = ClipMeter(NormClip(1.0))
    for size in (3.0, 0.1):
        weight.grad = torch.full((2,), size)
        _, values = meter.step([weight])
    assert values["clip/fraction"] == 0.5
    again = ClipMeter(NormClip(1.0))
    again.load_state_dict(meter.state_dict())
    weight.grad = torch.full((2,), 5.0)
    assert again.step([weight])[1]["clip/fraction"] == pytest.approx(2 / 3)
    weight.grad = torch.full((2,), float("nan"))
    norm, values = again.step([weight])
    assert math.isnan(norm)
    assert values == {}
    assert again.num_steps == 3
