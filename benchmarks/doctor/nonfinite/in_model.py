"""Programs whose model is at fault: its forward pass, its derivative, its weights, or what it is given."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.doctor.nonfinite.program import BAD_STEP, Parts, batch, mlp, program, sgd

INVALID, OVERFLOW, INPUT, WEIGHT = "invalid_operation", "overflow", "input", "weight"


class Lambda(nn.Module):
    """A module of one function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Attention(nn.Module):
    """Attention by hand, with a mask that may cover a whole row."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = q @ k.transpose(-2, -1)
        scores = scores.masked_fill(mask[:, None, :], float("-inf"))
        return scores.softmax(-1) @ v


class Reader(nn.Module):
    """Embedding, attention, head."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.embed, self.attention, self.head = nn.Embedding(20, 8), attention, nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        mask = x == 0
        if isinstance(self.attention, nn.MultiheadAttention):
            h = self.attention(h, h, h, key_padding_mask=mask)[0]
        else:
            h = self.attention(h, mask)
        return self.head(h.mean(1))


def tokens(step: int) -> Tensor:
    x = torch.randint(1, 20, (16, 6))
    x[:, -1] = 0
    if step == BAD_STEP:
        x[5] = 0
    return x


def reading(model: nn.Module, run=None) -> Parts:
    run = model if run is None else run
    return model, sgd(model), lambda step: F.cross_entropy(run(tokens(step)), torch.randint(2, (16,)))


def feeding(model: nn.Module, spoil=lambda x: x, run=None) -> Parts:
    """A program that spoils its batch on the bad step."""
    run = model if run is None else run

    def loss_at(step: int) -> Tensor:
        x = batch()
        return run(spoil(x) if step == BAD_STEP else x).square().mean()

    return model, sgd(model), loss_at


def zero_row(x: Tensor) -> Tensor:
    x[3] = 0.0
    return x


@program(INVALID, "SoftmaxBackward0", "attention")
def padded_row_of_multihead_attention() -> Parts:
    return reading(Reader(nn.MultiheadAttention(8, 2, batch_first=True)))


@program(INVALID, "SoftmaxBackward0", "attention")
def padded_row_of_attention_by_hand() -> Parts:
    return reading(Reader(Attention()))


@program(INVALID, "SoftmaxBackward0", "attention")
def padded_row_compiled_eagerly() -> Parts:
    model = Reader(Attention())
    return reading(model, torch.compile(model, backend="eager"))


@program(INVALID, "SoftmaxBackward0", "attention")
def padded_row_compiled_ahead_of_time() -> Parts:
    model = Reader(Attention())
    return reading(model, torch.compile(model, backend="aot_eager"))


@program(INVALID, "SoftmaxBackward0", "attention")
def padded_row_in_bfloat16() -> Parts:
    model = Reader(Attention())

    def run(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x)

    return reading(model, run)


@program(INVALID, "DivBackward0", "norm")
def norm_by_hand_of_constant_features() -> Parts:
    model = nn.Sequential()
    model.add_module("first", nn.Linear(8, 8, bias=False))
    model.add_module("norm", Lambda(lambda x: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)))
    model.add_module("last", nn.Linear(8, 4))
    return feeding(model, zero_row)


@program(INVALID, "RsqrtBackward0", "norm")
def rms_norm_without_epsilon() -> Parts:
    model = nn.Sequential()
    model.add_module("first", nn.Linear(8, 8, bias=False))
    model.add_module("norm", Lambda(lambda x: x * x.square().mean(-1, keepdim=True).rsqrt()))
    model.add_module("last", nn.Linear(8, 4))
    return feeding(model, zero_row)


@program(INVALID, "SqrtBackward0", "length")
def length_of_a_zero_vector() -> Parts:
    model = nn.Sequential()
    model.add_module("first", nn.Linear(8, 8, bias=False))
    model.add_module("length", Lambda(lambda x: x.square().sum(-1, keepdim=True).sqrt()))
    model.add_module("last", nn.Linear(1, 4))
    return feeding(model, zero_row)


@program(INVALID, "log log1p LogBackward0", "features")
def logarithm_of_a_feature() -> Parts:
    model = nn.Sequential()
    model.add_module("features", Lambda(lambda x: x.abs().log()))
    model.add_module("last", nn.Linear(8, 4))
    return feeding(model, zero_row)


@program(INVALID, "DivBackward0", "scale")
def division_by_the_largest_of_a_row() -> Parts:
    model = nn.Sequential()
    model.add_module("first", nn.Linear(8, 8, bias=False))
    model.add_module("scale", Lambda(lambda x: x / x.abs().amax(1, keepdim=True)))
    return feeding(model, zero_row)


