"""`check`: what it refuses, what it notes, and that it trains and writes nothing; user-defined models and data."""

from __future__ import annotations

import json
import textwrap

import pytest
import yaml

from stabletrain.app.cli import main
from stabletrain.record.reader import load_record

OWN = textwrap.dedent(
    """
    import pytorch_lightning as pl
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, Dataset, TensorDataset

    class Net(nn.Module):
        def __init__(self, num_inputs, num_outputs, hidden: int = 8, scale: float = 1.0):
            super().__init__()
            self.first = nn.Linear(num_inputs, hidden)
            self.last = nn.Linear(hidden, num_outputs)
            self.scale = scale

        def forward(self, x):
            return self.scale * self.last(torch.tanh(self.first(x.flatten(1))))

    class Detached(Net):
        def forward(self, x):
            return super().forward(x).detach()

    class Integer(Net):
        def forward(self, x):
            return super().forward(x).round().long()

    class Frozen(Net):
        def __init__(self, num_inputs, num_outputs):
            super().__init__(num_inputs, num_outputs)
            self.requires_grad_(False)

    class Lazy(Net):
        def __init__(self, num_inputs, num_outputs):
            super().__init__(num_inputs, num_outputs)
            self.first = nn.LazyLinear(8)

    class NoSteps(pl.LightningModule):
        def forward(self, x):
            return x

    class NoLoader(pl.LightningDataModule):
        pass

    class Lit(pl.LightningModule):
        def __init__(self, manual: bool = False):
            super().__init__()
            self.net = nn.Linear(64, 10)
            self.automatic_optimization = not manual

        def training_step(self, batch, batch_idx):
            x, y = batch
            loss = nn.functional.cross_entropy(self.net(x.flatten(1)), y)
            if not self.automatic_optimization:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
            return loss

        def validation_step(self, batch, batch_idx):
            x, y = batch
            self.log("val_loss", nn.functional.cross_entropy(self.net(x.flatten(1)), y))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def tensors():
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(96, 1, 8, 8, generator=generator)
        return x, (x.mean((1, 2, 3)) > 0).long()

    class Points(Dataset):
        def __init__(self, offset: int = 0, nan: bool = False, single: bool = False):
            self.x, self.y = tensors()
            self.y = self.y * (not single) + offset
            if nan:
                self.x[3] = float("nan")

        def __len__(self):
            return len(self.x)

        def __getitem__(self, index):
            return self.x[index], self.y[index]

    class Module(pl.LightningDataModule):
        def __init__(self, batch_size: int = 16):
            super().__init__()
            self.batch_size = batch_size

        def setup(self, stage):
            self.set = TensorDataset(*tensors())

        def train_dataloader(self):
            return DataLoader(self.set, self.batch_size)

        def val_dataloader(self):
            return DataLoader(self.set, self.batch_size)
    """
)
QUICK = ["logger=none", "trainer=debug", "trainer.max_epochs=1"]
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*before.*optimizer.step.*"),
    pytest.mark.filterwarnings("ignore:.*`training_step` returned `None`.*"),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "own_parts.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    import sys

    sys.modules.pop("own_parts", None)


def ask(capsys, *words):
    code = main(list(words))
    printed = capsys.readouterr()
    return code, printed.out + printed.err


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("", "1,257 train, 270 val, 270 test examples"),
        ("model=transformer data=copy data.num_train=100", "9 outputs, 70 steps"),
        ("model=resnet norm=group", "image input of 1"),
        ("+lr_find=true", "rate"),
        ("lr_find=true", "rate"),
        ("norm=layer residual=rezero", "makes a norm unnecessary"),
        ("activation=selu", "init=lecun"),
        ("norm=batch model.depth=40", "gradient grows about"),
        ("norm=weight clip=adaptive", "clip=norm is the safer limit"),
        ("model=resnet init=fixup", "init=fixup is made for networks without norm"),
        ("model=custom model._target_=own_parts.Lit", "its own optimizer"),
        ("model=custom model._target_=own_parts.Net model.hidden=16", "(1,210 parameters)"),
        ("model=cnn data=custom data._target_=own_parts.Points", "custom: classification, image input of 1, 2 outputs"),
        ("model=resnet data=custom data._target_=own_parts.Module", "Module: classification, image input"),
        ("optimizer=adam optimizer._target_=torch.optim.NAdam +optimizer.momentum_decay=4e-3", "ready to train"),
    ],
)
def test_what_fits_is_described_and_nothing_is_written(here, capsys, words, shown):
    code, printed = ask(capsys, "check", *words.split())
    assert code == 0, printed
    assert shown in printed
    assert "ready to train" in printed
    assert sorted(p.name for p in here.iterdir() if p.name != "__pycache__") == ["own_parts.py"]


