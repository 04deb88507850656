"""The watch in Lightning's loop: cadence, all signals, micro-batches, loss scaling, and training unchanged."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from stabletrain.diagnosis.history import History
from stabletrain.errors import RequestError
from stabletrain.gradient import NormClip
from stabletrain.record.reader import load_record
from stabletrain.signal.cadence import is_due_by_decade
from stabletrain.torch_tools.module_hooks import is_hooked
from stabletrain.training import GradientWatch, RecordLogger, TrainingModule
from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.signals import SIGNALS

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*you defined a `validation_step` but have no `val_dataloader`.*"),
]


def fit(folder, *callbacks, num_steps=10, network=None, data=None, **settings):
    torch.manual_seed(0)
    network = network or nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))
    module = TrainingModule(network, "classification", 2, partial(torch.optim.Adam, lr=0.05), clip=NormClip(0.05))
    accumulate = settings.get("accumulate_grad_batches", 1)
    generator = torch.Generator().manual_seed(0)
    shape = data or (3,)
    x = torch.randn(4 * accumulate * num_steps, *shape, generator=generator)
    y = torch.randint(0, 2, (len(x),), generator=generator)
    trainer = pl.Trainer(
        logger=RecordLogger(folder / "tensorboard"),
        callbacks=list(callbacks),
        default_root_dir=folder,
        max_epochs=1,
        log_every_n_steps=1,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **settings,
    )
    trainer.fit(module, DataLoader(TensorDataset(x, y), batch_size=4))
    return module, load_record(folder)


def steps_of(record, signal, statistic="rms"):
    return {tuple(series.steps) for series in record.of_layers(f"{signal}/{statistic}").values()}


def test_every_signal_at_its_cadence(tmp_path):
    watch = GradientWatch(2, 5, signals=SIGNALS, signals_every=5)
    _, record = fit(tmp_path, watch)
    assert steps_of(record, "gradient") == {(0, 1, 3, 4, 5, 7, 9)}  # every second step, and where histograms are due
    assert {tuple(h) for h in record.histograms.values()} == {(0, 4, 9)}
    for signal in SIGNALS[1:-1]:
        assert steps_of(record, signal) == {(0, 4, 9)}, signal
        assert {tuple(h) for h in record.histograms_of(signal).values()} == {(0, 4, 9)}, signal
    assert steps_of(record, "update", "ratio") == {(0, 4, 9)}
    assert list(record.of_layers("delta/rms")) == ["L00.0", "L01.1", "L02.2"]
    before, after = record.of_layers("gradient/rms"), record.of_layers("clip/rms")
    norm = record.scalars["gradient/norm/total"]
    for layer, series in after.items():
        found = before[layer].values[before[layer].steps.index(0)]
        assert series.values[0] == pytest.approx(found * 0.05 / norm.values[0], rel=1e-3)
    assert watch.seconds > 0


def test_looks_that_grow_rare(tmp_path):
    _, record = fit(
        tmp_path, GradientWatch(1, 0, points_per_decade=5, signals=["update"], signals_every=1), num_steps=40
    )
    expected = tuple(step for step in range(40) if is_due_by_decade(step, 5))
    assert expected == (0, 1, 2, 3, 5, 9, 15, 24, 39)
    assert steps_of(record, "gradient") == steps_of(record, "update") == {expected}
    assert record.histograms == {}


def test_micro_batches_are_one_step(tmp_path):
    _, record = fit(tmp_path, GradientWatch(1, 1, signals=["activation"], signals_every=1), accumulate_grad_batches=3)
    by_step = record.histograms_of("activation")["L02.2"]
    assert {step: histogram.size for step, histogram in by_step.items()} == dict.fromkeys(range(10), 3 * 4 * 2)


def test_two_hundred_steps_are_bit_identical_with_the_watch_on_and_off(tmp_path):
    watch = GradientWatch(1, 1, signals=SIGNALS, signals_every=1)
    watched, record = fit(tmp_path / "on", watch, num_steps=200)
    alone, _ = fit(tmp_path / "off", num_steps=200)
    assert steps_of(record, "update") == {tuple(range(200))}
    assert steps_of(record, "activation", "dead") == {(127,)}  # after 128 batches of four
    for a, b in zip(watched.parameters(), alone.parameters(), strict=True):
        assert torch.equal(a, b)


def test_units_are_recorded_as_they_were_found(tmp_path):
    network = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
    network[0].bias.data[:6] = -99.0
    network[2].bias.data[:1] = 99.0
    history = History()

    class Keep(GradientWatch):
        def _write(self):
            if self._snapshot is not None:
                history.add_snapshot(self._snapshot)
            super()._write()

    _, record = fit(tmp_path, Keep(10, 0, signals=["units"], signals_every=50), num_steps=200, network=network)
    dead, saturated = record.of_layers(names.UNIT_SHARES["dead"]), record.of_layers(names.UNIT_SHARES["saturated"])
    assert {layer: (s.steps, s.values) for layer, s in dead.items()} == {
        "L02.2": ([129], [0.75]),
        "L04.4": ([129], [0.0]),
    }
    assert {layer: (s.steps, s.values) for layer, s in saturated.items()} == {"L03.3": ([129], [0.25])}
    units = history.observations().units
    assert (units["dead"].layers, units["dead"].values.tolist()) == (("L02.2", "L04.4"), [[0.75, 0.0]])
    assert "activation" not in {name.split("/")[0] for name in record.histograms}


def test_off_measures_nothing_and_leaves_no_hook(tmp_path):
    watch = GradientWatch(0, 0, signals=SIGNALS)
    module, record = fit(tmp_path, watch)
    assert not record.layers
    assert watch.seconds == 0
    assert not any(map(is_hooked, module.modules()))


def test_no_hook_stays_behind(tmp_path):
    module, _ = fit(tmp_path, GradientWatch(1, 1, signals=SIGNALS, signals_every=1))
    assert not any(map(is_hooked, module.modules()))
    assert not module.trainer.optimizers[0]._optimizer_step_post_hooks


def test_the_watch_goes_on_in_a_second_fit(tmp_path):
    watch = GradientWatch(1, 0)
    for place in ("first", "second"):
        _, record = fit(tmp_path / place, watch, num_steps=3)
        assert steps_of(record, "gradient") == {(0, 1, 2)}


REFUSED = [
    ({"signals": ["gradient", "deltas"]}, "signals"),
    ({"time_every": -1}, "time_every"),
    ({"points_per_decade": -1}, "points_per_decade"),
]


@pytest.mark.parametrize(("settings", "key"), REFUSED)
def test_refuses(settings, key):
    with pytest.raises(RequestError) as caught:
        GradientWatch(**settings)
    assert caught.value.key == key


class Reader(nn.Module):
    """Has a recurrent layer, dropout, and batch norm, whose statistics the measurement must not change."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.rnn = nn.LSTM(3, 6, 2, dropout=0.3, batch_first=True)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.rnn(self.norm(x.transpose(1, 2)).transpose(1, 2))[0][:, -1])


