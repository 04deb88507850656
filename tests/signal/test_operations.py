"""The operation from which a non-finite value comes, followed back through a pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stabletrain.signal.domains import judge
from stabletrain.signal.operations import Leaf, Operation, OperationTrace
from stabletrain.signal.user_code import Place, find_line, here, words_of


def trace(loss_of):
    model = nn.Linear(3, 2)
    with OperationTrace(model) as found:
        loss = loss_of(model(torch.ones(4, 3)))
        found.read_names([loss])
        gradients = torch.autograd.grad(loss, [*model.parameters()])
    return found.find([loss]) or found.find(gradients)


@pytest.mark.parametrize(
    ("loss_of", "node", "in_backward", "origin"),
    [
        (lambda y: (y * 0).log().sum(), "LogBackward0", False, "invalid_operation"),
        (lambda y: (y * 0).square().sum(1).sqrt().sum(), "SqrtBackward0", True, "invalid_operation"),
        (lambda y: (y * 0 + 1).acos().sum(), "AcosBackward0", True, "invalid_operation"),
        (lambda y: (y / (y * 0)).sum(), "DivBackward0", False, "invalid_operation"),
        (lambda y: (y * 0 + 1000).exp().sum(), "ExpBackward0", False, "overflow"),
        (lambda y: ((y * 0 + 1000).exp() - (y * 0 + 1000).exp()).sum(), "ExpBackward0", False, "overflow"),
        (lambda y: (y * 0 + 1e5).half().float().sum(), "ToCopyBackward0", False, "overflow"),
        (lambda y: (y * 0 - torch.inf).softmax(1).sum(), "SoftmaxBackward0", False, "invalid_operation"),
        (lambda y: y.masked_fill(y == y, -torch.inf).softmax(1).sum(), "SoftmaxBackward0", False, "invalid_operation"),
        (lambda y: y[:0].mean(), "MeanBackward0", False, "invalid_operation"),
        (lambda y: (y * 0).add_(0).log_().sum(), "LogBackward0", False, "invalid_operation"),
    ],
)
def test_the_first_operation_is_named(loss_of, node, in_backward, origin):
    found = trace(loss_of)
    assert isinstance(found, Operation)
    assert (found.node, found.in_backward, found.judgement.origin) == (node, in_backward, origin)
    assert found.module is None


def test_a_finite_pass_has_none():
    assert trace(lambda y: y.masked_fill(torch.tensor([True, False]), -torch.inf).softmax(1).square().sum()) is None


def test_a_tensor_that_was_bad_before_is_returned_itself():
    y = torch.zeros(4, 2)
    y[1, 0] = torch.nan
    found = trace(lambda output: F.mse_loss(output, y))
    assert isinstance(found, Leaf)
    assert (found.tensor is y, found.user.node) == (True, "MseLossBackward0")


@pytest.mark.parametrize(
    ("name", "args", "why"),
    [
        ("log", [torch.tensor([1.0, 0.0])], "the logarithm of 0"),
        ("log", [torch.tensor([1.0, -1.0])], "the logarithm of a negative number"),
        ("log1p", [torch.tensor([-1.0])], "the logarithm of 0"),
        ("sqrt", [torch.tensor([-1.0])], "the square root of a negative number"),
        ("rsqrt", [torch.tensor([0.0])], "1 / sqrt(0)"),
        ("div", [torch.tensor([0.0]), torch.tensor([0.0])], "0 / 0"),
        ("div_", [torch.tensor([1.0]), torch.tensor([0.0])], "division by 0"),
        ("div", [torch.tensor([1.0]), torch.tensor([1e-39])], "division by nearly 0"),
        ("pow", [torch.tensor([0.0]), -1], "0 to a negative power"),
        ("pow", [torch.tensor([-1.0]), 0.5], "a negative number to a fractional power"),
        ("acos", [torch.tensor([1.5])], "an argument outside of (-1, 1)"),
        ("atanh", [torch.tensor([1.0])], "an argument outside of (-1, 1)"),
        ("mean", [torch.zeros(0)], "the mean of no element"),
        ("std", [torch.zeros(1)], "the deviation of a single element"),
        ("sub", [torch.tensor([torch.inf]), torch.tensor([torch.inf])], "Inf - Inf"),
        ("mul", [torch.tensor([torch.inf]), torch.tensor([0.0])], "0 · Inf"),
    ],
)
def test_what_is_outside_of_the_domain(name, args, why):
    assert judge(name, args, torch.tensor(torch.nan)) == ("invalid_operation", why)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("exp", [torch.tensor([100.0])]),
        ("mul", [torch.tensor([1e30]), torch.tensor([1e30])]),
        ("pow", [torch.tensor([1e30]), 2]),
        ("div", [torch.tensor([1e30]), torch.tensor([1e-30])]),
    ],
)
def test_what_is_too_large(name, args):
    assert judge(name, args, torch.tensor(torch.inf)).origin == "overflow"


def test_half_precision_names_its_largest_number():
    assert "65,504, the largest of float16" in judge("mul", [torch.ones(1)], torch.tensor(torch.inf).half()).why


def call_model(_):
    return here()


def loss(x):
    place = call_model(x)
    a = x.abs().sum()
    b = a.sqrt()
    return place, b


def test_the_line_of_an_operation_after_the_call_of_the_model():
    place, _ = loss(torch.ones(2))
    caller = Place(loss.__code__, loss.__code__.co_firstlineno + 1)
    assert place.code is call_model.__code__
    assert find_line(caller, "SqrtBackward0").endswith("b = a.sqrt()")
    assert find_line(caller, "AcosBackward0") is None
    assert "sqrt" in words_of("SqrtBackward0")
    assert "linalg_eigh" in words_of("LinalgEighBackward0")
