"""Programs in the form in which such failures are usually met: losses of detection, speech, reinforcement learning, …

They were written after the rules and were not used to choose anything in them, except that the CTC loss got its own
words.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.doctor.nonfinite.in_loss import simple
from benchmarks.doctor.nonfinite.program import BAD_STEP, Parts, batch, mlp, program, sgd

INVALID, OVERFLOW, TARGET, INPUT = "invalid_operation", "overflow", "target", "input"


class Vae(nn.Module):
    """An encoder whose variance is an exponential."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(8, 8), nn.Linear(4, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(x).chunk(2, 1)
        z = mean + torch.randn_like(mean) * log_variance.exp().sqrt()
        return self.decoder(z), mean, log_variance


@program(OVERFLOW, "ExpBackward0", "Vae")
def variance_of_an_autoencoder() -> Parts:
    model = Vae()

    def loss_at(step: int) -> Tensor:
        x = batch() * (1e4 if step == BAD_STEP else 1)
        decoded, mean, log_variance = model(x)
        return F.mse_loss(decoded, x) + (mean.square() - log_variance).mean()

    return model, sgd(model), loss_at


@program(INVALID, "LogBackward0", None)
def mixture_density_that_underflows() -> Parts:
    def loss_of(y: Tensor, bad: bool) -> Tensor:
        density = torch.exp(-((y - (100.0 if bad else 0.0)) ** 2)).sum(1)
        return -density.log().mean()

    return simple(loss_of)


class GraphConvolution(nn.Module):
    """A symmetric normalization that an isolated node breaks."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        scale = adjacency.sum(1) ** -0.5
        return (scale[:, None] * adjacency * scale) @ self.linear(x)


@program(INVALID, "pow PowBackward0", "GraphConvolution")
def isolated_node_of_a_graph() -> Parts:
    model = GraphConvolution()

    def loss_at(step: int) -> Tensor:
        adjacency = torch.ones(16, 16)
        if step == BAD_STEP:
            adjacency[3] = adjacency[:, 3] = 0
        return model(batch(), adjacency).square().mean()

    return model, sgd(model), loss_at


@program(INVALID, "NativeLayerNormBackward0", "1")
def layer_norm_without_epsilon() -> Parts:
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.LayerNorm(8, eps=0.0), nn.Linear(8, 4))
    return model, sgd(model), lambda step: model(batch() * (0.0 if step == BAD_STEP else 1.0)).square().mean()


@program(OVERFLOW, "ExpBackward0", None)
def ratio_of_policies() -> Parts:
    model = mlp()

    def loss_at(step: int) -> Tensor:
        new, old = model(batch()), torch.randn(16, 4) - (200 if step == BAD_STEP else 0)
        return -((new - old).exp() * torch.randn(16, 4)).mean()

    return model, sgd(model, 1e-4), loss_at


@program(INVALID, "CtcLossBackward0", None)
def speech_shorter_than_its_text() -> Parts:
    model = nn.Linear(8, 5)

    def loss_at(step: int) -> Tensor:
        steps = 3 if step == BAD_STEP else 20
        log_probs = model(torch.randn(steps, 2, 8)).log_softmax(-1)
        text = torch.randint(1, 5, (2, 6))
        return F.ctc_loss(log_probs, text, torch.full((2,), steps), torch.full((2,), 6))

    return model, sgd(model), loss_at


@program(INVALID, "LogSoftmaxBackward0", None)
def every_action_masked() -> Parts:
    model = mlp()

    def loss_at(step: int) -> Tensor:
        allowed = torch.ones(16, 4, dtype=torch.bool)
        allowed[2] = step != BAD_STEP
        logits = model(batch()).masked_fill(~allowed, float("-inf"))
        return F.cross_entropy(logits, torch.randint(4, (16,)))

    return model, sgd(model), loss_at


class InPlace(nn.Module):
    """Normalizes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8, bias=False), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).abs()
        h = h + 0
        h /= h.detach().sum(1, keepdim=True)
        return self.last(h)


@program(INVALID, "DivBackward0", "InPlace")
def division_in_place() -> Parts:
    model = InPlace()

    def loss_at(step: int) -> Tensor:
        x = batch()
        if step == BAD_STEP:
            x[1] = 0
        return model(x).square().mean()

    return model, sgd(model), loss_at


@program(INVALID, "LogBackward0", None)
def squashed_gaussian_policy() -> Parts:
    def loss_of(y: Tensor, bad: bool) -> Tensor:
        action = torch.tanh(y * (1e3 if bad else 1.0))
        return -torch.log(1 - action.square()).sum(1).mean()

    return simple(loss_of)


