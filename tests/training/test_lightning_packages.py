"""The trainers of `pytorch_lightning` and `lightning.pytorch` take the same callbacks, whichever is imported first."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

import stabletrain as st
from stabletrain.gradient import NoClip
from stabletrain.record.reader import load_record
from stabletrain.training.lightning_packages import Callback
from stabletrain.training.optimization.gradient_clipping import ClipGradients
from stabletrain.vocabulary import metric_names as names

ROOT = Path(__file__).parents[2]
IS_INSTALLED = importlib.util.find_spec("lightning") is not None
needs_lightning = pytest.mark.skipif(not IS_INSTALLED, reason="the package lightning is not installed")

TRAINING = """
import json, sys, warnings
from pathlib import Path

warnings.simplefilter("ignore")
folder, is_first = Path(sys.argv[1]), sys.argv[2] == "first"
if is_first:
    import lightning.pytorch as L
import stabletrain as st
from stabletrain.gradient import NoClip
from stabletrain.training.loggers import RecordLogger
from stabletrain.training.optimization.gradient_clipping import ClipGradients

doctor = st.callbacks.Doctor(say=print)
assert is_first or "lightning" not in sys.modules
import lightning.pytorch as L
import torch
from torch.utils.data import DataLoader, TensorDataset


class Classifier(L.LightningModule):
    def __init__(self, callback=None, lr=1e-2):
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(0)
        self.network = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        self.clip_gradients(optimizer, gradient_clip_val=0.5, gradient_clip_algorithm="norm")

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.hparams.lr)


x = torch.randn(640, 6, generator=torch.Generator().manual_seed(1))
y = torch.where(torch.arange(640) % 10 == 0, x[:, 1] > 0, x[:, 0] > 0).long()  # one in ten follows another rule
loader = DataLoader(TensorDataset(x, y), batch_size=8)
quiet = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}


def fit(module, name, **settings):
    trainer = L.Trainer(default_root_dir=folder / name, max_epochs=1, **quiet, **settings)
    trainer.fit(module, loader)
    return trainer


alone = Classifier()
fit(alone, "alone", logger=False, enable_checkpointing=False)
watched = Classifier(callback=doctor)
saved = fit(watched, "watched", callbacks=doctor).checkpoint_callback.best_model_path  # one callback, not a list
loaded = Classifier.load_from_checkpoint(saved, weights_only=False)
others = (st.callbacks.GradientWatch(), st.callbacks.OffenderBundle(), ClipGradients(NoClip()))
recorded = fit(Classifier(), "others", callbacks=list(others), logger=RecordLogger(folder / "others" / "tensorboard"))
broken = Classifier(lr=1e4)
sick = st.callbacks.Doctor(say=print)
fit(broken, "broken", callbacks=[sick], logger=False, enable_checkpointing=False)
print(json.dumps({
    "bases": [isinstance(c, L.Callback) for c in (doctor, *others)],
    "logger": isinstance(recorded.logger, L.loggers.Logger),
    "same": all(torch.equal(a, b) for a, b in zip(alone.parameters(), watched.parameters(), strict=True)),
    "verdict": [doctor.verdict, sick.verdict],
    "unseen": list(doctor.unseen),
    "loaded": [loaded.hparams.callback.verdict, loaded.hparams.lr],
    "step": recorded.global_step,
}))
"""


def run(code: str, *arguments: object) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@needs_lightning
@pytest.mark.parametrize("order", ["first", "last"])
def test_the_other_trainer_takes_our_callbacks_and_loggers(order, tmp_path):
    """Whether `lightning` is imported before stabletrain, or after a callback was made."""
    seen = json.loads(run(TRAINING, tmp_path, order).splitlines()[-1])
    assert seen == {
        "bases": [True] * 4,
        "logger": True,
        "same": True,
        "verdict": ["healthy", "lr_too_high"],
        "unseen": [],
        "loaded": ["healthy", 1e-2],
        "step": 80,
    }
    record = load_record(next((tmp_path / "watched").rglob("findings.json")).parent)
    assert record.scalars[names.TRAIN_LOSS].steps == [*range(80)]
    assert names.NORM_TOTAL in load_record(tmp_path / "others").scalars


@needs_lightning
def test_the_command_line_refuses_a_module_of_the_other_package(tmp_path):
    (tmp_path / "theirs.py").write_text("import lightning.pytorch as L\n\n\nclass Lit(L.LightningModule):\n    pass\n")
    command = [sys.executable, "-m", "stabletrain", "check", "model=custom", "model._target_=theirs.Lit"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "found    Lit, a lightning.pytorch.LightningModule" in done.stdout + done.stderr


STAND_IN = {  # what the other package is to us
    "lightning/__init__.py": "",
    "lightning/pytorch/__init__.py": "from lightning.pytorch.callbacks.callback import Callback\n",
    "lightning/pytorch/callbacks/__init__.py": "",
    "lightning/pytorch/callbacks/callback.py": "class Callback:\n    def on_new_hook(self): return 7\n",
}
ADOPTS = """
import sys
sys.path.insert(0, sys.argv[1])
if sys.argv[2] == "first":
    import lightning.pytorch