def test_time_is_followed_at_its_cadence_and_changes_nothing(tmp_path):
    torch.manual_seed(0)
    network = Reader()
    watched, record = fit(
        tmp_path / "on", GradientWatch(1, 0, time_every=5), network=copy.deepcopy(network), data=(7, 3)
    )
    alone, _ = fit(tmp_path / "off", network=copy.deepcopy(network), data=(7, 3))
    assert {name: list(by_step) for name, by_step in record.vectors.items()} == {
        "time/norm/rnn.l0": [0, 4, 9],
        "time/norm/rnn.l1": [0, 4, 9],
    }
    assert all(v.shape == (7,) and (v > 0).all() for by_step in record.vectors.values() for v in by_step.values())
    for a, b in zip(watched.state_dict().values(), alone.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_network_that_time_cannot_be_followed_through_trains_all_the_same(tmp_path):
    class Packs(Reader):
        def forward(self, x):
            packed = nn.utils.rnn.pack_padded_sequence(x, torch.full((len(x),), x.size(1)), batch_first=True)
            return self.head(nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0][:, -1])

    with pytest.warns(UserWarning, match="not measured: .*packed sequence") as caught:
        _, record = fit(tmp_path, GradientWatch(1, 0, time_every=1), network=Packs(), data=(7, 3))
    assert sum("not measured" in str(w.message) for w in caught) == 1
    assert (record.vectors, steps_of(record, "gradient")) == ({}, {tuple(range(10))})


def test_the_last_snapshot_stays_until_the_next_one(tmp_path):
    class Keep(pl.Callback):
        def __init__(self):
            self.steps = []

        def on_train_batch_end(self, *_):
            self.steps.append(watch.last_snapshot.step)

    watch, keep = GradientWatch(4, 0), Keep()
    assert watch.last_snapshot is None
    _, record = fit(tmp_path, watch, keep)
    due = steps_of(record, "gradient").pop()
    assert sorted(set(keep.steps)) == list(due)
    assert [max(s for s in due if s <= step) for step in range(10)] == keep.steps
    last = {layer.layer: layer.rms for layer in watch.last_snapshot.layers}
    assert last == pytest.approx({k: s.values[-1] for k, s in record.of_layers("gradient/rms").items()})