@program(OVERFLOW, "ExpBackward0", "gate")
def exponential_gate() -> Parts:
    model = nn.Sequential()
    model.add_module("first", nn.Linear(8, 8))
    model.add_module("gate", Lambda(lambda x: x * x.exp()))
    return feeding(model, lambda x: x * 1e4)


@program(INVALID, "SqrtBackward0", "shared")
def shared_root() -> Parts:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.shared, self.last = nn.Linear(8, 8, bias=False), Lambda(torch.sqrt), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.shared(self.first(x).square() + 1)
            h = self.shared((h - 1).square() if self.training else h)
            return self.last(h)

    return feeding(Twice(), zero_row)


@program(INVALID, "SqrtBackward0", "length")
def functional_call_of_a_length() -> Parts:
    model = nn.Sequential()
    model.add_module("first", nn.Linear(8, 8, bias=False))
    model.add_module("length", Lambda(lambda x: x.square().sum(-1, keepdim=True).sqrt()))
    model.add_module("last", nn.Linear(1, 4))
    return feeding(model, zero_row, lambda x: torch.func.functional_call(model, dict(model.named_parameters()), (x,)))


@program(INVALID, "SqrtBackward0", "decoder.length")
def parts_called_by_the_loop() -> Parts:
    model = nn.Module()
    model.encoder = nn.Linear(8, 8, bias=False)
    model.decoder = nn.Sequential()
    model.decoder.add_module("length", Lambda(lambda x: x.square().sum(-1, keepdim=True).sqrt()))
    model.decoder.add_module("last", nn.Linear(1, 4))
    return feeding(model, zero_row, lambda x: model.decoder(model.encoder(x)))


@program(INVALID, "SqrtBackward0", "length")
def length_compiled() -> Parts:
    model = nn.Sequential()
    model.add_module("first", nn.Linear(8, 8, bias=False))
    model.add_module("length", Lambda(lambda x: x.square().sum(-1, keepdim=True).sqrt()))
    model.add_module("last", nn.Linear(1, 4))
    return feeding(model, zero_row, torch.compile(model, backend="aot_eager"))


@program(INVALID, "SqrtBackward0", "length")
def length_within_a_checkpoint() -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 8, bias=False), nn.Linear(1, 4)
            self.length = Lambda(lambda x: x.square().sum(-1, keepdim=True).sqrt())

        def forward(self, x: Tensor) -> Tensor:
            return self.last(checkpoint(self.length, self.first(x), use_reentrant=False))

    return feeding(Net(), zero_row)


@program(INVALID, "DivBackward0", "ratio")
def division_by_what_was_dropped() -> Parts:
    model = nn.Sequential()
    model.add_module("first", nn.Linear(8, 8))
    model.add_module("drop", nn.Dropout(0.02))
    model.add_module("ratio", Lambda(lambda x: x[:, :4] / x[:, 4:]))
    return model, sgd(model, 1e-6), lambda step: model(batch()).square().clamp(max=1).mean()


@program(INVALID, "LogBackward0", "Net")
def loss_within_the_model() -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp()

        def forward(self, x: Tensor, scale: float) -> dict[str, Tensor]:
            logits = self.body(x) * scale
            return {"loss": -logits.softmax(1).log()[:, 0].mean(), "logits": logits}

    model = Net()
    return model, sgd(model), lambda step: model(batch(), 1e4 if step == BAD_STEP else 1.0)["loss"]


def poisoned(value: float):
    def spoil(x: Tensor) -> Tensor:
        x[7, 2] = value
        return x

    return spoil


@program(INPUT, "AddmmBackward0", "0")
def nan_in_the_inputs() -> Parts:
    return feeding(mlp(), poisoned(float("nan")))


@program(INPUT, "AddmmBackward0", "0")
def infinity_in_the_inputs() -> Parts:
    return feeding(mlp(), poisoned(float("inf")))


@program(INPUT, "ConvolutionBackward0", "0")
def nan_in_an_image() -> Parts:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 4))

    def loss_at(step: int) -> Tensor:
        x = torch.rand(8, 1, 8, 8)
        if step == BAD_STEP:
            x[2, 0, 4, 4] = float("nan")
        return F.cross_entropy(model(x), torch.randint(4, (8,)))

    return model, sgd(model), loss_at


@program(INPUT, "", "recurrent")
def nan_in_a_sequence_of_a_mapping() -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent, self.head = nn.GRU(3, 8, batch_first=True), nn.Linear(8, 2)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return self.head(self.recurrent(batch["series"])[0][:, -1])

    model = Net()

    def loss_at(step: int) -> Tensor:
        x = torch.randn(16, 5, 3)
        if step == BAD_STEP:
            x[9, 2, 1] = float("nan")
        return F.mse_loss(model({"series": x}), torch.randn(16, 2))

    return model, sgd(model), loss_at


@program(INPUT, "AddmmBackward0", "0")
def nan_in_the_inputs_in_bfloat16() -> Parts:
    model = mlp().bfloat16()
    return feeding(model, poisoned(float("nan")), lambda x: model(x.bfloat16()).float())


