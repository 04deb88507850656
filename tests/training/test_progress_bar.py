"""The progress bar, the live table and the lines of real trainings, on a clock that advances with the steps."""

from __future__ import annotations

import io
import sys
from functools import partial

import pytest
import pytorch_lightning as pl
import rich.console
import torch
from pytorch_lightning.callbacks import Callback
from screen import Screen
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from stabletrain.training import GradientWatch, RecordLogger, TrainingModule
from stabletrain.training.callbacks.doctor_callback import DoctorCallback
from stabletrain.training.callbacks.live_table import LiveTable
from stabletrain.training.callbacks.progress_bar import ProgressBar
from stabletrain.training.callbacks.progress_line import LineProgress
from stabletrain.training.display import trainer_values

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*was configured so validation will run.*"),
    pytest.mark.filterwarnings("ignore:.*you defined a `validation_step` but have no `val_dataloader`.*"),
]
NUM_BATCHES = 20
STEP_S, VALIDATION_S = 0.125, 1.0  # of the clock


class Clock(Callback):
    """Advances with every batch; must be the first callback."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def on_train_batch_start(self, *_) -> None:
        self.now += STEP_S

    def on_validation_batch_start(self, *_) -> None:
        self.now += VALIDATION_S

    def on_test_batch_start(self, *_) -> None:
        self.now += VALIDATION_S


class At(Callback):
    """Calls a function at the end of one batch; must be the last callback."""

    def __init__(self, batch_idx: int, do) -> None:
        self.batch_idx, self.do = batch_idx, do

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if batch_idx == self.batch_idx:
            self.do()


class Foreign(pl.LightningModule):
    """Has no `last_loss`, no metrics, and returns its loss in a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def training_step(self, batch, batch_idx):
        return {"loss": 0 * self.layer(batch[0]).sum() + batch_idx}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def terminal(width=80, height=40, **settings) -> rich.console.Console:
    settings = {"force_terminal": True, "file": io.StringIO(), "_environ": {}} | settings
    return rich.console.Console(width=width, height=height, **settings)


def loader(num_batches=NUM_BATCHES):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4 * num_batches, 3, generator=generator)
    return DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=4)


def network(depth=1):
    return nn.Sequential(*(m for _ in range(depth) for m in (nn.Linear(3, 3), nn.Sigmoid())), nn.Linear(3, 2))


def train(folder, *callbacks, module=None, clock=None, validate=True, num_val_batches=2, ckpt_path=None, **settings):
    torch.manual_seed(0)
    module = module or TrainingModule(network(), "classification", 2, partial(torch.optim.SGD, lr=0.1))
    trainer = pl.Trainer(
        **{
            "logger": RecordLogger(folder / "tensorboard"),
            "callbacks": [*([clock] if clock else []), *callbacks],
            "default_root_dir": folder,
            "max_epochs": 2,
            "log_every_n_steps": 1,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "num_sanity_val_steps": 0,
        }
        | settings
    )
    loaders = [loader(), loader(num_val_batches)] if validate else [loader()]
    trainer.fit(module, *loaders, ckpt_path=ckpt_path)
    return trainer, module


def screen_of(console) -> Screen:
    return Screen(console.file.getvalue())


def test_the_last_frame_stays_and_is_the_final_state(tmp_path):
    console, clock = terminal(), Clock()
    _, module = train(tmp_path, GradientWatch(1, 0), ProgressBar(console, clock), clock=clock)
    lines = screen_of(console).text.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("epoch 2/2  ━━━━━")
    assert lines[0].endswith("step 40/40  8.0 steps/s  in 0:09")  # 40 steps of 1/8 s, 4 batches of 1 s
    assert lines[1].startswith(f"loss {module.last_loss.item():.4g}  val/accuracy ")
    assert " grad " in lines[1]
    assert screen_of(console).shows_cursor
    assert "\x1b[?25l" in console.file.getvalue()


def test_it_reads_the_loss_only_when_it_draws(tmp_path, monkeypatch):
    console, clock, steps = terminal(), Clock(), []
    monkeypatch.setattr("stabletrain.training.display.run_reader.loss_of", lambda *_: steps.append(clock.now))
    train(tmp_path, ProgressBar(console, clock), clock=clock, validate=False, max_epochs=1)
    at = [round(now / STEP_S) for now in steps]
    assert at == [0, 1, *range(3, 21, 2), 20]  # 0.2 s are two steps; the last one is the end


def test_slow_drawing_is_rare(tmp_path):
    class Slow(ProgressBar):
        count = 0

        def view(self, readings):
            self.count += 1
            clock.now += 0.01  # 100 times as long a pause
            return super().view(readings)

    clock = Clock()
    bar = Slow(terminal(), clock)
    train(tmp_path, bar, clock=clock, validate=False, max_epochs=1)
    assert bar.count == 1 + 3 + 1  # 2.5 s of training: the start, the first step, two more, the end


