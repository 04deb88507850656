"""What a run that a non-finite gradient stopped leaves: the offender by name, and a bundle that reproduces it."""

from __future__ import annotations

import copy
import json
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from stabletrain.signal.offender import find_offender
from stabletrain.training import RecordLogger, TrainingModule
from stabletrain.training.callbacks.offender_bundle import (
    OffenderBundle,
    find_in_step,
    indices_of_batch,
    random_state,
    set_random_state,
)
from stabletrain.training.optimization.stability import NonFiniteGradient

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*you defined a `validation_step` but have no `val_dataloader`.*"),
]


def fit(folder, *callbacks, network=None, poison_at=13, **settings):
    torch.manual_seed(0)
    network = network or nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 2))
    module = TrainingModule(network, "classification", 2, partial(torch.optim.Adam, lr=0.01))
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 3, generator=generator), torch.randint(0, 2, (40,), generator=generator)
    if poison_at is not None:
        x[poison_at] = float("nan")
    trainer = pl.Trainer(
        logger=RecordLogger(folder / "tensorboard"),
        callbacks=list(callbacks),
        default_root_dir=folder,
        accelerator="cpu",
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **{"max_epochs": 1, **settings},
    )
    trainer.fit(module, DataLoader(TensorDataset(x, y), batch_size=4))
    return module


def load(folder):
    bundle = torch.load(folder / "offender/bundle.pt", weights_only=True)
    return bundle, json.loads((folder / "offender/offender.json").read_text())


