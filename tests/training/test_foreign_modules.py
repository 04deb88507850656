"""The doctor in LightningModules of other people: several optimizers, losses under any name, NaN that they stop."""

from __future__ import annotations

import copy
import json
import math

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import stabletrain as st
from stabletrain.app.output_dir import open_run
from stabletrain.inspection.inspections import Inspections
from stabletrain.inspection.inspector import Inspector
from stabletrain.record.reader import load_record
from stabletrain.report.page import write_report
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.finding import UNKNOWN
from stabletrain.vocabulary.notice import Notice

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*you defined a `validation_step` but have no `val_dataloader`.*"),
]
NUM_STEPS, BATCH = 30, 16
DATA = torch.Generator().manual_seed(3)
X = torch.randn(NUM_STEPS * BATCH, 6, generator=DATA)
Y = (X[:, 0] + 0.5 * X[:, 1] > 0).long()


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(6, 16), nn.ReLU())
        self.head = nn.Linear(16, 2)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.head(self.backbone(batch[0])), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class GAN(pl.LightningModule):
    """As in Lightning's own example of manual optimization."""

    def __init__(self, lr: float = 2e-3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(4, 16), nn.LeakyReLU(0.2), nn.Linear(16, 6))
        self.discriminator = nn.Sequential(nn.Linear(6, 16), nn.LeakyReLU(0.2), nn.Linear(16, 16), nn.LeakyReLU(0.2))
        self.judge = nn.Linear(16, 1)
        self.lr = lr
        self.losses: list[float] = []

    def says(self, x: Tensor, is_real: float) -> Tensor:
        logits = self.judge(self.discriminator(x))
        return nn.functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, is_real))

    def training_step(self, batch, batch_idx):
        of_generator, of_discriminator = self.optimizers()  # pyright: ignore[reportGeneralTypeIssues]
        noise = torch.randn(len(batch[0]), 4)
        self.toggle_optimizer(of_discriminator)
        of_discriminator.zero_grad()
        loss = (self.says(batch[0], 1.0) + self.says(self.generator(noise).detach(), 0.0)) / 2
        self.manual_backward(loss)
        of_discriminator.step()
        self.untoggle_optimizer(of_discriminator)
        self.toggle_optimizer(of_generator)
        of_generator.zero_grad()
        fooled = self.says(self.generator(noise), 1.0)
        self.manual_backward(fooled)
        of_generator.step()
        self.untoggle_optimizer(of_generator)
        self.losses.append(float(loss.detach() + fooled.detach()))

    def configure_optimizers(self):
        judging = [*self.discriminator.parameters(), *self.judge.parameters()]
        return [torch.optim.Adam(p, lr=self.lr, betas=(0.5, 0.9)) for p in (self.generator.parameters(), judging)]


def fit(module, folder, *callbacks, batch_size=BATCH, val=False, **settings):
    trainer = pl.Trainer(
        callbacks=list(callbacks),
        default_root_dir=folder,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **{"logger": False, "max_epochs": 1, **settings},
    )
    loader = DataLoader(TensorDataset(X, Y), batch_size=batch_size)
    trainer.fit(module, loader, loader if val else None)
    return module


def quiet() -> st.callbacks.Doctor:
    return st.callbacks.Doctor(say=lambda line: None)


class Named(Classifier):
    network = "resnet18"


class Method(Classifier):
    def network(self) -> str:
        return "mlp"