def test_a_foreign_module_shows_what_its_step_returns(tmp_path):
    console, clock = terminal(), Clock()
    train(tmp_path, ProgressBar(console, clock), module=Foreign(), clock=clock, validate=False, logger=False)
    assert screen_of(console).text.splitlines()[1] == f"loss {NUM_BATCHES - 1}"


def test_printed_lines_stand_above_the_bar(tmp_path):
    console, clock = terminal(), Clock()
    shout = At(10, lambda: console.print("doctor: a finding"))
    train(tmp_path, ProgressBar(console, clock), shout, clock=clock, validate=False, max_epochs=1)
    lines = screen_of(console).text.splitlines()
    assert lines[0] == "doctor: a finding"
    assert len(lines) == 3
    assert lines[1].startswith("epoch 1/1")


def test_print_and_warnings_go_above_the_bar_and_the_streams_come_back(tmp_path, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    console, clock = terminal(file=None), Clock()
    shout = At(10, lambda: print("a print of the user"))
    train(tmp_path, ProgressBar(console, clock), shout, clock=clock, validate=False, max_epochs=1)
    assert sys.stdout is stream
    assert Screen(stream.getvalue()).text.splitlines()[0] == "a print of the user"


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_was_reached_stays_when_a_run_is_stopped(tmp_path, error):
    def stop():
        raise error

    console, clock = terminal(), Clock()
    with pytest.raises((SystemExit, RuntimeError)):
        train(tmp_path, ProgressBar(console, clock), At(12, stop), clock=clock, max_epochs=1)
    lines = screen_of(console).text.splitlines()
    assert "13/20" in lines[0]
    assert len(lines) == 2
    assert screen_of(console).shows_cursor
    assert not console._live_stack


def test_only_the_first_process_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(pl.Trainer, "is_global_zero", False)
    console, clock = terminal(), Clock()
    train(tmp_path, ProgressBar(console, clock), clock=clock, logger=False)
    assert console.file.getvalue() == ""


def test_a_closed_terminal_does_not_stop_training(tmp_path):
    class Closed(io.StringIO):
        def write(self, text):
            if clock.now > 1:
                raise OSError(5, "Input/output error")
            return super().write(text)

    clock = Clock()
    trainer, _ = train(tmp_path, ProgressBar(terminal(file=Closed()), clock), clock=clock)
    assert trainer.global_step == 2 * NUM_BATCHES


def test_a_resumed_run_continues_the_bar(tmp_path):
    trainer, _ = train(tmp_path, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    console, clock = terminal(), Clock()
    train(tmp_path, ProgressBar(console, clock), clock=clock, max_epochs=4, ckpt_path=tmp_path / "last.ckpt")
    first = Screen(console.file.getvalue().partition("\x1b[2K")[0]).text.splitlines()[0]
    assert first.startswith("epoch 2/4  ━━━━")
    assert "step 20/80" in first
    assert (
        screen_of(console).text.splitlines()[0].endswith("step 80/80  8.0 steps/s  in 0:14")
    )  # 60 steps of 1/8 s, 6 batches of 1 s


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"max_epochs": 2, "max_steps": 30}, "step 30/30"),
        ({"max_epochs": -1, "max_steps": 30}, "step 30/30"),
        ({"max_epochs": 2, "accumulate_grad_batches": 3}, "step 14/14"),
        ({"max_epochs": 2, "limit_train_batches": 5}, "step 10/10"),
    ],
)
def test_every_way_in_which_a_run_ends(tmp_path, settings, shown):
    console, clock = terminal(), Clock()
    train(tmp_path, ProgressBar(console, clock), clock=clock, **settings)
    line = screen_of(console).text.splitlines()[0]
    assert shown in line
    assert "╸" not in line  # the bar is full


def test_a_run_without_an_end_shows_no_bar(tmp_path):
    console, clock = terminal(), Clock()
    stop = At(19, lambda: (_ for _ in ()).throw(KeyboardInterrupt) if clock.now > 9 else None)
    with pytest.raises(SystemExit):
        train(tmp_path, ProgressBar(console, clock), stop, clock=clock, max_epochs=-1)
    line = screen_of(console).text.splitlines()[0]
    assert "━" not in line
    assert line == "epoch 3  step 60  8.0 steps/s  in 0:12"


def test_a_long_validation_is_mentioned_and_a_short_one_is_not(tmp_path):
    console, clock = terminal(width=100), Clock()
    train(tmp_path, ProgressBar(console, clock), clock=clock, num_val_batches=3)
    assert "validating 2/3" in console.file.getvalue()
    short, clock = terminal(width=100), Clock()
    clock.on_validation_batch_start = lambda *_: None
    train(tmp_path, ProgressBar(short, clock), clock=clock, num_val_batches=3)
    assert "validating" not in short.file.getvalue()


def test_a_long_test_is_shown_and_removed(tmp_path):
    console, clock = terminal(), Clock()
    trainer, module = train(tmp_path, ProgressBar(console, clock), clock=clock)
    before = screen_of(console).text
    trainer.test(module, loader(3), verbose=False)
    assert "testing 2/3" in console.file.getvalue()
    assert screen_of(console).text.rstrip() == before.rstrip()
    assert screen_of(console).shows_cursor


