"""The doctor's note on spinning threads: said once, repeated in the report, no finding."""

import logging

import torch

from stabletrain.integrations.plain_loop import Doctor
from stabletrain.integrations.plain_loop import doctor as doctor_module


class Busy:
    """In place of `PoolWatch`: recognizes a spinning pool on the third step."""

    def __init__(self, say):
        self.say, self.num_steps = say, 0

    def step(self):
        self.num_steps += 1
        if self.num_steps == 3:
            self.say(2, 0.61)


def train(num_steps):
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    doctor = Doctor(model)
    for _ in range(num_steps):
        loss = model(torch.randn(4, 3)).square().mean()
        loss.backward()
        doctor.step(loss)
    return doctor


def test_the_note_is_logged_once_and_repeated_in_the_report(monkeypatch, caplog):
    monkeypatch.setattr(doctor_module, "PoolWatch", Busy)
    with caplog.at_level(logging.WARNING):
        doctor = train(6)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "2 threads" in message
    assert "torch.set_num_threads(1)" in message
    assert doctor.report().splitlines()[:2] == ["verdict: healthy", f"  note: {message}"]
    assert (doctor.verdict, doctor.findings) == ("healthy", [])


def test_without_a_spinning_pool_there_is_no_note(monkeypatch, caplog):
    monkeypatch.setattr(doctor_module, "PoolWatch", Busy)
    doctor = train(2)
    assert "note:" not in doctor.report()
    assert caplog.records == []