import stabletrain as st
from stabletrain.training.lightning_packages import Callback
import pytorch_lightning as pl
doctor = st.callbacks.Doctor()
assert ("lightning" in sys.modules) == (sys.argv[2] == "first")
from lightning.pytorch import Callback as Theirs
class Plain(pl.Callback): pass
print(isinstance(doctor, Theirs), isinstance(doctor, pl.Callback), doctor.on_new_hook(), issubclass(Plain, Theirs))
"""


@pytest.mark.parametrize("order", ["first", "last"])
def test_its_class_becomes_a_base_in_either_order(order, tmp_path):
    for name, text in STAND_IN.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert run(ADOPTS, tmp_path, order) == "True True 7 False"


def test_stabletrain_does_not_import_it():
    code = "import sys, stabletrain as st; st.callbacks.Doctor(); import stabletrain.app.building.build_trainer"
    assert run(f"{code}; print('pytorch_lightning' in sys.modules, 'lightning' in sys.modules)") == "True False"


CALLBACKS = {
    "doctor": lambda: st.callbacks.Doctor(fail_on="critical", prior_loss=2.0),
    "watch": lambda: st.callbacks.GradientWatch(3, 0, signals=["gradient", "update"]),
    "bundle": lambda: st.callbacks.OffenderBundle("here"),
    "clip": lambda: ClipGradients(NoClip()),
}


class _Copies(pl.Callback):
    """Pickles and copies callbacks in the middle of a training."""

    def __init__(self):
        self.copies = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 3:
            ours = [c for c in trainer.callbacks if isinstance(c, Callback)]
            self.copies = [pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)]


class _Classifier(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(4, 2)

    def training_step(self, batch, batch_idx):
        return torch.nn.functional.cross_entropy(self.head(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


# None outside of training:
LIVE = ("last_snapshot", "_watch", "_writer", "_inspections", "_prior", "_snapshot", "_owners")
RESULTS = {"findings", "unseen", "seconds", "meter"}


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_a_copy_made_during_training_has_the_arguments_and_no_part_in_it(tmp_path):
    made, copies = [make() for make in CALLBACKS.values()], _Copies()
    trainer = pl.Trainer(
        callbacks=[*made, copies], max_epochs=1, default_root_dir=tmp_path, logger=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    data = TensorDataset(torch.randn(48, 4), torch.randint(2, (48,)))
    trainer.fit(_Classifier(), DataLoader(data, batch_size=8))
    assert len(copies.copies) == 2
    for ours in copies.copies:
        for copied, make in zip(ours, CALLBACKS.values(), strict=True):
            fresh = make()
            assert vars(copied).keys() - {"log", "log_dict"} == vars(fresh).keys()  # set by Lightning
            arguments = {key for key in vars(fresh) if not key.startswith("_")} - RESULTS
            if isinstance(copied, st.callbacks.GradientWatch):  # the doctor has extended it
                arguments = {"histograms_every", "points_per_decade", "time_every"}
            assert {key: getattr(copied, key) for key in arguments} == {key: getattr(fresh, key) for key in arguments}
            assert [key for key in LIVE if getattr(copied, key, None) is not None] == []
            assert getattr(copied, "_batches", []) == []