def test_no_colour_where_it_is_unwanted(tmp_path):
    console, clock = terminal(_environ={"NO_COLOR": "1", "TERM": "xterm-256color"}), Clock()
    train(tmp_path, ProgressBar(console, clock), clock=clock)
    assert "\x1b[36m" not in console.file.getvalue()
    coloured, clock = terminal(_environ={"TERM": "xterm-256color"}), Clock()
    train(tmp_path, ProgressBar(coloured, clock), clock=clock)
    assert "\x1b[36m" in coloured.file.getvalue()


def test_the_live_table_of_a_vanishing_run(tmp_path, monkeypatch):
    monkeypatch.setattr("stabletrain.diagnosis.openings.PAUSE_FACTOR", 0.0)
    console, clock = terminal(), Clock()
    module = TrainingModule(network(14), "classification", 2, partial(torch.optim.SGD, lr=0.1))
    doctor = DoctorCallback(say=lambda line: console.print(f"doctor: {line}"))
    watch = GradientWatch(1, 0, signals=["gradient", "update"], signals_every=1)
    table = LiveTable(console, clock)
    train(tmp_path, watch, doctor, table, module=module, clock=clock, max_epochs=5)
    lines = screen_of(console).text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("L00."))
    assert [line[:3] for line in lines[first : first + 30]] == [f"L{i:02d}" for i in range(30)]
    assert "vanishing" in lines[first]
    assert lines[first + 29].endswith("ok")
    assert lines[first - 1].startswith("layer")
    assert "update" in lines[first - 1]
    assert lines[first - 4].startswith("epoch 5/5")
    assert lines[first - 3].startswith("loss ")
    assert any(line.startswith("doctor: step ") for line in lines[: first - 4])
    assert sum(line.startswith("layer") for line in lines) == 1


def test_the_live_table_leaves_out_what_does_not_fit(tmp_path):
    console, clock = terminal(height=16), Clock()
    module = TrainingModule(network(20), "classification", 2, partial(torch.optim.SGD, lr=0.1))
    train(tmp_path, GradientWatch(1, 0), LiveTable(console, clock), module=module, clock=clock)
    lines = screen_of(console).text.splitlines()
    rows = [line for line in lines if line.startswith("L")]
    assert len(rows) == 16 - 7
    assert lines[-1].startswith(f"{42 - len(rows)} more layers, rms ")
    assert (rows[0][:3], rows[-1][:3]) == ("L00", "L41")


def test_the_live_table_without_a_watch_is_the_bar(tmp_path):
    console, clock = terminal(), Clock()
    train(tmp_path, LiveTable(console, clock), clock=clock)
    assert len(screen_of(console).text.splitlines()) == 2


def test_lines_appear_by_the_clock_in_a_long_epoch(tmp_path, capsys):
    clock = Clock()
    clock.on_train_batch_start = lambda *_: setattr(clock, "now", clock.now + 5.0)
    train(tmp_path, GradientWatch(1, 0), LineProgress(clock), clock=clock, max_epochs=1)
    lines = capsys.readouterr().out.splitlines()
    assert [line[:22] for line in lines] == [f"epoch   1  step {step:>6}" for step in (1, 7, 13, 19, 20)]
    assert lines[1].startswith("epoch   1  step      7  of 20  train/loss 0.")
    assert " grad " in lines[1]
    assert lines[1].endswith("5.0 s/step  1:05 left")
    assert "val/accuracy" in lines[-1]


def test_a_short_epoch_gets_its_line_of_the_validation_alone(tmp_path, capsys):
    clock = Clock()
    train(tmp_path, LineProgress(clock), clock=clock, num_val_batches=1)
    lines = capsys.readouterr().out.splitlines()
    assert [line[:22] for line in lines if "val/" in line] == [f"epoch {e:>3}  step {20 * e:>6}" for e in (1, 2)]
    assert len(lines) == 3  # 2.5 s an epoch: one line after 2 s


def test_other_processes_print_no_lines(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pl.Trainer, "is_global_zero", False)
    clock = Clock()
    clock.on_train_batch_start = lambda *_: setattr(clock, "now", clock.now + 5.0)
    train(tmp_path, LineProgress(clock), clock=clock, logger=False)
    assert capsys.readouterr().out == ""


def test_the_metric_of_a_foreign_module(tmp_path):
    class Metrics:
        callback_metrics = {"train/loss": 1.0, "gradient/norm/total": 2.0, "f1": 0.5, "val/loss": 3.0}  # noqa: RUF012

    assert trainer_values.metric_of(Metrics()) == ("f1", 0.5)
    Metrics.callback_metrics = {"val/loss": 3.0, "train/loss": 1.0}
    assert trainer_values.metric_of(Metrics()) == ("val/loss", 3.0)
    Metrics.callback_metrics = {"train/loss": 1.0}
    assert trainer_values.metric_of(Metrics()) is None
