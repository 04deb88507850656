"""Several models and optimizers: a GAN in one loop, with one doctor or two; two networks that are trained apart."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import stabletrain as st
from stabletrain.errors import RequestError


def make(seed: int = 0) -> dict[str, nn.Module]:
    torch.manual_seed(seed)
    return {
        "generator": nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2)),
        "critic": nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1)),
    }


def gan(models, doctors, num_steps: int = 120, lr: float = 1e-3) -> None:
    """Train a GAN; each doctor sees the steps of its own network, one doctor sees both."""
    generator, critic = models.values()
    to_critic, to_generator = (torch.optim.Adam(m.parameters(), lr=lr) for m in (critic, generator))
    for _ in range(num_steps):
        real, fake = torch.randn(32, 2) + 2, generator(torch.randn(32, 2))
        ones, zeros = torch.ones(32, 1), torch.zeros(32, 1)
        loss = (
            F.binary_cross_entropy_with_logits(critic(real), ones)
            + F.binary_cross_entropy_with_logits(critic(fake.detach()), zeros)
        ) / 2
        critic.zero_grad()
        loss.backward()
        doctors[-1].step(loss)
        to_critic.step()
        loss = F.binary_cross_entropy_with_logits(critic(fake), ones)
        generator.zero_grad()
        loss.backward()
        doctors[0].step(loss)
        to_generator.step()


@pytest.mark.parametrize("several", [True, False], ids=["two doctors", "one doctor"])
def test_a_gan_is_seen_whole_and_its_loss_is_no_measure(several):
    models = make()
    doctors = [st.Doctor(m) for m in models.values()] if several else [st.Doctor(models)]
    gan(models, doctors)
    for doctor in doctors:
        assert doctor.verdict == "healthy"
        assert doctor.observations.about.is_game
        assert "this loss does not show" in doctor.report()
    if not several:
        updates = doctors[0].observations.rms["update"]
        assert {layer.partition(".")[2].partition(".")[0] for layer in updates.layers} == {*models}
        assert len(updates.layers) == 8
        assert not (updates.values == 0).any()  # what an optimizer did not step was not measured


def test_two_networks_that_are_trained_apart_are_judged_by_their_losses():
    found = {}
    for lr in (1e-7, 1e-2):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))
        doctor, optimizer = st.Doctor(model), torch.optim.Adam(model.parameters(), lr=lr)
        for _ in range(150):
            x = torch.randn(32, 2)
            loss = (model(x) - 3 * x[:, :1]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            doctor.step(loss)
            optimizer.step()
        found[lr] = doctor
    assert not any(doctor.observations.about.is_game for doctor in found.values())
    assert [doctor.verdict for doctor in found.values()] == ["lr_too_low", "healthy"]


def test_models_are_named_by_position_or_key():
    models = make()
    for given in ([*models.values()], models):
        doctor = st.Doctor(given)
        gan(models, [doctor], num_steps=2)
        names = {layer.partition(".")[2] for layer in doctor.observations.rms["gradient"].layers}
        prefixes = {"0", "1"} if isinstance(given, list) else {*models}
        assert {name.partition(".")[0] for name in names} == prefixes


@pytest.mark.parametrize("wrong", [[], [nn.Linear(1, 1), "critic"], {"generator": 3}])
def test_what_is_no_module_is_refused(wrong):
    with pytest.raises(RequestError, match="The doctor watches modules"):
        st.Doctor(wrong)


def test_a_prepared_optimizer_of_accelerate_is_watched():
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    found = []
    for is_told in (True, False):
        model = make()["critic"]
        model, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters(), lr=1e-3))
        doctor = st.Doctor(model, **({"optimizer": optimizer} if is_told else {}))
        for _ in range(12):
            loss = model(torch.ones(8, 2)).square().mean()
            optimizer.zero_grad()
            accelerator.backward(loss)
            doctor.step(loss)
            optimizer.step()
        found.append(doctor.observations)
    for observations in found:
        assert observations.rms["update"].steps.tolist() == [*range(10)]
        assert len(observations.rms["moment"].layers) == 4
        assert observations.scalars["train/lr"].values.tolist() == [pytest.approx(1e-3)]
