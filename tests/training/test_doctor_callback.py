"""The doctor as a callback: the findings of a plain loop and of the record, printed briefly; it may stop a run."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import stabletrain as st
from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.recorded_run import observe
from stabletrain.record.reader import load_record
from stabletrain.training.callbacks.doctor_callback import MAX_LINES
from stabletrain.training.optimization.stability import SickRun

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]
NUM_STEPS, LR = 60, 1e-3
NO_TRIAL = 100  # steps; fewer are a trial to a trainer, and all there is to a loop that says so


class Foreign(pl.LightningModule):
    """A LightningModule that is not composed by stabletrain."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        layers = [m for i in range(depth) for m in (nn.Linear(8, 8), nn.Sigmoid())]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def configure_optimizers(self):
        if len(self.body) == 2:
            return torch.optim.Adam(self.parameters(), lr=1e-2)
        return torch.optim.SGD(self.parameters(), lr=LR)


def make(depth: int = 14, num_steps: int = NUM_STEPS):
    torch.manual_seed(0)
    x = torch.randn(16 * num_steps, 8)
    return Foreign(depth), DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=16)


def train(folder, doctor, depth: int = 14, num_steps: int = NUM_STEPS):
    module, loader = make(depth, num_steps)
    trainer = pl.Trainer(
        logger=False,
        callbacks=[doctor],
        default_root_dir=folder,
        max_epochs=1,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, loader)
    return doctor


def alone(findings):
    return [(f.kind, f.severity, f.layer, f.first_step, f.last_step, f.overrides) for f in findings]


def test_the_callback_finds_what_the_doctor_finds_in_a_plain_loop_and_diagnose_in_the_record(tmp_path):
    callback = st.callbacks.Doctor(prior_loss=0.693, say=lambda line: None)
    train(tmp_path / "tensorboard", callback, num_steps=NO_TRIAL)
    assert callback.verdict == "vanishing"
    assert alone(callback.findings) == alone(diagnose(observe(load_record(tmp_path))))
    model, loader = make(num_steps=NO_TRIAL)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    doctor = st.Doctor(model, optimizer=optimizer, num_steps=NO_TRIAL, prior_loss=0.693)
    for x, y in loader:
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        doctor.step(loss)
        optimizer.step()
    assert [x[:4] for x in alone(doctor.findings)] == [x[:4] for x in alone(callback.findings)]


def test_it_says_what_opens_in_one_line_and_how_it_went(tmp_path, capsys):
    doctor = train(tmp_path, st.callbacks.Doctor(prior_loss=0.693))
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("step ")]) <= MAX_LINES
    assert f"verdict: {doctor.verdict}   after {NUM_STEPS} steps" in lines
    assert doctor.seconds > 0


def test_a_healthy_run_gets_no_line_but_the_verdict(tmp_path, capsys):
    train(tmp_path, st.callbacks.Doctor(), depth=1)
    assert capsys.readouterr().out.splitlines() == [f"verdict: healthy   after {NUM_STEPS} steps"]


def test_a_critical_finding_that_stays_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "stabletrain.diagnosis.openings.PAUSE_FACTOR", 0.0
    )  # without it, sixty steps are over before the second diagnosis
    with pytest.raises(SickRun, match="vanishing in L00") as stopped:
        train(tmp_path, st.callbacks.Doctor(fail_on="critical", prior_loss=0.693, say=lambda line: None))
    assert 20 <= stopped.value.step < NUM_STEPS


def test_a_severity_that_does_not_exist_is_refused():
    with pytest.raises(st.RequestError, match="fail_on") as caught:
        st.callbacks.Doctor(fail_on="fatal")
    assert (caught.value.key, caught.value.found) == ("fail_on", "fatal")


def test_the_callback_and_the_doctor_of_a_plain_loop_are_two_classes_with_two_names():
    assert st.callbacks.Doctor.__name__ == "DoctorCallback"
    assert st.Doctor.__name__ == "Doctor"
