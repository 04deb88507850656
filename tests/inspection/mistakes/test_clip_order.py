"""Gradients that are clipped where the optimizer does not use them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stabletrain.inspection.inspections import Inspections
from stabletrain.inspection.inspector import StepView
from stabletrain.vocabulary.notice import join
from tests.inspection.mistakes.training_loops import batch, mlp

by_norm = nn.utils.clip_grad_norm_
PLACES = ("before", "after backward", "after step", "before unscaling", "never")


def by_value(parameters, limit):
    nn.utils.clip_grad_value_(parameters, limit)


def train(
    place,
    *,
    clip=by_norm,
    limit=1e-2,
    scaler=False,
    set_to_none=True,
    each=1,
    also_right=False,
    num_steps=12,
    model=None,
):
    """Train with the gradient clipped in one place, and return what was noticed."""
    model = mlp() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    scaling = torch.amp.GradScaler("cpu", 2.0**12 if scaler else 1.0, enabled=scaler)
    inspections, found = Inspections(model), ()

    def clip_in(*places):
        if place in places or (also_right and "after backward" in places):
            clip(model.parameters(), limit)

    for step in range(num_steps):
        x, y = batch(step)
        loss = F.cross_entropy(model(x), y)
        if step % each == 0:
            optimizer.zero_grad(set_to_none=set_to_none)
        clip_in("before")
        scaling.scale(loss).backward()
        clip_in("before unscaling")
        if (step + 1) % each == 0:
            scaling.unscale_(optimizer)
        for notice in inspections.step(StepView(step, model, loss)):
            found = join(found, notice)
        clip_in("after backward")
        if (step + 1) % each == 0:
            scaling.step(optimizer)
            scaling.update()
        clip_in("after step")
    inspections.detach()
    return [notice for notice in found if notice.evidence["certainty"] != "harmless"]


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize(
    ("place", "mistake", "clip"),
    [
        ("before", "before the backward pass", by_norm),  # the other one raises without gradients
        ("after step", "after the optimizer's step", by_norm),
        ("after step", "after the optimizer's step", by_value),
    ],
)
def test_clipping_before_the_backward_pass_and_after_the_step(place, mistake, clip, set_to_none):
    [notice] = train(place, clip=clip, set_to_none=set_to_none)
    assert (notice.kind, notice.evidence["certainty"]) == ("clip_ineffective", "certain")
    assert notice.evidence["mistake"] == f"the gradients are clipped {mistake}"
    assert "clip_grad_norm_(model.parameters(), 0.01); optimizer.step()" in notice.evidence["remedy"]


def test_a_gradient_of_one_number_does_not_show_whether_it_was_unscaled_after_clipping():
    class Shifted(nn.Module):
        """Adds one number to all outputs."""

        def __init__(self):
            super().__init__()
            self.inner, self.shift = mlp(), nn.Parameter(torch.zeros(1, 1))

        def forward(self, x):
            return self.inner(x) * (1 + self.shift)

    [notice] = train("before unscaling", scaler=True, model=Shifted())
    assert notice.evidence["mistake"] == "the gradients are clipped before the scale of half precision is removed"
    assert train("after backward", scaler=True, model=Shifted()) == []


def test_clipping_before_unscaling():
    [notice] = train("before unscaling", scaler=True)
    assert notice.kind == "clip_ineffective"
    assert notice.evidence["mistake"] == "the gradients are clipped before the scale of half precision is removed"
    assert notice.evidence["remedy"].startswith("scaler.unscale_(optimizer); ")


@pytest.mark.parametrize("clip", [by_norm, by_value])
@pytest.mark.parametrize("scaler", [False, True])
@pytest.mark.parametrize("each", [1, 3])
@pytest.mark.parametrize("place", ["after backward", "never"])
def test_clipping_in_the_right_place(place, each, scaler, clip):
    assert train(place, clip=clip, scaler=scaler, each=each) == []


@pytest.mark.parametrize("place", ["before", "after step"])
def test_another_clipping_in_the_right_place_is_enough(place):
    assert train(place, also_right=True) == []


def test_without_a_scaler_it_does_not_matter_whether_unscaling_follows():
    assert train("before unscaling") == []


def test_gradients_that_are_zero_are_not_clipped_too_early():
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    inspections, found = Inspections(model), []
    for step in range(8):
        loss = 0 * model(batch(step)[0]).sum()
        optimizer.zero_grad()
        loss.backward()
        by_norm(model.parameters(), 1.0)
        found += inspections.step(StepView(step, model, loss))
        optimizer.step()
    assert [notice.kind for notice in found] == []
