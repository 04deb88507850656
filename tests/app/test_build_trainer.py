"""Lightning's trainer: what its configuration changes in torch."""

import pytest
import torch

from stabletrain.app.building.build_trainer import build_trainer
from stabletrain.app.composition.compose import compose


@pytest.fixture(autouse=True)
def _reset():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("asked", [False, True])
def test_deterministic_is_what_was_asked_for_whatever_ran_before(before, asked, monkeypatch):
    torch.use_deterministic_algorithms(before)
    calls = []
    real = torch.use_deterministic_algorithms
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode: (calls.append(mode), real(mode)))
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    config = compose(["trainer=cpu", f"trainer.deterministic={str(asked).lower()}"]).config
    build_trainer(config, logger=False, enable_checkpointing=False)
    assert torch.are_deterministic_algorithms_enabled() is asked
    assert calls == ([] if not before and not asked else [asked])  # the call imports torch's compiler
