"""What a doctor leaves behind: the folder of a run, as the command line leaves it."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import stabletrain as st
from stabletrain.diagnosis.doctor import diagnose
from stabletrain.diagnosis.recorded_run import observe
from stabletrain.errors import RequestError
from stabletrain.record.bounded_reader import load_bounded
from stabletrain.record.reader import load_record
from stabletrain.torch_tools.module_hooks import is_hooked


class Deep(nn.Module):
    """Sigmoids, in which the gradient vanishes, after a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(2, 4, batch_first=True)
        self.rest = nn.Sequential(*[m for _ in range(10) for m in (nn.Linear(4, 4), nn.Sigmoid())], nn.Linear(4, 3))

    def forward(self, x):
        return self.rest(self.rnn(x)[0][:, -1])


def loop(doctor: st.Doctor, model: nn.Module, num_steps: int = 160) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(num_steps):
        x = torch.randn(12, 5, 2)
        loss = nn.functional.cross_entropy(model(x), torch.arange(12) % 3)
        optimizer.zero_grad()
        loss.backward()
        doctor.step(loss)
        optimizer.step()
        if step % 50 == 49:
            doctor.validate(accuracy=0.3)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    model, folder = Deep(), tmp_path_factory.mktemp("run") / "mine"
    with st.Doctor(model, output_dir=folder) as doctor:
        loop(doctor, model)
    return doctor, folder


def test_the_folder_is_that_of_a_run(saved):
    doctor, folder = saved
    assert {path.name for path in folder.iterdir()} == {"tensorboard", "findings.json", "summary.json", "report.html"}
    assert json.loads((folder / "findings.json").read_text()) == [f.to_dict() for f in doctor.findings]
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["verdict"], summary["steps"]) == ("finished", "time_vanishing", 160)
    assert summary["metrics"]["val/accuracy"] == pytest.approx(0.3)
    assert summary["metrics"]["train/loss"] == pytest.approx(1.1, abs=0.05)
    page = (folder / "report.html").read_text()
    assert "Gradients vanish through time" in page
    assert "<script src" not in page


def test_the_record_has_everything_that_was_measured(saved):
    doctor, folder = saved
    expected, found = doctor.observations, observe(load_bounded(folder))
    assert replace(found.about, settings=expected.about.settings) == expected.about
    assert found.about.settings["optimizer.lr"] == 0.05
    assert found.scalars.keys() == expected.scalars.keys()
    for name, series in expected.scalars.items():
        np.testing.assert_array_equal(found.scalars[name].values, series.values)
    assert found.rms.keys() == expected.rms.keys()
    for signal, table in expected.rms.items():
        columns = [found.rms[signal].layers.index(layer) for layer in table.layers]
        np.testing.assert_array_equal(found.rms[signal].values[:, columns], table.values)
    assert {*found.time} == {"rnn.l0"}
    np.testing.assert_allclose(found.time["rnn.l0"].values, expected.time["rnn.l0"].values, rtol=1e-6)
    for kind, table in expected.units.items():
        np.testing.assert_allclose(found.units[kind].values, table.values, rtol=1e-6)
    assert [replace(f, evidence={}) for f in diagnose(found)] == [replace(f, evidence={}) for f in doctor.findings]


def test_some_steps_have_histograms(saved):
    record = load_record(saved[1])
    (layer,) = [name for name in record.histograms if name.endswith("rnn.weight_hh_l0")]
    assert [*record.histograms[layer]] == [0, 49, 99, 149]


def test_it_saves_again_but_not_over_another_run(saved, tmp_path):
    doctor, folder = saved
    events = [*(folder / "tensorboard").iterdir()]
    assert doctor.save(folder) == folder / "report.html"
    again = [*(folder / "tensorboard").iterdir()]
    assert len(again) == 1
    assert again != events
    other = st.Doctor(Deep())
    with pytest.raises(RequestError, match="already holds a run"):
        other.save(folder)
    assert other.save(tmp_path / "new").is_file()  # nothing was recorded, and the page says so
    assert json.loads((tmp_path / "new" / "summary.json").read_text())["verdict"] == "unknown"


def test_what_was_seen_until_an_exception_is_saved(tmp_path):
    model = Deep()
    with contextlib.suppress(KeyError), st.Doctor(model, output_dir=tmp_path) as doctor:
        loop(doctor, model, 12)
        raise KeyError
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("failed", 12)


def test_after_the_block_nothing_is_measured():
    model = Deep()
    with st.Doctor(model) as doctor:
        loop(doctor, model, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    optimizer.step()
    assert optimizer not in doctor._optimizers.known
    assert not any(is_hooked(module) for module in model.modules())


def test_a_notebook_shows_the_report_of_one_diagnosis(saved, monkeypatch):
    calls = []

    def counted(seen):
        calls.append(seen)
        return diagnose(seen)

    monkeypatch.setattr("stabletrain.integrations.plain_loop.doctor.diagnose", counted)
    html = saved[0]._repr_html_()
    assert len(calls) == 1
    assert "verdict: time_vanishing" in html
    assert "&quot;orthogonal&quot;" in html  # the advice is escaped
    assert "<script" not in html