class Before(pl.Callback):
    """Copies the state at the start of each batch."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.weights = copy.deepcopy(pl_module.state_dict())
        self.random = torch.get_rng_state()


def test_the_poisoned_sample_is_named_and_the_state_is_that_before_the_step(tmp_path):
    before = Before()
    with pytest.raises(NonFiniteGradient):
        fit(tmp_path, OffenderBundle(), before)
    bundle, about = load(tmp_path)
    assert about == {
        "phase": "data",
        "layer": None,
        "tensor": "batch[0]",
        "clean": None,
        "num_nonfinite": 3,
        "size": 12,
        "samples": [13],
        "samples_are": "dataset",
        "step": 3,
        "origin": "input",
        "operation": "AddmmBackward0",
        "module": "0",
        "line": about["line"],
        "why": "a tensor that it was given is not finite",
    }
    assert "return self.network(x)" in about["line"]
    assert bundle["offender"] == about
    assert bundle["state_dict"].keys() == before.weights.keys()
    assert all(value.equal(before.weights[name]) for name, value in bundle["state_dict"].items())
    assert bundle["random"]["cpu"].equal(before.random)
    assert len(bundle["optimizers"][0]["state"]) == 6
    assert bundle["batch"][0].isnan().any(dim=1).tolist() == [False, True, False, False]


class Late(nn.Module):
    """From the fourth call on, takes the square root of what dropout may have set to 0: depends on random numbers."""

    def __init__(self):
        super().__init__()
        self.num_calls = 0

    def forward(self, x):
        self.num_calls += 1
        return x.square().sqrt() if self.num_calls > 3 else x


def test_the_bundle_brings_a_failure_back_that_hangs_on_chance(tmp_path):
    def network():
        return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.05), Late(), nn.Linear(8, 2))

    with pytest.raises(NonFiniteGradient) as stop:
        fit(tmp_path, OffenderBundle(), network=network(), poison_at=None)
    bundle, about = load(tmp_path)
    assert (about["phase"], about["layer"], about["clean"]) == ("backward", "L01.2", "L02.3")
    assert bundle["step"] == about["step"] == stop.value.step
    again = TrainingModule(network(), "classification", 2, partial(torch.optim.Adam, lr=0.01))
    again.network[2].num_calls = 3
    again.load_state_dict(bundle["state_dict"])
    again.trainer = type("Stub", (), {"world_size": 1})()
    found = find_in_step(again, bundle["batch"], bundle["batch_idx"], bundle["random"])
    assert {
        "phase": found.phase,
        "layer": found.layer,
        "tensor": found.tensor,
        "num_nonfinite": found.num_nonfinite,
    } == {key: about[key] for key in ("phase", "layer", "tensor", "num_nonfinite")}


def test_of_several_micro_batches_the_bad_one_is_found(tmp_path):
    with pytest.raises(NonFiniteGradient) as stop:
        fit(tmp_path, OffenderBundle(), accumulate_grad_batches=5)
    bundle, about = load(tmp_path)
    assert (stop.value.step, bundle["batch_idx"], about["samples"]) == (0, 3, [13])


def test_a_healthy_run_leaves_nothing_and_the_same_weights(tmp_path):
    watched = fit(tmp_path / "on", OffenderBundle(), poison_at=None)
    alone = fit(tmp_path / "off", poison_at=None)
    assert not (tmp_path / "on/offender").exists()
    assert all(a.equal(b) for a, b in zip(watched.state_dict().values(), alone.state_dict().values(), strict=True))


def test_looking_never_hides_what_stopped_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("stabletrain.training.callbacks.offender_bundle.find_offender", lambda *_, **__: 1 / 0)
    with pytest.warns(UserWarning, match="failed: division"), pytest.raises(NonFiniteGradient):
        fit(tmp_path, OffenderBundle())
    assert load(tmp_path)[1] == {"phase": None, "step": 3, "samples": [], "samples_are": "dataset"}


def test_places_in_the_batch_where_the_order_is_gone(tmp_path):

    def trainer(**settings):
        loader = DataLoader(TensorDataset(torch.arange(10.0)), **settings)
        return type("Trainer", (), {"train_dataloader": loader})()

    assert indices_of_batch(trainer(batch_size=4, shuffle=True), 1) == []
    assert indices_of_batch(trainer(batch_size=4), 1) == [4, 5, 6, 7]
    assert indices_of_batch(trainer(batch_size=None), 1) == []


def test_random_states_go_back_and_forth():
    state = random_state(torch.device("cpu"))
    first = torch.rand(3)
    set_random_state(state, torch.device("cpu"))
    assert torch.rand(3).equal(first)


def test_any_lightning_module(tmp_path):
    class Foreign(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 1)

        def training_step(self, batch, batch_idx):
            loss = (self.head(self.body(batch[0]).tanh()) * 0).log().mean()
            self.log("loss", loss)
            return {"loss": loss}

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module = Foreign()
    found = find_in_step(module, (torch.randn(4, 3),), 0, random_state(module.device))
    assert (found.phase, found.layer, found.clean) == ("loss", None, "L01.head")
    assert "log" not in vars(module)
    with pytest.warns(UserWarning, match=r"self\.log"):  # the control
        module.log("loss", 0.0)
    assert find_offender(module, lambda x: module.head(module.body(x)).mean(), torch.randn(4, 3)) is None


def test_running_statistics_of_a_module_that_was_exchanged_are_kept(tmp_path):
    class Exchange(pl.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                pl_module.network[1] = nn.BatchNorm1d(8)

    class Compare(pl.Callback):
        def __init__(self, bundle):
            self.bundle, self.num_compared = bundle, 0

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            norm = pl_module.network[1]
            expected = {"running_mean": norm.running_mean, "running_var": norm.running_var}
            for name, value in expected.items():
                kept = self.bundle._buffers[f"network.1.{name}"]
                assert kept.equal(value)
                assert kept.data_ptr() != value.data_ptr()
            self.num_compared += 1

    bundle = OffenderBundle(tmp_path)
    compare = Compare(bundle)
    fit(tmp_path, Exchange(), bundle, compare, poison_at=None, max_epochs=2)
    assert compare.num_compared == 20


def test_a_search_leaves_the_last_loss(tmp_path):
    module = fit(tmp_path, poison_at=None)
    before = module.last_loss
    batch = [torch.full((4, 3), float("inf")), torch.zeros(4, dtype=torch.long)]
    found = find_in_step(module, batch, 0, random_state(torch.device("cpu")))
    assert found is not None
    assert module.last_loss is before
    module.note_loss(torch.tensor(7.0))  # not muted any more
    assert float(module.last_loss) == 7.0
