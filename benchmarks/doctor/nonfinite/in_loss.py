"""Programs whose loss, or its derivative, is not finite: code outside of the model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.doctor.nonfinite.program import BAD_STEP, Parts, batch, mlp, program, sgd

INVALID, OVERFLOW, TARGET = "invalid_operation", "overflow", "target"


def simple(loss_of, model=None) -> Parts:
    """A program whose loss is a function of the outputs and of whether this is the bad step."""
    model = mlp() if model is None else model

    def loss_at(step: int) -> Tensor:
        return loss_of(model(batch()), step == BAD_STEP)

    return model, sgd(model), loss_at


@program(INVALID, "LogBackward0", None)
def log_of_a_softmax() -> Parts:
    model = mlp()

    def loss_at(step: int) -> Tensor:
        logits = model(batch()) * (1e4 if step == BAD_STEP else 1.0)
        probabilities = logits.softmax(1)
        return -probabilities.log()[:, 0].mean()

    return model, sgd(model), loss_at


@program(INVALID, "DivBackward0", None)
def mean_over_an_empty_mask() -> Parts:
    model = mlp()

    def loss_at(step: int) -> Tensor:
        mask = torch.zeros(16) if step == BAD_STEP else torch.ones(16)
        losses = model(batch()).square().mean(1)
        return (losses * mask).sum() / mask.sum()

    return model, sgd(model), loss_at


@program(INVALID, "MeanBackward0", None)
def mean_of_no_example() -> Parts:
    model = mlp()

    def loss_at(step: int) -> Tensor:
        chosen = torch.zeros(16, dtype=torch.bool) if step == BAD_STEP else torch.ones(16, dtype=torch.bool)
        return model(batch()).square().mean(1)[chosen].mean()

    return model, sgd(model), loss_at


@program(INVALID, "NllLossBackward0", None)
def every_target_ignored() -> Parts:
    model = mlp()

    def loss_at(step: int) -> Tensor:
        y = torch.full((16,), -100) if step == BAD_STEP else torch.randint(4, (16,))
        return F.cross_entropy(model(batch()), y)

    return model, sgd(model), loss_at


@program(INVALID, "LogBackward0", None)
def entropy_of_a_one_hot() -> Parts:
    def loss_of(y: Tensor, bad: bool) -> Tensor:
        p = (y * (1e5 if bad else 1.0)).softmax(1)
        return (p * p.log()).sum(1).mean()

    return simple(loss_of)


@program(OVERFLOW, "ExpBackward0", None)
def exponential_of_the_rate() -> Parts:
    def loss_of(y: Tensor, bad: bool) -> Tensor:
        rate = (y * (1e4 if bad else 1.0)).exp()
        return (rate - y).mean()

    return simple(loss_of)


@program(OVERFLOW, "ExpBackward0", None)
def softmax_by_hand() -> Parts:
    def loss_of(y: Tensor, bad: bool) -> Tensor:
        e = torch.exp(y * (1e4 if bad else 1.0))
        return (e / e.sum(1, keepdim=True)).square().mean()

    return simple(loss_of)


@program(INVALID, "StdBackward0", None)
def deviation_of_one_example() -> Parts:
    model = mlp()

    def loss_at(step: int) -> Tensor:
        return model(batch(1 if step == BAD_STEP else 16)).std(0).mean()

    return model, sgd(model), loss_at


@program(INVALID, "AcosBackward0", None)
def angle_of_a_cosine_above_one() -> Parts:
    def loss_of(y: Tensor, bad: bool) -> Tensor:
        cosine = F.normalize(y, dim=1)[:, 0] * (1.5 if bad else 0.9)
        return torch.acos(cosine).mean()

    model = mlp()
    torch.nn.init.zeros_(model[2].weight)
    with torch.no_grad():
        model[2].bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    return simple(loss_of, model)


@program(INVALID, "LogBackward0", None)
def logarithm_of_a_negative_variance() -> Parts:
    def loss_of(y: Tensor, bad: bool) -> Tensor:
        variance = y[:, 1] if bad else F.softplus(y[:, 1])
        return (torch.log(variance) + y[:, 0] ** 2 / variance.abs()).mean()

    return simple(loss_of)


@program(INVALID, "PowBackward0", None)
def fractional_power_of_a_negative_number() -> Parts:
    def loss_of(y: Tensor, bad: bool) -> Tensor:
        return (y**1.5 if bad else y.abs() ** 1.5).mean()

    return simple(loss_of)


@program(INVALID, "SqrtBackward0", None)
def root_of_a_negative_number() -> Parts:
    def loss_of(y: Tensor, bad: bool) -> Tensor:
        return torch.sqrt(y.sum(1) - 9.0).mean() if bad else y.square().mean()

    return simple(loss_of)


def with_target(loss_of, poison: float = float("nan"), make=torch.randn) -> Parts:
    """A program with one target that is not finite."""
    model = mlp()

    def loss_at(step: int) -> Tensor:
        y = make(16, 4)
        if step == BAD_STEP:
            y[3, 1] = poison
        return loss_of(model(batch()), y)

    return model, sgd(model), loss_at


@program(TARGET, "MseLossBackward0", None)
def nan_target_of_the_squared_error() -> Parts:
    return with_target(F.mse_loss)


@program(TARGET, "SubBackward0 AbsBackward0", None)
def nan_target_of_the_absolute_error() -> Parts:
    return with_target(F.l1_loss)


@program(TARGET, "SubBackward0", None)
def nan_target_of_a_loss_by_hand() -> Parts:
    return with_target(lambda output, y: ((output - y) ** 2).mean())


@program(TARGET, "BinaryCrossEntropyWithLogitsBackward0", None)
def nan_target_of_the_binary_cross_entropy() -> Parts:
    return with_target(F.binary_cross_entropy_with_logits, make=torch.rand)


@program(TARGET, "MseLossBackward0", None)
def infinite_target() -> Parts:
    return with_target(F.mse_loss, float("inf"))


@program(TARGET, "MulBackward0", None)
def nan_weight_of_an_example() -> Parts:
    return with_target(lambda output, y: (output.square() * y).mean())


@program(INVALID, "SqrtBackward0", None)
def root_of_a_zero_distance() -> Parts:
    model = mlp()

    def loss_at(step: int) -> Tensor:
        x, other = batch(), batch()
        if step == BAD_STEP:
            other[3] = x[3]
        return ((model(x) - model(other)) ** 2).sum(1).sqrt().mean()

    return model, sgd(model), loss_at


@program(INVALID, "PowBackward0", None)
def half_power_at_zero() -> Parts:
    def loss_of(y: Tensor, bad: bool) -> Tensor:
        return ((y * (0.0 if bad else 1.0)).abs() ** 0.5).mean()

    return simple(loss_of)


@program(INVALID, "SqrtBackward0", None)
def where_around_a_root() -> Parts:
    def loss_of(y: Tensor, bad: bool) -> Tensor:
        area = y * (y > 0) if bad else y.square() + 1
        return torch.where(area > 0, area.sqrt(), 0.0).mean()

    return simple(loss_of)


@program(INVALID, "LogBackward0", None)
def where_around_a_logarithm() -> Parts:
    def loss_of(y: Tensor, bad: bool) -> Tensor:
        p = y * (y > 0) if bad else y.sigmoid()
        return -torch.where(p > 0, p.log(), 0.0).mean()

    return simple(loss_of)


@program(INVALID, "DivBackward0", None)
def where_around_a_division() -> Parts:
    def loss_of(y: Tensor, bad: bool) -> Tensor:
        total = y * (y > 0) if bad else y.square() + 1
        return torch.where(total > 0, y / total, 0.0).mean()

    return simple(loss_of)


@program(INVALID, "AcosBackward0", None)
def angle_between_equal_vectors() -> Parts:
    def loss_of(y: Tensor, bad: bool) -> Tensor:
        cosine = y.sigmoid() * 0 + 1 if bad else y.tanh() * 0.9
        return torch.acos(cosine).mean()

    return simple(loss_of)


@program(INVALID, "AsinBackward0", None)
def great_circle_of_antipodes() -> Parts:
    def loss_of(y: Tensor, bad: bool) -> Tensor:
        return torch.asin(y * 0 - 1 if bad else y.tanh() * 0.9).mean()

    return simple(loss_of)


@program(INVALID, "LinalgEighBackward0", None)
def equal_eigenvalues() -> Parts:
    model = mlp(8, 9)

    def loss_at(step: int) -> Tensor:
        m = model(batch()).mean(0).view(3, 3)
        m = m @ m.T * (0.0 if step == BAD_STEP else 1.0) + torch.eye(3)
        return torch.linalg.eigh(m).eigenvectors.pow(3).sum()

    return model, sgd(model), loss_at


@program(INVALID, "LinalgSvdBackward0", None)
def equal_singular_values() -> Parts:
    model = mlp(8, 9)

    def loss_at(step: int) -> Tensor:
        m = model(batch()).mean(0).view(3, 3) * (0.0 if step == BAD_STEP else 1.0) + torch.eye(3)
        u, _, _ = torch.linalg.svd(m)
        return u.pow(3).sum() if step == BAD_STEP else m.square().sum()

    return model, sgd(model), loss_at


@program(INVALID, "MySquareRootBackward", None)
def derivative_of_ones_own() -> Parts:
    class MySquareRoot(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sqrt()

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return g / (2 * x.sqrt())

    def loss_of(y: Tensor, bad: bool) -> Tensor:
        return MySquareRoot.apply(y * (y > 0) if bad else y.square() + 1).mean()

    return simple(loss_of)


@program(INVALID, "SqrtBackward0", None)
def second_micro_batch() -> Parts:
    """Two backward passes in a step: the loop adds the second, and only it is bad."""
    model = mlp()

    def loss_at(step: int) -> Tensor:
        model(batch()).square().mean().backward()
        y = model(batch())
        return (y * (y > 0) if step == BAD_STEP else y.square() + 1).sqrt().mean()

    return model, sgd(model), loss_at


@program(INVALID, "DivBackward0", None)
def similarity_of_a_zero_vector() -> Parts:
    def loss_of(y: Tensor, bad: bool) -> Tensor:
        z = y * (0.0 if bad else 1.0)
        return (z / z.norm(dim=1, keepdim=True)).mean()

    return simple(loss_of)


@program(OVERFLOW, "PowBackward0 MeanBackward0 SquareBackward0 MseLossBackward0", None)
def squares_of_huge_outputs() -> Parts:
    def loss_of(y: Tensor, bad: bool) -> Tensor:
        return (y * (1e25 if bad else 1.0)).pow(2).mean()

    return simple(loss_of)
