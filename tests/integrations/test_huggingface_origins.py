"""Where a NaN comes from, in a real Hugging Face `Trainer`: what the doctor of a plain loop says of the same step."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import nn

from stabletrain.vocabulary.origins import INPUT, INVALID

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
# warnings of transformers about itself and about a machine without a GPU
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]
NUM_STEPS, BATCH, BAD = 8, 4, 5


class Classifier(nn.Module):
    """Any module that returns its loss may be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2)), nn.Linear(8, 2)
        self.num_calls = 0

    def forward(self, x, labels):
        self.num_calls += 1
        logits = self.logits_of(x)
        return {"loss": self.loss_of(logits, labels), "logits": logits}

    def logits_of(self, x):
        return self.head(self.body(x))

    def loss_of(self, logits, labels):
        return nn.functional.cross_entropy(logits, labels)

    @property
    def is_bad(self):
        return self.num_calls == BAD + 1


class Flipped(Classifier):
    """Returns NaN once, as a flipped bit would."""

    def logits_of(self, x):
        return super().logits_of(x) + torch.tensor(torch.nan if self.is_bad else 0.0)


class Masked(Classifier):
    """A softmax over a row that is masked completely, for examples of zeros."""

    def logits_of(self, x):
        h = self.body(x).masked_fill((x == 0).all(1, keepdim=True), -torch.inf).softmax(1)
        return self.head(h)


def rows(poison=None, value=torch.nan):
    x = torch.randn(NUM_STEPS * BATCH, 3, generator=torch.Generator().manual_seed(0))
    if poison is not None:
        x[poison] = value
    return [{"x": row, "labels": torch.tensor(i % 2)} for i, row in enumerate(x)]


def fit(folder, model, data, callbacks=(), **settings):
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        **{
            "per_device_train_batch_size": BATCH,
            "max_steps": NUM_STEPS,
            "learning_rate": 0.01,
            "train_sampling_strategy": "sequential",
            "report_to": "none",
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
            "logging_steps": 500,
            **settings,
        },
    )
    transformers.Trainer(model, arguments, train_dataset=data, callbacks=list(callbacks)).train()


def diagnosed(folder, model, data, **settings):
    from stabletrain.integrations.huggingface import WatchCallback

    torch.manual_seed(0)
    fit(folder, model, data, [WatchCallback()], **settings)
    findings = json.loads((folder / "findings.json").read_text())
    assert [f["kind"] for f in findings if f["severity"] != "info"] == ["nonfinite"]
    return findings[0]


@pytest.mark.parametrize(
    "settings", [{}, {"bf16": True}, {"gradient_accumulation_steps": 2, "max_steps": NUM_STEPS // 2}]
)
def test_a_nan_in_the_batch_comes_again_and_has_its_samples(tmp_path, settings):
    found = diagnosed(tmp_path, Classifier(), rows(BATCH * BAD + 2), **settings)
    assert found["first_step"] == BAD // settings.get("gradient_accumulation_steps", 1)
    evidence = found["evidence"]
    assert (evidence["origin"], evidence["samples"]) == (INPUT, [2])
    assert (evidence["module"], evidence["reproducible"]) == ("body.0", True)


def test_a_row_that_is_masked_completely(tmp_path):
    evidence = diagnosed(tmp_path, Masked(), rows(BATCH * BAD + 2, 0.0))["evidence"]
    assert (evidence["origin"], evidence["operation"]) == (INVALID, "SoftmaxBackward0")
    assert "softmax(1)" in evidence["line"]
    assert evidence["reproducible"] is True


def test_a_nan_that_does_not_come_again_is_no_matter_of_numbers(tmp_path):
    found = diagnosed(tmp_path, Flipped(), rows())
    assert (found["evidence"]["origin"], found["evidence"]["reproducible"]) == (None, False)
    assert "hardware" in found["advice"]


class Raising(Masked):
    """Its author stops the training at a NaN."""

    def loss_of(self, logits, labels):
        loss = super().loss_of(logits, labels)
        if not torch.isfinite(loss):
            raise ValueError("stop")
        return loss


def test_a_step_that_raised_is_explained(tmp_path, monkeypatch):
    from stabletrain.integrations.huggingface import WatchCallback

    callback = WatchCallback()
    with pytest.raises(ValueError, match="stop") as caught:
        fit(tmp_path, Raising(), rows(BATCH * BAD + 2, 0.0), [callback])
    monkeypatch.setattr(sys, "last_value", caught.value, raising=False)  # as Python does when a program ends
    callback._conclude_at_exit()
    (found,) = json.loads((tmp_path / "findings.json").read_text())
    assert (found["kind"], found["first_step"]) == ("nonfinite", BAD)
    assert (found["evidence"]["origin"], found["evidence"]["operation"]) == (INVALID, "SoftmaxBackward0")