@pytest.mark.parametrize(
    ("words", "key", "found"),
    [
        ("norm=batch data.batch_size=1", "data.batch_size", "1 over 1 process"),
        ("model=resnet residual=dense", "residual", "DenseResidual"),
        ("model=densenet1d residual=add", "residual", "AddResidual"),
        ("residual=deepnorm", "residual", "DeepNormResidual"),
        ("norm=instance", "norm", "InstanceNorm"),
        ("activation=sigmoid init=critical", "activation", "Sigmoid"),
        ("init=fixup", "init", ""),
        ("model=resnet init=fixup residual=rezero norm=none", "init", "fixup with residual=rezero"),
        ("model=transformer norm=spectral init=fixup", "norm", "spectral"),
        ("model.stochastic_depth=0.5", "model.stochastic_depth", "0.5 with NoResidual"),
        ("model=lstm model.bidirectional=true data=text", "model.bidirectional", "True"),
        ("model=transformer data=text norm=instance", "norm", "InstanceNorm"),
        ("model=transformer model.num_heads=3", "model.width", "64 with 3 heads"),
        ("model=cnn data=circles", "model", "CNN"),
        ("data=copy", "model", "MLP"),
        ("optimizer.lr=0", "optimizer.lr", "0"),
        ("optimizer=momentum optimizer.momentum=2", "optimizer.momentum", "2"),
        ("loss.label_smoothing=1", "loss.label_smoothing", "1.0"),
        ("loss.label_smoothing=0.1 model=lstm data=adding", "loss.label_smoothing", "0.1"),
        ("model=custom", "model._target_", "nothing"),
        ("model=custom model._target_=own_parts.Net model.hiddden=3", "model.hiddden", "3"),
        ("model=custom model._target_=own_parts.Net model.hidden=x", "model.hidden", "x"),
        ("model=custom model._target_=own_parts.Net norm=batch", "norm", "BatchNorm"),
        ("model=custom model._target_=own_parts.Net residual=add", "residual", "AddResidual"),
        ("model=custom model._target_=own_parts.Lit model.manual=true clip=norm", "clip", "NormClip"),
        ("model=custom model._target_=own_parts.Lit lr_find=true", "lr_find", "true"),
        ("model=custom model._target_=own_parts.Lit loss.label_smoothing=0.1", "loss.label_smoothing", "0.1"),
        ("model=custom model._target_=own_parts.Points", "model._target_", "own_parts.Points (type)"),
        ("model=custom model._target_=own_parts.Detached", "model", "without a gradient, torch.float32"),
        ("model=custom model._target_=own_parts.Integer", "model", "without a gradient, torch.int64"),
        ("model=custom model._target_=own_parts.Frozen", "model", "4 weights, all frozen"),
        ("model=custom model._target_=torch.nn.Identity", "model", "none"),
        ("model=custom model._target_=own_parts.Lazy", "model", "weights without a size"),
        (
            "model=custom model._target_=own_parts.NoSteps",
            "model._target_",
            "without training_step and configure_optimizers",
        ),
        ("data=custom data._target_=own_parts.NoLoader", "data._target_", "NoLoader without train_dataloader"),
        ("activation=leaky_relu activation.negative_slope=nan", "activation.negative_slope", "nan"),
        ("data=blobs data.num_classes=300", "data.num_samples", "2000"),
        (
            "schedule._target_=torch.optim.lr_scheduler.ReduceLROnPlateau ~schedule.num_warmup_steps",
            "schedule",
            "ReduceLROnPlateau",
        ),
        ("data=custom", "data._target_", "nothing"),
        ("model=cnn data=custom data._target_=own_parts.Points data.nan=true", "data", ""),
        ("model=cnn data=custom data._target_=own_parts.Points data.single=true", "data", ""),
        ("clip=chain clip.clips.norm.max_norm=-1", "clip.clips.norm.max_norm", "-1"),
        ("clip=chain +clip.clips.norm.max_nrom=1", "clip.clips.norm.max_nrom", "1"),
        ("data=openml", "data.dataset", "null"),
        ("data=text data.path=nowhere.txt", "data.path", "nowhere.txt"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(here, capsys, words, key, found):
    for command in (["check"], ["logger=none"]):
        code, printed = ask(capsys, *command, *words.split())
        assert code == 2, printed
        assert "Traceback" not in printed
        said = dict(line.split(maxsplit=1) for line in printed.splitlines()[1:] if len(line.split(maxsplit=1)) == 2)
        assert said["key"].split(".")[0] == key.split(".")[0], printed
        assert key in said["key"] or said["key"] in key, printed
        assert found in said["found"], printed
        assert "allowed" in said, printed
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    "words",
    [
        "model=custom model._target_=own_parts.Net clip=norm init=orthogonal",
        "model=custom model._target_=own_parts.Net norm=weight optimizer=muon schedule=wsd",
        "model=transformer data=text data.num_steps=16 clip=zscore schedule=onecycle loss.label_smoothing=0.1",
        "model=cnn data=custom data._target_=own_parts.Points",
        "model=resnet data=custom data._target_=own_parts.Module clip=adaptive",
    ],
)
def test_what_was_checked_trains(here, capsys, words):
    code, printed = ask(capsys, *QUICK, "output_dir=mine", *words.split())
    assert code == 0, printed
    summary = json.loads((here / "mine" / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["metrics"]["val/loss"] > 0


def test_a_lightning_module_is_trained_as_it_is_and_clipped(here, capsys):
    code, printed = ask(
        capsys, *QUICK, "output_dir=mine", "model=custom", "model._target_=own_parts.Lit", "clip=norm",
        "clip.max_norm=0.01", "trainer.log_every_n_steps=1",
    )  # fmt: skip
    assert code == 0, printed
    record = load_record(here / "mine")
    assert max(record.scalars["clip/norm_after"].values) <= 0.01 * (1 + 1e-4)
    assert record.scalars["clip/fraction"].values[-1] == 1.0
    assert len(record.scalars["train/loss"].values) == 10
    assert record.layers == ["L00.net.weight", "L01.net.bias"]
    assert (here / "mine" / "checkpoints" / "best.ckpt").is_file()
    assert "val_loss" in json.loads((here / "mine" / "summary.json").read_text())["metrics"]


def test_the_rate_that_was_found_is_the_runs_own(here, capsys):
    code, printed = ask(capsys, *QUICK, "output_dir=mine", "+lr_find=true")
    assert code == 0, printed
    config = yaml.safe_load((here / "mine" / "config.yaml").read_text())
    assert config["lr_find"] is False
    assert 1e-4 < config["optimizer"]["lr"] < 1e-1
    assert config["optimizer"]["lr"] != 1e-3


def test_what_is_proposed_for_many_classes_is_enough_for_them(here, capsys):
    words = ["data=blobs", "data.num_classes=300"]
    assert "data.num_samples=3000" in ask(capsys, "check", *words)[1]
    assert ask(capsys, "check", *words, "data.num_samples=3000")[0] == 0


def test_check_proposes_to_check_what_fixes_it(here, capsys):
    _, printed = ask(capsys, "check", "model=resnet", "residual=dense")
    fix = next(line.split(maxsplit=1)[1] for line in printed.splitlines() if line.strip().startswith("fix"))
    assert fix == "python -m stabletrain check model=resnet residual=add"
    assert ask(capsys, *fix.split()[3:])[0] == 0