@program(WEIGHT, "Adam.step", "0")
def adam_without_epsilon() -> Parts:
    model = mlp()

    def loss_at(step: int) -> Tensor:
        x = batch()
        x[:, 0] = 0.0  # the weights of this feature never have a gradient
        return model(x).square().mean()

    return model, torch.optim.Adam(model.parameters(), 1e-3, eps=0.0), loss_at


@program(WEIGHT, "SGD.step", "0")
def learning_rate_that_is_nan() -> Parts:
    model = mlp()
    optimizer = sgd(model)

    def loss_at(step: int) -> Tensor:
        if step == BAD_STEP:
            optimizer.param_groups[0]["lr"] = float("nan")
        return model(batch()).square().mean()

    return model, optimizer, loss_at


@program(WEIGHT, "", "2")
def weight_divided_by_its_norm() -> Parts:
    model = mlp()

    def loss_at(step: int) -> Tensor:
        if step == BAD_STEP:
            with torch.no_grad():
                model[2].weight[1] = 0.0
                model[2].weight.div_(model[2].weight.norm(dim=1, keepdim=True))
        return model(batch()).square().mean()

    return model, sgd(model), loss_at


@program(WEIGHT, "", "2")
def nan_in_what_was_loaded() -> Parts:
    model = mlp()
    with torch.no_grad():
        model[2].weight[1, 3] = float("nan")
    return feeding(model)


@program(WEIGHT, "Adam.step", "0")
def second_moment_that_overflowed() -> Parts:
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def loss_at(step: int) -> Tensor:
        if step == BAD_STEP:
            for p in model.parameters():
                optimizer.state[p]["exp_avg"].fill_(float("nan"))
        return model(batch()).square().mean()

    return model, optimizer, loss_at


@program(OVERFLOW, num_steps=200)
def learning_rate_far_too_high() -> Parts:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    return model, sgd(model, 10.0), lambda step: F.mse_loss(model(batch()), torch.ones(16, 4))


@program(OVERFLOW, "", "0", "1", "2", "3", "4", "5", "6", "7", None, num_steps=3)
def initial_weights_far_too_large() -> Parts:
    model = nn.Sequential(*[nn.Linear(64, 64) for _ in range(8)])
    for layer in model:
        nn.init.normal_(layer.weight, std=1e5)
    return model, sgd(model, 1e-9), lambda step: model(torch.randn(16, 64)).square().mean()


@program(OVERFLOW, "AddmmBackward0 MmBackward0", "2")
def half_precision_beyond_its_range() -> Parts:
    model = mlp()
    with torch.no_grad():
        model[2].weight.mul_(1e5)

    def run(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.float16):
            return model(x).float()

    return model, sgd(model, 1e-12), lambda step: run(batch() * (100 if step == BAD_STEP else 1e-3)).mean()


@program(OVERFLOW, "ToCopyBackward0 _to_copy to_copy ToCopyBackward0", None)
def cast_to_half_precision() -> Parts:
    model = mlp()
    return model, sgd(model), lambda step: (model(batch()) * (1e6 if step == BAD_STEP else 1)).half().float().mean()


@program(INVALID, "SqrtBackward0", "length")
def length_of_a_zero_vector_in_bfloat16() -> Parts:
    model = nn.Sequential()
    model.add_module("first", nn.Linear(8, 8, bias=False))
    model.add_module("length", Lambda(lambda x: x.square().sum(-1, keepdim=True).sqrt()))
    model.add_module("last", nn.Linear(1, 4))

    def run(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x).float()

    return feeding(model, zero_row, run)


@program(INVALID, "LogBackward0", None)
def logarithm_of_what_underflowed_in_half_precision() -> Parts:
    model = mlp()
    return (
        model,
        sgd(model),
        lambda step: (-(model(batch()).sigmoid() * (1e-9 if step == BAD_STEP else 1)).half().log()).float().mean(),
    )


@program(OVERFLOW)
def gradient_beyond_half_precision() -> Parts:
    model = mlp()

    def loss_at(step: int) -> Tensor:
        with torch.autocast("cpu", torch.float16):
            y = model(batch())
        return y.float().square().mean() * (2.0**30 if step == BAD_STEP else 1.0)

    return model, sgd(model), loss_at


@program(OVERFLOW, "", "recurrent", num_steps=3)
def recurrence_that_explodes() -> Parts:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent, self.head = nn.RNN(4, 8, nonlinearity="relu", batch_first=True), nn.Linear(8, 1)
            nn.init.constant_(self.recurrent.weight_hh_l0, 4.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.recurrent(x)[0][:, -1])

    model = Net()
    return model, sgd(model, 1e-9), lambda step: model(torch.randn(8, 60, 4)).mean()
