"""Where a NaN comes from, in any LightningModule: what the doctor of a plain loop says of the same step."""

from __future__ import annotations

import json

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import stabletrain as st
from stabletrain.app.commands.diagnose import judge
from stabletrain.gradient.clip import NoClip
from stabletrain.record.run_folder import RunFolder
from stabletrain.training.optimization.gradient_clipping import ClipGradients
from stabletrain.training.optimization.stability import NonFiniteGradient

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]
NUM_STEPS, BATCH, BAD = 16, 4, 11  # batches; their size; the step on which a program goes wrong


class Foreign(pl.LightningModule):
    """A LightningModule that is not composed by stabletrain."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2)), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    def loss_of(self, outputs: Tensor, y: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs, y)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss_of(self(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


class Root(Foreign):
    """Its loss has a root, which is taken of 0 once."""

    def training_step(self, batch, batch_idx):
        x, _ = batch
        y = self(x) * (0.0 if self.global_step == BAD else 1.0)
        return y.square().sum(1).sqrt().mean()  # the line


class Flipped(Foreign):
    """Returns NaN once, as a flipped bit would."""

    num_calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.num_calls += 1
        y = super().forward(x)
        return y + torch.tensor(torch.nan if self.num_calls == BAD + 1 else 0.0)


class Divided(Foreign):
    """Divides by what dropout has left: whether it is 0 hangs on the random numbers of the step."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        return self.head(h) + (1 / h[:, :2] if self.global_step == BAD else 0)


def fit(folder, module, *callbacks, poison=None, **settings):
    torch.manual_seed(0)
    x, y = torch.randn(NUM_STEPS * BATCH, 3), torch.randn(NUM_STEPS * BATCH, 2)
    if poison is not None:
        x[poison] = torch.nan
    trainer = pl.Trainer(
        logger=False, default_root_dir=folder, max_epochs=1, accelerator="cpu", callbacks=[*callbacks],
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, **settings,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(x, y), batch_size=BATCH))
    return trainer


def diagnosed(folder, module, **settings):
    doctor = st.callbacks.Doctor(say=lambda line: None)
    fit(folder, module, doctor, **settings)
    found = next(f for f in doctor.findings if f.kind == "nonfinite")
    saved = json.loads((folder / "findings.json").read_text())
    assert found.evidence["why"] in json.dumps(saved)
    return found


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_nan_in_the_batch_comes_again_and_has_its_samples(tmp_path, precision):
    found = diagnosed(tmp_path, Foreign(), poison=BATCH * BAD + 2, precision=precision)
    assert (found.first_step, found.severity) == (BAD, "critical")
    assert (found.evidence["origin"], found.evidence["samples"]) == ("input", [2])
    assert (found.evidence["module"], found.evidence["reproducible"]) == ("body.0", True)


def test_the_line_is_that_of_the_training_step(tmp_path):
    found = diagnosed(tmp_path, Root())
    assert (found.evidence["origin"], found.evidence["operation"]) == ("invalid_operation", "SqrtBackward0")
    assert found.evidence["line"].endswith("# the line")


def test_a_nan_that_does_not_come_again_is_no_matter_of_numbers(tmp_path):
    found = diagnosed(tmp_path, Flipped())
    assert (found.evidence["origin"], found.evidence["reproducible"]) == (None, False)
    assert "hardware" in found.advice


def test_the_replay_has_the_random_numbers_of_the_step(tmp_path):
    found = diagnosed(tmp_path, Divided())
    assert (found.evidence["origin"], found.evidence["why"]) == ("invalid_operation", "division by 0")
    assert found.evidence["reproducible"] is True
    assert found.evidence["module"] == "Divided"


def test_the_replay_changes_nothing(tmp_path):
    plain, watched = Root(), Root()
    watched.load_state_dict(plain.state_dict())
    fit(tmp_path / "a", plain)
    after = torch.get_rng_state()
    fit(tmp_path / "b", watched, st.callbacks.Doctor(say=lambda line: None))
    assert torch.equal(torch.get_rng_state(), after)
    for a, b in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(a.nan_to_num(), b.nan_to_num())