class Backbone(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.network = self.backbone


@pytest.mark.parametrize("kind", [Named, Method, Backbone])
def test_an_attribute_called_network_may_be_anything(kind, tmp_path):
    fit(kind(), tmp_path, quiet(), max_steps=3)
    paths = {layer.partition(".")[2] for layer in load_record(tmp_path).layers}
    assert {"head.weight", "head.bias"} < paths
    assert len(paths) == 4


def test_of_a_gan_every_tensor_is_seen_with_its_loss_and_updates(tmp_path):
    module = fit(GAN(), tmp_path, quiet())
    record = load_record(tmp_path)
    gradients, updates = record.of_layers(names.GRADIENT_RMS), record.of_layers("update/rms")
    assert len(gradients) == len([*module.parameters()]) == 10
    assert {tuple(series.steps) for series in gradients.values()} == {tuple(range(NUM_STEPS))}
    assert set(updates) == set(gradients)
    assert {tuple(series.steps) for series in updates.values()} == {(*range(10), 19, 29)}
    assert all(min(series.values) > 0 for series in updates.values())
    losses = record.scalars[names.TRAIN_LOSS]
    assert losses.steps == [*range(NUM_STEPS)]
    assert losses.values == pytest.approx(module.losses, rel=1e-5)


def test_a_gan_is_not_changed_by_being_watched(tmp_path):
    alone, watched = fit(GAN(), tmp_path / "alone"), fit(GAN(), tmp_path / "watched", quiet())
    for name, weight in alone.state_dict().items():
        assert torch.equal(watched.state_dict()[name], weight), name


def test_an_optimizer_that_steps_rarely_is_measured_too(tmp_path):
    class Critics(GAN):
        def training_step(self, batch, batch_idx):
            of_generator, of_discriminator = self.optimizers()  # pyright: ignore[reportGeneralTypeIssues]
            noise = torch.randn(len(batch[0]), 4)
            of_discriminator.zero_grad()
            self.manual_backward(self.says(batch[0], 1.0) + self.says(self.generator(noise).detach(), 0.0))
            of_discriminator.step()
            if batch_idx % 4 == 2:  # 2, 6, 10, …: never a step on which updates are due
                of_generator.zero_grad()
                self.manual_backward(self.says(self.generator(noise), 1.0))
                of_generator.step()

    fit(Critics(), tmp_path, quiet())
    updates = load_record(tmp_path).of_layers("update/rms")
    steps = {layer.partition(".")[2]: series.steps for layer, series in updates.items()}
    assert steps["judge.weight"] == [*range(10), 19, 29]
    assert steps["generator.0.weight"] == [2, 6, 10, 22]


class TwoHalves(GAN):
    """Two optimizers that step on one loss: no game."""

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():  # pyright: ignore[reportGeneralTypeIssues]
            optimizer.zero_grad()
        self.manual_backward(self.says(self.generator(torch.randn(len(batch[0]), 4)), 1.0))
        for optimizer in self.optimizers():  # pyright: ignore[reportGeneralTypeIssues]
            optimizer.step()


@pytest.mark.parametrize(("make", "is_game"), [(GAN, True), (TwoHalves, False), (Classifier, False)])
def test_networks_that_are_trained_in_turn_are_a_game(make, is_game, tmp_path):
    fit(make(), tmp_path, quiet())
    record = load_record(tmp_path)
    assert bool(record.info["training"].get("is_game")) == is_game
    assert bool(record.info["parameters"].get("manual_optimization")) == (make is not Classifier)


@pytest.mark.parametrize("accumulated", [1, 3])
def test_chance_level_is_inferred_from_whatever_part_the_step_calls(accumulated, tmp_path):
    fit(Classifier(), tmp_path, quiet(), accumulate_grad_batches=accumulated)
    training = load_record(tmp_path).info["training"]
    assert training["prior_loss"] == pytest.approx(math.log(2), rel=0.02)
    assert training["prior_is_measured"]


def test_chance_level_stays_unknown_or_as_it_was_given(tmp_path):
    class Absolute(Classifier):
        def training_step(self, batch, batch_idx):
            return (self.head(self.backbone(batch[0]))[:, 0] - batch[1]).abs().mean()

    fit(Absolute(), tmp_path / "absolute", quiet())
    assert load_record(tmp_path / "absolute").info["training"]["prior_loss"] is None
    fit(Classifier(), tmp_path / "given", st.callbacks.Doctor(say=lambda line: None, prior_loss=0.5))
    assert load_record(tmp_path / "given").info["training"]["prior_loss"] == 0.5


def test_the_loss_of_micro_batches_is_their_mean(tmp_path):
    class Noted(Classifier):
        def __init__(self):
            super().__init__()
            self.losses = []

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.losses.append(float(loss.detach()))
            return {"loss": loss}

    module = fit(Noted(), tmp_path, quiet(), accumulate_grad_batches=4)
    losses = load_record(tmp_path).scalars[names.TRAIN_LOSS]
    expected = [sum(part) / len(part) for part in (module.losses[i : i + 4] for i in range(0, NUM_STEPS, 4))]
    assert losses.steps == [*range(8)]
    assert losses.values == pytest.approx(expected, rel=1e-5)


def test_metrics_are_found_under_their_usual_names(tmp_path):
    class Logging(Classifier):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", super().training_step(batch, batch_idx))
            self.log("valid/acc", torch.tensor(0.25))

    fit(Logging(), tmp_path, quiet(), val=True)
    scalars = load_record(tmp_path).scalars
    assert scalars[names.TRAIN_LOSS].steps == [*range(NUM_STEPS)]
    assert scalars[names.VAL_ACCURACY].values == [0.25]
    assert scalars[names.VAL_LOSS].values == scalars["val_loss"].values


def test_a_watch_of_the_users_own_leaves_the_doctor_its_signals(tmp_path):
    for order in (0, 1):
        callbacks = [quiet(), st.callbacks.GradientWatch()]
        fit(Classifier(), tmp_path / str(order), *callbacks[:: -1 if order else 1])
        assert load_record(tmp_path / str(order)).of_layers("update/rms")


@pytest.mark.parametrize("place", ["loss", "batch", "anomaly", "clip"])
def test_a_nan_that_somebody_else_stops_is_found(place, tmp_path):
    class Stopping(Classifier):
        def training_step(self, batch, batch_idx):
            x, y = batch
            if self.global_step == 5:
                x = x * float("nan") if place == "batch" else x
            loss = super().training_step((x, y), batch_idx)
            if self.global_step == 5 and place != "batch":
                loss = loss * float("inf") - loss * float("inf") if place == "loss" else loss + (0 * loss).sqrt()
            if place in ("loss", "batch") and not torch.isfinite(loss):
                raise ValueError("the loss is not finite")
            return loss

        def on_before_optimizer_step(self, optimizer):
            if place == "clip":
                nn.utils.clip_grad_norm_(self.parameters(), 1.0, error_if_nonfinite=True)

    doctor = quiet()
    with pytest.raises((ValueError, RuntimeError)):
        fit(Stopping(), tmp_path, doctor, detect_anomaly=place == "anomaly")
    assert doctor.verdict == "nonfinite"
    assert [f.first_step for f in doctor.findings if f.kind == "nonfinite"] == [5]
    assert open_run(str(tmp_path)).read_summary()["status"] == "failed"


def test_another_exception_is_no_nan(tmp_path):
    class Failing(Classifier):
        def training_step(self, batch, batch_idx):
            best, mask = float("inf"), torch.full((3, 3), -torch.inf)
            if self.global_step == 12:
                raise ValueError(f"out of disk {best} {mask.shape}")
            return super().training_step(batch, batch_idx)

    doctor = quiet()
    with pytest.raises(ValueError, match="out of disk"):
        fit(Failing(), tmp_path, doctor)
    assert "nonfinite" not in [f.kind for f in doctor.findings]


def test_the_log_folder_is_a_run(tmp_path):
    doctor = quiet()
    fit(Classifier(), tmp_path, doctor, logger=CSVLogger(tmp_path), log_every_n_steps=10)
    folder = open_run(str(tmp_path / "lightning_logs/version_0"))
    summary = folder.read_summary()
    assert (summary["status"], summary["verdict"], summary["steps"]) == ("finished", doctor.verdict, NUM_STEPS)
    assert json.loads(folder.findings.read_text()) == [f.to_dict() for f in doctor.findings]
    page = write_report(folder).read_text()
    assert "No verdict yet" not in page


def test_what_lightning_clips_is_recorded(tmp_path):
    fit(Classifier(), tmp_path, quiet(), gradient_clip_val=0.05)
    scalars = load_record(tmp_path).scalars
    assert scalars[names.NORM_AFTER].values == pytest.approx([0.05] * NUM_STEPS)
    assert scalars[names.CLIP_FRACTION].values[-1] == 1.0
    assert min(scalars[names.NORM_TOTAL].values) > 0.05


class Sees(Inspector):
    views: list = []  # noqa: RUF012

    def inspect(self, view):
        Sees.views.append((view.step, view.loss is not None and view.loss.grad_fn is not None, len(view.optimizers)))
        return [Notice("no_progress", view.step, view.step, None, {"seen": True})] if view.step in (1, 2) else []


@pytest.mark.parametrize(("make", "num_optimizers"), [(Classifier, 1), (GAN, 2)])
def test_each_step_is_inspected_once_with_its_loss(make, num_optimizers, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "stabletrain.training.callbacks.doctor_callback.Inspections", lambda model: Inspections(model, [Sees])
    )
    Sees.views = []
    fit(make(), tmp_path, quiet(), max_steps=5 * num_optimizers)
    assert Sees.views == [(step, True, num_optimizers) for step in range(5)]
    (notice,) = load_record(tmp_path).info["notices"]
    assert (notice["first_step"], notice["last_step"]) == (1, 2)


def test_without_a_loss_a_run_is_not_called_healthy(tmp_path):
    class Hidden(Classifier):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()  # pyright: ignore[reportAttributeAccessIssue]
            super().training_step(batch, batch_idx).backward()  # past Lightning
            optimizer.step()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]

    lines = []
    doctor = st.callbacks.Doctor(say=lines.append)
    fit(Hidden(), tmp_path, doctor)
    assert (doctor.verdict, doctor.unseen) == (UNKNOWN, ("loss",))
    assert open_run(str(tmp_path)).read_summary()["verdict"] == UNKNOWN


def test_a_doctor_that_saw_no_training_does_not_call_it_healthy(tmp_path):
    doctor = quiet()
    fit(Classifier(), tmp_path, copy.deepcopy(doctor))  # as neuralforecast does
    assert doctor.verdict == UNKNOWN
