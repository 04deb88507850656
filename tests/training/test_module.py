"""The LightningModule: what it measures around a step, and what it refuses to step on."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from stabletrain.errors import RequestError
from stabletrain.gradient import AdaptiveClip, NoClip, NormClip
from stabletrain.record.reader import load_record
from stabletrain.signal.histogram import Histogram
from stabletrain.training import GradientWatch, RecordLogger, TrainingModule
from stabletrain.training.optimization.stability import NonFiniteGradient

SGD = partial(torch.optim.SGD, lr=0.1)


def loader(num_samples: int = 40, poison_at: int | None = None) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(num_samples, 3, generator=generator), torch.randint(0, 2, (num_samples,), generator=generator)
    if poison_at is not None:
        x[poison_at] = float("nan")
    return DataLoader(TensorDataset(x, y), batch_size=4)


def module(clip=None) -> TrainingModule:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    return TrainingModule(network, "classification", 2, SGD, clip=clip)


def trainer(folder, *callbacks, **settings) -> pl.Trainer:
    defaults = {
        "max_epochs": 1,
        "log_every_n_steps": 1,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
    }
    logger = RecordLogger(folder / "tensorboard")
    return pl.Trainer(logger=logger, callbacks=list(callbacks), default_root_dir=folder, **{**defaults, **settings})


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*you defined a `validation_step` but have no `val_dataloader`.*"),
]


def test_hooks_run_in_the_order_that_we_rely_on(tmp_path):
    calls: list[str] = []

    class Spy(pl.Callback):
        def on_after_backward(self, *_):
            calls.append("after_backward")

        def on_before_optimizer_step(self, *_):
            calls.append("before_step")

        def on_before_zero_grad(self, *_):
            calls.append("zero_grad")

    class Spied(TrainingModule):
        def configure_gradient_clipping(self, *args, **kwargs):
            calls.append("clip")
            super().configure_gradient_clipping(*args, **kwargs)

        def optimizer_step(self, *args, **kwargs):
            super().optimizer_step(*args, **kwargs)
            calls.append("stepped")

    spied = Spied(nn.Linear(3, 2), "classification", 2, SGD)
    trainer(tmp_path, Spy(), max_steps=2, accumulate_grad_batches=2).fit(spied, loader())
    once = ["zero_grad", "after_backward", "after_backward", "before_step", "clip", "stepped"]
    assert calls == once * 2


def test_the_norm_is_measured_before_and_after_clipping(tmp_path):
    free, bound = module(NoClip()), module(NormClip(max_norm=0.05))
    trainer(tmp_path / "free").fit(free, loader())
    trainer(tmp_path / "bound").fit(bound, loader())
    free_record, record = load_record(tmp_path / "free"), load_record(tmp_path / "bound")
    assert free_record.scalars["clip/norm_after"].values == free_record.scalars["gradient/norm/total"].values
    assert free_record.scalars["clip/fraction"].values == [0.0] * 10
    assert record.scalars["clip/norm_after"].values == pytest.approx([0.05] * 10, rel=1e-4)
    assert record.scalars["clip/fraction"].values == [1.0] * 10
    assert record.scalars["gradient/norm/total"].values[0] == free_record.scalars["gradient/norm/total"].values[0]
    assert record.scalars["gradient/norm/total"].steps == list(range(10))


def test_the_watch_sees_the_gradient_before_clipping_and_changes_nothing(tmp_path):
    watched, alone = module(NormClip(max_norm=0.05)), module(NormClip(max_norm=0.05))
    trainer(tmp_path / "watched", GradientWatch(1, 1)).fit(watched, loader())
    trainer(tmp_path / "alone").fit(alone, loader())
    for a, b in zip(watched.parameters(), alone.parameters(), strict=True):
        assert a.equal(b)
    record = load_record(tmp_path / "watched")
    assert record.layers == ["L00.0.weight", "L01.0.bias", "L02.2.weight", "L03.2.bias"]
    sizes = dict(zip(record.layers, (24, 8, 16, 2), strict=True))
    for step in range(10):
        squares = [sizes[k] * s.values[step] ** 2 for k, s in record.of_layers("gradient/rms").items()]
        assert sum(squares) ** 0.5 == pytest.approx(record.scalars["gradient/norm/total"].values[step], rel=1e-5)
    for layer, by_step in record.histograms.items():
        assert sorted(by_step) == list(range(10))
        assert all(isinstance(h, Histogram) and h.size == sizes[layer] for h in by_step.values())
    assert load_record(tmp_path / "alone").histograms == {}


def test_a_nonfinite_gradient_stops_before_the_weights_change(tmp_path):
    poisoned = module(NormClip())
    before: dict[str, torch.Tensor] = {}

    class Keep(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            before.update(copy.deepcopy(pl_module.state_dict()))

    with pytest.raises(NonFiniteGradient) as stop:
        trainer(tmp_path, Keep(), GradientWatch(10, 50)).fit(poisoned, loader(poison_at=13))
    assert stop.value.step == 3
    assert all(v.equal(before[k]) for k, v in poisoned.state_dict().items())
    record = load_record(tmp_path)
    assert record.scalars["gradient/nonfinite/L00.0.weight"].values[-1] == 24
    assert record.scalars["gradient/nonfinite/L00.0.weight"].steps == [0, 3]  # kept, although the cadence is ten
    assert record.scalars["train/loss"].steps == [0, 1, 2]


def test_a_nonfinite_value_is_counted_and_never_written(tmp_path):
    logger = RecordLogger(tmp_path / "tensorboard")
    for step, loss in enumerate([1.0, float("nan"), float("inf"), 2.0]):
        logger.log_metrics({"train/loss": loss, "epoch": 0}, step)
    logger.close()
    record = load_record(tmp_path)
    assert record.scalars["train/loss"].steps == [0, 3]
    assert record.scalars["train/nonfinite"].values == [1.0, 2.0]
    assert "epoch" not in record.scalars


def test_clipping_given_twice_is_refused(tmp_path):
    with pytest.raises(RequestError, match="given twice"):
        trainer(tmp_path, gradient_clip_val=1.0).fit(module(NormClip()), loader())


def test_adaptive_clipping_leaves_out_the_last_linear_layer(tmp_path):
    fitted = module(AdaptiveClip(clipping=1e-4))
    clipped: dict[str, bool] = {}

    class Compare(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.before = {name: p.grad.clone() for name, p in pl_module.network.named_parameters()}

        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            if hasattr(self, "before"):
                for name, parameter in pl_module.network.named_parameters():
                    clipped[name] = not parameter.grad.equal(self.before[name])

    trainer(tmp_path, Compare(), max_steps=2).fit(fitted, loader())
    assert clipped == {"0.weight": True, "0.bias": True, "2.weight": False, "2.bias": False}


def test_the_watch_works_in_any_lightning_module(tmp_path):
    class Foreign(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(5, 1), nn.Linear(3, 5)

        def training_step(self, batch, batch_idx):
            return self.last(self.first(batch[0]).relu()).square().mean()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

    settings = {"max_steps": 3, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    watch = GradientWatch(1, 1)
    pl.Trainer(
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path / "tensorboard",
        **settings,
    ).fit(Foreign(), loader())
    record = load_record(tmp_path)
    assert [name.split(".")[1] for name in record.layers] == ["first", "first", "last", "last"]  # forward order
    assert all(len(h) == 3 for h in record.histograms.values())
    assert watch.seconds > 0


def test_regression_measures_the_squared_error(tmp_path):
    x = torch.arange(8.0)[:, None]
    data = DataLoader(TensorDataset(x, 2 * x), batch_size=4)
    network = nn.Linear(1, 1)
    nn.init.constant_(network.weight, 1.0)
    nn.init.zeros_(network.bias)
    fitted = TrainingModule(network, "regression", 1, partial(torch.optim.SGD, lr=1e-9))
    trainer(tmp_path).fit(fitted, data, data)
    record = load_record(tmp_path)
    assert record.scalars["val/mse"].values == pytest.approx([float((x**2).mean())], rel=1e-4)
    assert record.scalars["val/loss"].values == pytest.approx(record.scalars["val/mse"].values)


def test_validation_metrics_are_those_of_all_batches(tmp_path):
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(22, 3, generator=generator), torch.randint(0, 2, (22,), generator=generator)
    data = DataLoader(TensorDataset(x, y), batch_size=4)  # the last batch is smaller
    losses, shares = [], []

    class Keep(pl.Callback):
        def on_validation_end(self, trainer, pl_module):
            with torch.no_grad():
                outputs = pl_module.network(x)
            losses.append(float(nn.functional.cross_entropy(outputs, y)))
            shares.append(float((outputs.argmax(-1) == y).float().mean()))

    trainer(tmp_path, Keep(), max_epochs=3).fit(module(), loader(), data)
    record = load_record(tmp_path)
    assert record.scalars["val/loss"].values == pytest.approx(losses, rel=1e-5)
    assert record.scalars["val/accuracy"].values == pytest.approx(shares)
    assert len(set(losses)) == 3


def test_the_name_of_the_hook_is_no_parameter():
    fitted = module()
    fitted._current_fx_name = "training_step"
    assert fitted._current_fx_name == "training_step"
    fitted.extra = nn.Linear(1, 1)  # all other attributes are set as usual
    assert "extra.weight" in dict(fitted.named_parameters())
