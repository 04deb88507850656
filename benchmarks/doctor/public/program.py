"""A program as data, and the model and optimizer that it describes, with the defaults that Keras had in 2020."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

import stabletrain as st
from benchmarks.doctor.public.losses import CATEGORICAL

NOTHING, INPUTS, TARGETS, BOTH = "", "inputs", "targets", "both"  # what is standardized
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)  # they begin as torch makes them: the identity after scaling
ONE_HOT, INDEX = "one_hot", "index"  # how labels become targets


@dataclass(frozen=True)
class Program:
    """What a training program says, in the words of Keras.

    It is built as PyTorch has it: softmax and categorical cross-entropy together are `cross_entropy` of the logits.

    Attributes:
        data: Name of one of `data.DATA`.
        layers: One line per layer, such as `dense 30 relu`; see `LAYERS`.
        loss: Name of one of `losses.LOSSES`.
        optimizer: Name of one of `OPTIMIZERS`.
        lr: Learning rate; None for the default.
        momentum: Of SGD; Nesterov's where `nesterov` is set.
        init: Name of one of `INITS`, for all kernels.
        bias: Initial value of all biases.
        standardize: What is brought to mean 0 and deviation 1.
        divide: What the inputs are divided by.
        scale_inputs: Number that is subtracted from all inputs, and number they are then divided by.
        scale_targets: The same for the targets.
        targets: `ONE_HOT`, or `INDEX` where the number of the class itself is the target.
        clip: Largest gradient norm; None for none.
        initialize: Initialization that `st.initialize_` applies afterwards; "" for none.
        activation: Activation that `st.replace_activations_` puts in place of the hidden ones; "" for none.
    """

    data: str
    layers: tuple[str, ...]
    loss: str
    optimizer: str = "adam"
    lr: float | None = None
    momentum: float = 0.0
    nesterov: bool = False
    epochs: int = 10
    batch_size: int = 32
    init: str = "glorot_uniform"
    bias: float = 0.0
    standardize: str = NOTHING
    divide: float = 1.0
    scale_inputs: tuple[float, float] = (0.0, 1.0)
    scale_targets: tuple[float, float] = (0.0, 1.0)
    targets: str = ONE_HOT
    clip: float | None = None
    initialize: str = ""
    activation: str = ""

    @property
    def settings(self) -> dict[str, object]:
        """What differs from the defaults."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}

    @property
    def rate(self) -> float:
        """The learning rate."""
        return OPTIMIZERS[self.optimizer][0] if self.lr is None else self.lr

    @property
    def last_activation(self) -> str:
        """The activation of the outputs; "" for linear ones."""
        words = self.layers[-1].split()
        return words[-1] if words[-1] in ACTIVATIONS else ""

    @property
    def _torch_layers(self) -> tuple[str, ...]:
        """The layers without the softmax that `torch.nn.functional.cross_entropy` contains."""
        if self.loss == CATEGORICAL and self.last_activation == "softmax":
            return self.with_output("").layers
        return self.layers

    def with_output(self, activation: str) -> Program:
        """Return the program with another activation of its outputs; "" for none."""
        words = self.layers[-1].split()
        if self.last_activation:
            words.pop()
        return replace(self, layers=(*self.layers[:-1], " ".join([*words, activation]).strip()))

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of all parameters."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(model.parameters(), self.rate, momentum=self.momentum, nesterov=self.nesterov)
        return OPTIMIZERS[self.optimizer][1](model.parameters(), self.rate)

    def make_model(self, inputs: Tensor) -> nn.Module:
        """Return the initialized model.

        Args:
            inputs: Two examples, from which layers take their sizes.
        """
        model = nn.Sequential(*(module for line in self._torch_layers for module in _layer(line)))
        with torch.no_grad():
            model.eval()(inputs)
        model.train()
        for module in model.modules():
            if not isinstance(module, NORMS):
                for path, parameter in module.named_parameters(recurse=False):
                    _initialize_(path, parameter, INITS[self.init], self.bias)
        if self.activation:
            _replace_hidden_(model, self.activation)
        if self.initialize:
            st.initialize_(model, self.initialize)
        return model