class Raising(Root):
    """Its author stops the training at a NaN."""

    def training_step(self, batch, batch_idx):
        x, _ = batch
        outputs = self(x)
        loss = (outputs.softmax(1) * (0.0 if self.global_step == BAD else 1.0)).log().mean()  # the line
        if not torch.isfinite(loss):
            raise ValueError("stop")
        return loss


class Checking(Foreign):
    """Its author checks what a layer returns."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        if h.isnan().any():
            raise ValueError("stop")
        return self.head(h)


class Replacing(Foreign):
    """Its author replaces a loss that is NaN, as pytorch-forecasting does; the new one has no graph."""

    def training_step(self, batch, batch_idx):
        if self.global_step == BAD:
            next(self.parameters()).data.view(-1)[0] = torch.nan
        loss = super().training_step(batch, batch_idx)
        return loss if torch.isfinite(loss) else torch.tensor(1e9)


class Interrupted(Foreign):
    """Its author presses Control-C, beside an attention mask and an empty table of results."""

    def training_step(self, batch, batch_idx):
        results, mask = torch.full((5,), torch.nan), torch.full((4, 4), -torch.inf)
        if self.global_step == BAD:
            raise KeyboardInterrupt
        return super().training_step(batch, batch_idx) + 0 * len(results) * len(mask)


@pytest.mark.parametrize(
    ("module", "settings", "operation", "origin"),
    [
        (Raising(), {}, "LogBackward0", "invalid_operation"),
        (Checking(), {"poison": BATCH * BAD + 2}, "AddmmBackward0", "input"),
        (Root(), {"detect_anomaly": True}, "SqrtBackward0", "invalid_operation"),
        (Foreign(), {"poison": BATCH * BAD + 2, "detect_anomaly": True}, "AddmmBackward0", "input"),
        (Replacing(), {}, "SGD.step", "weight"),
    ],
)
def test_a_step_that_raised_is_explained(tmp_path, module, settings, operation, origin):
    doctor = st.callbacks.Doctor(say=lambda line: None)
    with pytest.raises((ValueError, RuntimeError)):
        fit(tmp_path, module, doctor, **settings)
    (found,) = (f for f in doctor.findings if f.kind == "nonfinite")
    assert (found.first_step, found.severity) == (BAD, "critical")
    assert (found.evidence["origin"], found.evidence["operation"]) == (origin, operation)
    assert "clip" not in found.advice.replace("or clipping does not", "")
    assert [f.kind for f in doctor.findings if f.alarms] == ["nonfinite"]


def test_an_exception_that_has_nothing_to_do_with_numbers_is_no_finding(tmp_path):
    doctor = st.callbacks.Doctor(say=lambda line: None)
    with pytest.raises(SystemExit):
        fit(tmp_path, Interrupted(), doctor)
    assert "nonfinite" not in [f.kind for f in doctor.findings]


@pytest.mark.parametrize("doctor_first", [True, False])
def test_a_bundle_is_part_of_the_finding_in_any_order_of_callbacks(tmp_path, doctor_first):
    doctor, bundle = st.callbacks.Doctor(say=lambda line: None), st.callbacks.OffenderBundle()
    callbacks = [doctor, bundle] if doctor_first else [bundle, doctor]
    with pytest.raises(NonFiniteGradient):
        fit(tmp_path, Foreign(), *callbacks, ClipGradients(NoClip()), poison=BATCH * BAD + 2)
    (found,) = (f for f in doctor.findings if f.kind == "nonfinite")
    assert (found.evidence["origin"], found.evidence["module"]) == ("input", "body.0")
    assert (found.evidence["samples"], found.evidence["samples_are"]) == ([BATCH * BAD + 2], "dataset")
    assert (tmp_path / found.evidence["bundle"]).is_file()
    assert f"(samples {BATCH * BAD + 2} of the training set)" in found.advice
    again, _ = judge(RunFolder(tmp_path))
    assert [f.evidence for f in again if f.kind == "nonfinite"] == [found.evidence]
