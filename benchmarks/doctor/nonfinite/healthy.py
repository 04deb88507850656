"""Healthy programs in which infinities are intended: no alarm is right."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.doctor.nonfinite.in_model import Attention, Reader
from benchmarks.doctor.nonfinite.program import Parts, batch, mlp, program, sgd


@program(None)
def attention_with_partial_masks() -> Parts:
    model = Reader(Attention())

    def loss_at(step: int) -> Tensor:
        x = torch.randint(1, 20, (16, 6))
        x[:, 3:] = 0
        return F.cross_entropy(model(x), torch.randint(2, (16,)))

    return model, sgd(model), loss_at


@program(None)
def causal_mask_of_minus_infinity() -> Parts:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    mask = nn.Transformer.generate_square_subsequent_mask(6)
    return model, sgd(model), lambda step: model(torch.randn(4, 6, 8), src_mask=mask).square().mean()


@program(None)
def masked_logits() -> Parts:
    model = mlp()

    def loss_at(step: int) -> Tensor:
        logits = model(batch()).masked_fill(torch.tensor([False, False, True, False]), float("-inf"))
        return F.cross_entropy(logits, torch.randint(2, (16,)))

    return model, sgd(model), loss_at


@program(None)
def infinity_outside_of_the_mask() -> Parts:
    model = mlp()

    def loss_at(step: int) -> Tensor:
        y = torch.randn(16, 4)
        y[2] = float("inf")
        keep = y.isfinite().all(1)
        return F.mse_loss(model(batch())[keep], y[keep])

    return model, sgd(model), loss_at


@program(None)
def where_with_safe_inputs() -> Parts:
    model = mlp()

    def loss_at(step: int) -> Tensor:
        y = F.relu(model(batch()))
        ok = y > 0
        return torch.where(ok, torch.where(ok, y, 1.0).sqrt(), 0.0).mean()

    return model, sgd(model), loss_at


@program(None)
def additive_mask_by_a_logarithm() -> Parts:
    model = mlp()

    def loss_at(step: int) -> Tensor:
        mask = torch.tensor([1.0, 1.0, 0.0, 1.0]).log()
        return (model(batch()) + mask).softmax(1).square().mean()

    return model, sgd(model), loss_at


@program(None, num_steps=60)
def loss_scaler_that_skips() -> Parts:
    """The scaler's first factors are too large: it skips steps until one fits, as it is meant to."""
    model = mlp()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=1000)
    optimizer = sgd(model)
    take = optimizer.step

    def step_with_scaler(*args):
        optimizer.step = take
        scaler.step(optimizer)
        scaler.update()
        optimizer.step = step_with_scaler

    def loss_at(step: int) -> Tensor:
        with torch.autocast("cpu", torch.float16):
            y = model(batch())
        return scaler.scale(y.float().square().mean())

    optimizer.step = step_with_scaler
    return model, optimizer, loss_at