def _replace_hidden_(model: nn.Sequential, activation: str) -> None:
    """Replace the activations, but for that of the outputs."""
    last = model[-1]
    st.replace_activations_(model, activation)
    if not list(last.parameters()):
        model[-1] = last


def _initialize_(path: str, parameter: Tensor, init: Callable[[Tensor], object], bias: float) -> None:
    if parameter.dim() < 2:
        nn.init.constant_(parameter, bias)
    elif "weight_hh" in path:
        nn.init.orthogonal_(parameter)
    else:
        init(parameter)


def _adam(parameters, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr, eps=1e-7)


OPTIMIZERS: dict[str, tuple[float, Callable]] = {
    "sgd": (0.01, torch.optim.SGD),
    "adam": (0.001, _adam),
    "adamax": (0.002, lambda parameters, lr: torch.optim.Adamax(parameters, lr, eps=1e-7)),
    "rmsprop": (0.001, lambda parameters, lr: torch.optim.RMSprop(parameters, lr, alpha=0.9, eps=1e-7)),
    "adadelta": (1.0, lambda parameters, lr: torch.optim.Adadelta(parameters, lr, rho=0.95, eps=1e-7)),
}

INITS: dict[str, Callable[[Tensor], object]] = {
    "glorot_uniform": nn.init.xavier_uniform_,
    "glorot_normal": nn.init.xavier_normal_,
    "he_normal": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
    "uniform": lambda weight: nn.init.uniform_(weight, -0.05, 0.05),
    "normal": lambda weight: nn.init.normal_(weight, 0.0, 0.05),
    "standard_normal": lambda weight: nn.init.normal_(weight, 0.0, 1.0),
}

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "softmax": lambda: nn.Softmax(dim=-1),
}


class _Recurrent(nn.Module):
    """An LSTM over [batch, time, features] that returns all states, or the last one."""

    def __init__(self, inputs: int, units: int, *, bidirectional: bool, last: bool) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, units, batch_first=True, bidirectional=bidirectional)
        self.last = last

    def forward(self, inputs: Tensor) -> Tensor:
        states = self.lstm(inputs)[0]  # [batch, time, units]
        return states[:, -1] if self.last else states


def _layer(line: str) -> Iterator[nn.Module]:
    """Yield the modules of a layer: `name arguments [activation]`."""
    name, *words = line.split()
    activation = words.pop() if words and words[-1] in ACTIVATIONS else None
    yield LAYERS[name](*words)
    if activation:
        yield ACTIVATIONS[activation]()


def _conv(channels: str, size: str, padding: str = "valid") -> nn.Module:
    return nn.LazyConv2d(int(channels), int(size), padding=padding)


LAYERS: dict[str, Callable[..., nn.Module]] = {
    "dense": lambda units: nn.LazyLinear(int(units)),
    "conv": _conv,
    "conv3d": lambda channels, size, stride: nn.LazyConv3d(int(channels), int(size), int(stride), int(size) // 2),
    "pool": lambda size: nn.MaxPool2d(int(size), ceil_mode=True),
    "gap3d": lambda: nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten()),
    "flatten": nn.Flatten,
    "dropout": lambda p: nn.Dropout(float(p)),
    "batchnorm": nn.LazyBatchNorm1d,
    "layernorm": lambda: _LazyLayerNorm(),
    "lstm": lambda inputs, units: _Recurrent(int(inputs), int(units), bidirectional=False, last=True),
    "bilstm": lambda inputs, units: _Recurrent(int(inputs), int(units), bidirectional=True, last=False),
    "tanh": nn.Tanh,
}


class _LazyLayerNorm(nn.Module):
    """Layer normalization of the last dimension, whose size its first input gives."""

    def __init__(self) -> None:
        super().__init__()
        self.norm: nn.LayerNorm | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        if self.norm is None:
            self.norm = nn.LayerNorm(inputs.shape[-1])
        return self.norm(inputs)


def num_steps(program: Program, num_examples: int) -> int:
    """Return the number of optimizer steps of the whole training."""
    return program.epochs * math.ceil(num_examples / program.batch_size)
