"""A real run, recorded once for all tests of the report."""

from __future__ import annotations

import pytest

from stabletrain.app.cli import main
from stabletrain.record.run_folder import RunFolder
from stabletrain.vocabulary.signals import SIGNALS

REQUEST = [
    "model=lstm",
    "model.width=8",
    "data=temporal_order",
    "data.num_steps=12",
    "data.num_train=120",
    "data.num_val=40",
    "data.num_test=40",
    "clip=norm",
    "clip.max_norm=0.01",
    "schedule=warmup_cosine",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "watch=every_step",
    f"watch.signals=[{','.join(SIGNALS)}]",
    "watch.signals_every=1",
    "watch.time_every=5",
    "logger=tensorboard",
]


@pytest.fixture(scope="session")
def native_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The folder of a run of two epochs, made by the command line: a clipped LSTM with every signal watched."""
    folder = RunFolder(tmp_path_factory.mktemp("native") / "run")
    assert main([*REQUEST, f"output_dir={folder.path}"]) == 0
    return folder
