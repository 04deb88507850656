"""The command line without torchmetrics and torch's compiler: users' code gets the real ones, and losses stay."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from stabletrain.app.lean_start import lean_imports

ROOT = Path(__file__).parents[2]
INSTALL = """
import sys
import torch
from stabletrain.app.lean_start import lean_imports
from stabletrain.app.lean_start.deferred_modules import is_deferred
lean_imports.install()
import pytorch_lightning as pl
"""
METRICS = """
from torchmetrics import Accuracy, MeanMetric, MeanSquaredError, Metric, MetricCollection
assert is_deferred("torchmetrics") and not {"scipy", "matplotlib", "transformers"} & set(sys.modules)
accuracy = Accuracy(task="multiclass", num_classes=3)
accuracy.update(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 1, 2]))
assert accuracy.compute() == 0.75
assert issubclass(pl.core.module.Metric, Metric)

import torchmetrics.text
assert [m for m in sys.modules if m.startswith("torchmetrics") and is_deferred(m)] == []
assert all(hasattr(torchmetrics, name) for name in torchmetrics.__all__) and len(torchmetrics.__all__) > 90
assert torchmetrics.Accuracy is torchmetrics.classification.Accuracy is Accuracy
assert torchmetrics.Metric is Metric and issubclass(torchmetrics.text.CharErrorRate, Metric)
assert abs(torchmetrics.text.CharErrorRate()(["abcd"], ["abxd"]).item() - 0.25) < 1e-6
figure, _ = accuracy.plot()
assert type(figure).__module__ == "matplotlib.figure"
"""
DYNAMO = """
from lightning_fabric.wrappers import OptimizedModule
net = torch.nn.Linear(3, 2)
optimizer = torch.optim.Adam(net.parameters())
net(torch.randn(4, 3)).sum().backward()
optimizer.step()
optimizer.zero_grad()
add_group = torch.optim.Optimizer.add_param_group.__wrapped__
assert is_deferred("torch._dynamo") and "sympy" not in sys.modules
assert vars(add_group)["__dynamo_disable"] is add_group and not isinstance(net, OptimizedModule)

compiled = torch.compile(net, backend="eager")
assert not is_deferred("torch._dynamo") and "__dynamo_disable" not in vars(add_group)
import torch._dynamo.eval_frame
assert torch._dynamo.OptimizedModule is sys.modules["torch._dynamo.eval_frame"].OptimizedModule is type(compiled)
assert isinstance(compiled, OptimizedModule) and not isinstance(net, OptimizedModule)
assert issubclass(type(compiled), OptimizedModule) and not issubclass(type(net), OptimizedModule)
x = torch.randn(4, 3)
assert compiled(x).equal(net(x)) and torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
torch.optim.SGD(net.parameters())
assert vars(add_group)["__dynamo_disable"]._torchdynamo_disable
from pytorch_lightning.trainer.connectors.logger_connector.result import _ResultCollection
disabled = _ResultCollection.update_metrics.__closure__
assert any(getattr(cell.cell_contents, "_torchdynamo_disable", False) for cell in disabled)
"""
OWN_MODULE = """
import pytorch_lightning as pl
import torch
from torchmetrics.text import CharErrorRate


class Own(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.compile(torch.nn.Linear(64, 10), backend="eager")
        self.errors = CharErrorRate()

    def training_step(self, batch, index):
        self.log("errors", self.errors(["abcd"], ["abxd"]))
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())
"""


def run(*command: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_torchmetrics_is_whole_as_soon_as_it_is_used(tmp_path):
    run("-c", INSTALL + METRICS, folder=tmp_path)


def test_the_compiler_is_whole_as_soon_as_it_is_used(tmp_path):
    run("-c", INSTALL + DYNAMO, folder=tmp_path)


def test_without_the_command_line_nothing_is_deferred(tmp_path):
    code = INSTALL.replace("lean_imports.install()", "import stabletrain, stabletrain.training")
    imported = run("-c", f"{code}\nprint(*(m for m in sys.modules if not is_deferred(m)))", folder=tmp_path).split()
    assert set(imported) > {"torch._dynamo", "sympy", "torchmetrics", "torchmetrics.functional.text", "scipy.signal"}


def test_only_what_comes_before_the_first_run_stays_for_good(monkeypatch):
    monkeypatch.setattr(lean_imports, "is_installed", lambda: True)
    monkeypatch.delitem(sys.modules, "pytorch_lightning", raising=False)
    with lean_imports.without_collection():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    gc.unfreeze()
    monkeypatch.setitem(sys.modules, "pytorch_lightning", ModuleType("pytorch_lightning"))
    with lean_imports.without_collection():
        assert gc.isenabled()
    assert gc.get_freeze_count() == 0


@pytest.mark.slow
def test_a_users_module_trains_alike_with_and_without(tmp_path):
    (tmp_path / "own.py").write_text(OWN_MODULE)
    overrides = ["model=custom", "model._target_=own.Own", "trainer.max_steps=5", "logger=none"]
    run("-m", "stabletrain", *overrides, "output_dir=lean", folder=tmp_path)
    code = "import sys; from stabletrain.app.cli import main; sys.exit(main())"
    run("-c", code, *overrides, "output_dir=plain", folder=tmp_path)
    lean, plain = (
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("lean", "plain")
    )
    assert list(lean) == list(plain) == ["net._orig_mod.weight", "net._orig_mod.bias"]
    assert all(lean[name].equal(plain[name]) for name in plain)
