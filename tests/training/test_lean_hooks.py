"""Hooks that nobody implements are not called; all others are, in the same order."""

from __future__ import annotations

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from stabletrain.training import GradientWatch, TrainingModule
from stabletrain.training.lean_hooks import STEP_HOOKS, NoProfiler, skip_empty_hooks_
from stabletrain.training.optimization.gradient_clipping import ClipGradients

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*no `val_dataloader`.*"),
]


class Own(Callback):
    """Of a user, who may call a hook that he has not implemented."""

    def __init__(self):
        self.calls = []

    def on_before_backward(self, trainer, pl_module, loss):
        self.calls.append("backward")
        self.on_after_backward(trainer, pl_module)

    def on_train_batch_end(self, trainer, *_):
        self.calls.append("end")


class Counting(NoProfiler):
    """Counts the hooks of callbacks and of the module that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def profile(self, action_name):
        if action_name.startswith(("[Callback]", "[LightningModule]")):
            self.names.append(action_name.rpartition(".")[2])
        return super().profile(action_name)


def fit(folder, is_lean: bool, module_class=TrainingModule):
    torch.manual_seed(0)
    module = module_class(nn.Linear(3, 2), "classification", 2, partial(torch.optim.SGD, lr=0.1))
    x = torch.randn(16, 3)
    own, counting = Own(), Counting()
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        profiler=counting,
        callbacks=[own, GradientWatch(1, 1), ModelCheckpoint(folder)],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    if is_lean:
        skip_empty_hooks_(trainer, module)
    trainer.fit(module, DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=4))
    return module, own, [name for name in counting.names if name in STEP_HOOKS]


def test_fewer_hooks_are_called_and_training_is_the_same(tmp_path):
    module, own, hooks = fit(tmp_path / "lean", True)
    other, other_own, all_hooks = fit(tmp_path / "all", False)
    assert own.calls == other_own.calls == ["backward", "end"] * 4
    for name, value in other.state_dict().items():
        assert module.state_dict()[name].equal(value)
    num_callbacks, num_steps = 3, 4
    assert len(all_hooks) == (num_callbacks + 1) * len(STEP_HOOKS) * num_steps
    # all six of the user's, three of the watch, one of the checkpoint, one of the module
    assert len(hooks) == (6 + 3 + 1 + 1) * num_steps
    order = [name for name in all_hooks if name in hooks]
    assert list(dict.fromkeys(hooks)) == list(dict.fromkeys(order))


def test_a_subclass_of_the_module_keeps_all_its_hooks(tmp_path):
    class Sub(TrainingModule):
        def on_train_batch_start(self, batch, batch_idx):
            self.num_started = getattr(self, "num_started", 0) + 1
            self.on_after_backward()

    assert fit(tmp_path, True, Sub)[0].num_started == 4


def test_hooks_that_are_implemented_stay():
    trainer = pl.Trainer(
        logger=False, accelerator="cpu", callbacks=[watch := GradientWatch(), clip := ClipGradients(None)]
    )
    module = TrainingModule(nn.Linear(3, 2), "classification", 2, torch.optim.SGD)
    skip_empty_hooks_(trainer, module)
    hidden = {name for name in STEP_HOOKS if getattr(watch, name) is None}
    assert hidden == {"on_before_zero_grad", "on_before_backward", "on_after_backward"}
    assert callable(clip.on_before_optimizer_step)
    assert clip.on_train_batch_start is None
    assert [name for name in STEP_HOOKS if getattr(module, name) is not None] == ["on_train_batch_end"]
    assert callable(TrainingModule.on_before_zero_grad)  # the class is not changed


def test_the_profiler_measures_nothing():
    profiler = NoProfiler()
    with profiler.profile("outer"), profiler.profile("inner"):
        pass
    with pytest.raises(ZeroDivisionError), profiler.profile("a failure passes"):
        _ = 1 / 0
    assert profiler.summary() == ""
