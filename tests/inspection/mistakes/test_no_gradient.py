"""Parameters that the loss does not reach."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stabletrain.inspection.inspections import Inspections
from stabletrain.inspection.inspector import StepView
from tests.inspection.mistakes.training_loops import batch, cross_entropy, kinds, mlp, train

CERTAIN, LIKELY, POSSIBLE, HARMLESS = (("no_gradient", x) for x in ("certain", "likely", "possible", "harmless"))


class Net(nn.Module):
    """An encoder and a head; what is between them is given."""

    def __init__(self, between=lambda h: h, guard=torch.enable_grad):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(4, 100), nn.ReLU(), nn.Linear(100, 20))
        self.act = nn.ReLU()
        self.head = nn.Linear(20, 3)
        self.between, self.guard = between, guard

    def forward(self, x):
        with self.guard():
            h = self.encoder(x)
        return self.head(self.act(self.between(h)))


CUTS = {
    "detach": Net(lambda h: h.detach()),
    "data": Net(lambda h: h.data),
    "no_grad": Net(guard=torch.no_grad),
    "in a view": Net(lambda h: h.detach().view(-1, 20)),
    "numpy": Net(lambda h: torch.from_numpy(h.detach().numpy())),
}


@pytest.mark.parametrize("name", CUTS)
def test_a_detached_output_is_named(name):
    found = train(CUTS[name])
    assert kinds(found) == [CERTAIN]
    evidence = found[CERTAIN].evidence
    assert evidence["from"].startswith("encoder")
    assert evidence["to"] in ("act", "head")
    assert evidence["parameters"] == ["encoder.0.weight", "encoder.0.bias", "encoder.2.weight", "encoder.2.bias"]
    assert "is detached before it reaches" in evidence["detail"]


def test_a_module_whose_output_a_hook_detaches():
    model = nn.Sequential(nn.Linear(4, 80), nn.ReLU(), nn.Linear(80, 20), nn.ReLU(), nn.Linear(20, 3))
    model[2].register_forward_hook(lambda module, inputs, output: output.detach())
    found = train(model)
    assert found[CERTAIN].evidence["from"] == "2"
    assert found[CERTAIN].evidence["num_parameters"] == 4


def test_where_only_the_order_of_modules_shows_it():
    found = train(Net(lambda h: torch.relu(h.detach() * 2)))
    assert kinds(found) == [LIKELY]
    assert found[LIKELY].evidence["from"] == "encoder.2"
    assert found[LIKELY].evidence["to"] == "head"


class TwoInputs(nn.Module):
    """Two branches of which one is detached before both are joined."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 20), nn.Linear(4, 20), nn.Linear(40, 3)

    def forward(self, x):
        return self.head(torch.cat([self.a(x), torch.relu(self.b(x)).detach()], 1))


def test_a_branch_at_the_inputs_without_a_gradient():
    found = train(TwoInputs())
    assert kinds(found) == [LIKELY]
    assert found[LIKELY].evidence["parameters"] == ["b.weight", "b.bias"]


def test_an_output_that_the_model_returns_without_its_graph():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.one, self.two = nn.Linear(4, 20), nn.Linear(20, 3), nn.Linear(20, 3)

        def forward(self, x):
            h = torch.relu(self.body(x))
            return self.one(h), self.two(h).detach()

    found = train(Both(), lambda m, x, y: sum(F.cross_entropy(out, y) for out in m(x)))
    assert kinds(found) == [LIKELY]
    assert found[LIKELY].evidence["to"] == "the loss"
    assert found[LIKELY].evidence["from"] == "two"


def test_weights_that_were_trained_before_may_be_used_without_a_gradient():
    model = Net(guard=torch.no_grad)
    with torch.no_grad():
        model.encoder[0].weight.mul_(3)
        model.encoder[2].weight.mul_(3)
    assert kinds(train(model)) == [POSSIBLE]


def test_a_loss_that_depends_on_no_parameter():
    other = mlp()
    found = train(mlp(), lambda m, x, y: F.cross_entropy(other(x), y))
    assert kinds(found) == [("no_gradient", "certain")]


class Branches(nn.Module):
    """An auxiliary head without use, and experts of which one is never chosen."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.aux = nn.Linear(20, 3)
        self.body = nn.Linear(4, 20)
        self.experts = nn.ModuleList(nn.Linear(20, 20) for _ in range(3))
        self.head = nn.Linear(20, 3)

    def forward(self, x):
        h = torch.relu(self.body(x / 2))
        self.logged = self.aux(h).detach()
        return self.head(self.experts[len(x) % 2](h) + h.detach())


def test_unused_branches_are_harmless():
    found = train(Branches())
    assert kinds(found) == []
    assert found[HARMLESS].evidence["num_parameters"] == 6


def test_a_gradient_that_comes_late_is_one():
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.count = nn.Linear(4, 3), nn.Linear(4, 3), 0

        def forward(self, x):
            self.count += 1
            return self.a(x) if self.count % 8 else self.b(x)

    assert train(Late()) == {}


def test_gradients_that_were_reset_before_the_doctor_looked():
    model = mlp()
    inspections, found = Inspections(model), []
    for step in range(15):
        loss = cross_entropy(model, *batch(step))
        loss.backward()
        model.zero_grad()
        found += inspections.step(StepView(step, model, loss))
    assert [n for n in found if n.kind == "no_gradient"] == []


def test_layers_frozen_at_random_weights_and_at_trained_ones():
    new, trained = (nn.Sequential(nn.Linear(4, 100), nn.ReLU(), nn.Linear(100, 3)) for _ in range(2))
    with torch.no_grad():
        trained[0].weight[0, 0] = 0.6  # beyond 1 / sqrt(4)
    for model in (new, trained):
        model[0].requires_grad_(False)
    found = train(new)
    assert kinds(found) == [POSSIBLE]
    assert found[POSSIBLE].evidence["parameters"] == ["0.weight", "0.bias"]
    assert kinds(train(trained)) == []


class LastBranch(nn.Module):
    """As the last block of an N-BEATS: nothing uses its second branch, which darts therefore freezes."""

    def __init__(self, uses: bool) -> None:
        super().__init__()
        self.body, self.head, self.branch = nn.Linear(4, 100), nn.Linear(100, 3), nn.Linear(100, 3)
        self.branch.requires_grad_(False)
        self.uses = uses

    def forward(self, x):
        hidden = self.body(x).relu()
        branch = self.branch(hidden)
        return self.head(hidden) + branch if self.uses else self.head(hidden)


def test_a_frozen_branch_that_nothing_uses_is_no_mistake():
    assert kinds(train(LastBranch(uses=True))) == [POSSIBLE]
    assert kinds(train(LastBranch(uses=False))) == []