@program(INVALID, "DivBackward0", None)
def overlap_of_empty_boxes() -> Parts:
    def loss_of(y: Tensor, bad: bool) -> Tensor:
        width, height = F.relu(y[:, 0] - (1e3 if bad else -1e1)), F.relu(y[:, 1] + 10)
        overlap = torch.minimum(width, torch.ones(16)) * torch.minimum(height, torch.ones(16))
        return 1 - (overlap / (width * height)).mean()

    return simple(loss_of)


@program(INVALID, "SqrtBackward0", None)
def gradient_penalty_of_a_flat_critic() -> Parts:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))

    def loss_at(step: int) -> Tensor:
        x = batch().requires_grad_()
        if step == BAD_STEP:
            with torch.no_grad():
                model[0].bias.fill_(-100.0)  # no unit is active: the critic is flat
        critic = model(x)
        (gradient,) = torch.autograd.grad(critic.sum(), x, create_graph=True)
        return critic.mean() + ((gradient.square().sum(1).sqrt() - 1) ** 2).mean()

    return model, sgd(model), loss_at


@program(INVALID, "SqrtBackward0", None, num_steps=3)
def weight_penalty_at_zero() -> Parts:
    model = mlp()
    nn.init.zeros_(model[2].bias)

    def loss_at(step: int) -> Tensor:
        penalty = sum(p.square().sum().sqrt() for p in model.parameters())
        return model(batch()).square().mean() + 1e-4 * penalty

    return model, sgd(model), loss_at


@program(INVALID, "MeanBackward1", "Pool")
def pool_over_no_token() -> Parts:
    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.stack([self.embed(row[row > 0]).mean(0) for row in x]))

    model = Pool()

    def loss_at(step: int) -> Tensor:
        x = torch.randint(1, 20, (8, 5))
        if step == BAD_STEP:
            x[4] = 0
        return F.cross_entropy(model(x), torch.randint(2, (8,)))

    return model, sgd(model), loss_at


@program(INVALID, "PowBackward0", None)
def focal_loss_of_a_sure_guess() -> Parts:
    def loss_of(y: Tensor, bad: bool) -> Tensor:
        p = torch.sigmoid(y * 0 + 100 if bad else y)
        return -((1 - p) ** 0.5 * (p + 1e-8).log()).mean()

    return simple(loss_of)


@program(INVALID, "DivBackward0", None)
def advantage_of_equal_rewards() -> Parts:
    model = mlp()

    def loss_at(step: int) -> Tensor:
        value = model(batch())[:, 0]
        value = value * 0 if step == BAD_STEP else value
        return ((value - value.mean()) / value.detach().std()).square().mean() + value.mean()

    return model, sgd(model), loss_at


@program(TARGET, "MseLossBackward0", None)
def targets_scaled_by_a_zero_deviation() -> Parts:
    model = mlp(8, 1)
    criterion = nn.MSELoss()

    def loss_at(step: int) -> Tensor:
        y = torch.ones(16, 1) if step == BAD_STEP else torch.randn(16, 1)
        y = (y - y.mean()) / y.std()
        return criterion(model(batch()), y)

    return model, torch.optim.Adam(model.parameters(), 1e-3), loss_at


@program(INPUT, "AddmmBackward0", "model.0")
def model_within_a_wrapper() -> Parts:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = mlp()

        def forward(self, *, x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(self.model(x), y)

    model = Wrapper()

    def loss_at(step: int) -> Tensor:
        x = batch()
        if step == BAD_STEP:
            x = (x - x) / x.new_zeros(8)
        return model(x=x, y=torch.randint(4, (16,)))

    return model, sgd(model), loss_at


@program(OVERFLOW, "", num_steps=300)
def momentum_far_too_large() -> Parts:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), 1.0, momentum=1.5)
    return model, optimizer, lambda step: F.mse_loss(model(batch()), torch.ones(16, 4))


@program(OVERFLOW, "", None, "0", "2", num_steps=3)
def loss_scale_far_too_large() -> Parts:
    model = mlp()
    return model, sgd(model), lambda step: model(batch()).square().mean() * 1e38 * 1e3


@program(INVALID, "SqrtBackward0", "0")
def siamese_twins_in_one_module() -> Parts:
    class Distance(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(8, 8, bias=False)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return (self.body(a) - self.body(b)).pow(2).sum(1).sqrt()

    model = nn.ModuleList([Distance()])

    def loss_at(step: int) -> Tensor:
        a, b = batch(), batch()
        if step == BAD_STEP:
            b[0] = a[0]
        return model[0](a, b).mean()

    return model, sgd(model), loss_at
