"""The synthetic records use the names of real runs: a report that reads a wrong name cannot pass its tests."""

from __future__ import annotations

import re

import torch
from report_fakes import healthy, nan_run, with_all_signals

import stabletrain as st
from stabletrain.record.reader import Record, load_record
from stabletrain.record.run_folder import RunFolder
from stabletrain.report.pictures.curves import LEARNING_RATE_HEADING, panels_of
from stabletrain.vocabulary import metric_names as names


def families(record: Record) -> set[str]:
    """Return the names in a record without their layers."""
    return {re.sub(r"/(L\d+\.|rnn\.).*", "", name) for name in (*record.scalars, *record.vectors)}


def test_synthetic_records_hold_only_names_that_a_real_run_writes(native_run: RunFolder):
    real = load_record(native_run.path)
    for fake in (healthy(3, 40), nan_run(3, 200), with_all_signals(healthy(3, 40))):
        assert families(fake) <= families(real)
        assert fake.other_histograms.keys() <= real.other_histograms.keys()
    wrong = Record(scalars={"train/learning_rate": real.scalars[names.LR]})
    assert not families(wrong) <= families(real)
    assert {names.LR, names.VAL_LOSS, names.UPDATE_RATIO, names.TIME_NORM} <= families(with_all_signals(healthy(3, 40)))


def test_the_report_of_a_native_run_has_every_panel(native_run: RunFolder):
    panels = {panel.heading: panel for panel in panels_of(load_record(native_run.path))}
    assert list(panels) == ["Loss", "Accuracy", "Gradient norm", "Learning rate"]
    (rates,) = panels[LEARNING_RATE_HEADING].lines.values()
    assert len(set(rates.values)) > 3  # warmup and decay
    page = native_run.report.read_text()
    assert '"heading":"Learning rate"' in page


def test_a_plain_loop_records_the_learning_rate_under_the_name_that_the_report_reads():
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    doctor = st.Doctor(model, optimizer=optimizer)
    doctor.step(model(torch.ones(2, 3)).sum())
    assert doctor.observations.scalars[names.LR].values.tolist() == [0.5]
