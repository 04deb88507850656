"""The contract of every option. A class without its YAML, or a YAML without its row here, fails."""

import functools
import importlib
import inspect
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from stabletrain.errors import RequestError
from stabletrain.network import Parts, initialize_, residual
from stabletrain.network.activation import ACTIVATIONS
from stabletrain.network.initialization import INITIALIZATIONS, Initialization
from stabletrain.network.normalization import NORMS, layers
from stabletrain.network.residual import joins

CONF = Path(__file__).parents[2] / "conf"

# One row per option: its name, and the class in its YAML.
ROWS = {
    "model": {
        "mlp": "MLP",
        "rnn": "RNN",
        "lstm": "LSTM",
        "gru": "GRU",
        "cnn": "CNN",
        "resnet": "ResNet",
        "densenet1d": "DenseNet1d",
        "transformer": "Transformer",
    },
    "activation": {
        "identity": "Identity",
        "sigmoid": "Sigmoid",
        "tanh": "Tanh",
        "relu": "ReLU",
        "leaky_relu": "LeakyReLU",
        "prelu": "PReLU",
        "elu": "ELU",
        "selu": "SELU",
        "gelu": "GELU",
        "silu": "SiLU",
        "mish": "Mish",
        "softplus": "Softplus",
    },
    "norm": {
        "none": "NoNorm",
        "batch": "BatchNorm",
        "layer": "LayerNorm",
        "group": "GroupNorm",
        "instance": "InstanceNorm",
        "rms": "RMSNorm",
        "weight": "WeightNorm",
        "spectral": "SpectralNorm",
    },
    "residual": {
        "none": "NoResidual",
        "add": "AddResidual",
        "scaled": "ScaledResidual",
        "rezero": "ReZeroResidual",
        "layerscale": "LayerScaleResidual",
        "deepnorm": "DeepNormResidual",
        "highway": "HighwayResidual",
        "dense": "DenseResidual",
    },
    "init": {
        "default": "Default",
        "normal": "Normal",
        "xavier": "Xavier",
        "he": "He",
        "lecun": "LeCun",
        "orthogonal": "Orthogonal",
        "identity": "Identity",
        "lsuv": "LSUV",
        "critical": "Critical",
        "depth_scaled": "DepthScaled",
        "fixup": "Fixup",
        "chrono": "Chrono",
    },
}
OFFERED = {"parts", "output", "form"}  # passed by `app`, from the data and the other groups
OPTIONS = [(group, name) for group, names in ROWS.items() for name in names]
FAMILIES = list(ROWS["model"])


def load(group, name):
    """Return the class and the settings of an option, as `app` builds it."""
    values = load_text(group, name)
    values.pop("defaults", None)  # choices in other groups are composed by `app`
    module, attribute = values.pop("_target_").rsplit(".", 1)
    return getattr(importlib.import_module(module), attribute), values


def load_text(group, name):
    return yaml.safe_load((CONF / group / f"{name}.yaml").read_text())


def make(group, name):
    target, values = load(group, name)
    return functools.partial(target, **values)


RECURRENT = ("rnn", "lstm", "gru")


def is_refused(family, norm, join):
    """Return whether a composition must be refused."""
    if join == "dense" and family not in ("mlp", "cnn", "densenet1d"):
        return True  # the layers of the others have a constant width
    if family == "densenet1d" and join != "dense":
        return True
    if join == "deepnorm":
        return True  # without a norm after every join the signal grows by α per layer
    return norm == "instance" and family in ("mlp", *RECURRENT)  # no positions


def build(family, width=32, **parts):
    factories = {group: make(group, name) for group, name in parts.items()}
    return make("model", family)(6, 3, Parts(**factories), depth=2, width=width)


def any_residual(family):
    return "dense" if family == "densenet1d" else "rezero"


def make_input(model, batch=5):
    shapes = {"vector": (6,), "sequence": (4, 6), "image": (6, 8, 8)}
    form = model.input_form if isinstance(model.input_form, str) else model.input_form[0]
    return torch.randn(batch, *shapes[form])


@pytest.mark.parametrize("group", ROWS)
def test_options_have_rows(group):
    # `custom` has no class: it is for the user's own model.
    assert {path.stem for path in (CONF / group).glob("*.yaml")} - {"custom"} == set(ROWS[group])


def test_custom_asks_for_a_class():
    assert load_text("model", "custom") == {"_target_": "???"}


@pytest.mark.parametrize(("group", "table"), [("activation", ACTIVATIONS), ("norm", NORMS)])
def test_tables_hold_what_the_configuration_names(group, table):
    """A name has the same class and defaults in `replace_norms_` as in `norm=`."""
    assert {name: part.__name__ for name, part in table.items()} == ROWS[group]
    for name, part in table.items():
        target, values = load(group, name)
        assert target is part
        defaults = {k: p.default for k, p in inspect.signature(part).parameters.items()}
        assert values == {k: defaults[k] for k in values}


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_yaml_names_its_class_and_parameters(group, name):
    text = (CONF / group / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    target, values = load(group, name)
    assert target.__name__ == ROWS[group][name]
    signature = inspect.signature(target)
    assert set(values) <= set(signature.parameters)
    with pytest.raises(TypeError):
        target(*([4] * 2), **values, typo=1)
    if target.__module__.startswith("stabletrain"):
        defaults = {k: p.default for k, p in signature.parameters.items() if p.default is not p.empty}
        assert len(signature.parameters) <= 10
        assert not any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
        assert values == {k: v for k, v in defaults.items() if k not in OFFERED}


def leaves(base):
    """Return the names of all concrete classes in stabletrain that inherit from `base`."""
    can_be_made = not inspect.isabstract(base) and base.__module__.startswith("stabletrain.")
    return ({base.__name__} if can_be_made else set()).union(*map(leaves, base.__subclasses__()))


def test_every_class_has_a_yaml():
    def concrete(module, base):
        found = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
        return {c.__name__ for c in found if issubclass(c, base) and not inspect.isabstract(c)}

    assert concrete(joins, residual.Residual) == set(ROWS["residual"].values())
    assert leaves(Initialization) == set(ROWS["init"].values())
    assert concrete(layers, nn.Module) - {"Norm", "_MovedAxis"} == set(ROWS["norm"].values())
    assert {name: rule.__name__ for name, rule in INITIALIZATIONS.items()} == ROWS["init"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("activation", ROWS["activation"])
def test_every_composition_runs_forward_and_backward(family, activation):
    for norm in ROWS["norm"]:
        for join in ROWS["residual"]:
            if is_refused(family, norm, join):
                with pytest.raises(RequestError):
                    build(family, activation=activation, norm=norm, residual=join)
                continue
            model = build(family, activation=activation, norm=norm, residual=join)
            x = make_input(model)
            outputs = model(x)
            assert outputs.shape == (5, 3)
            assert outputs.isfinite().all()
            outputs.square().mean().backward()
            for name, parameter in model.named_parameters():
                assert parameter.grad is not None, (name, norm, join)
                assert parameter.grad.isfinite().all(), (name, norm, join)
            model.eval()
            assert torch.equal(model(x), model(x))
            assert model(x[:1]).isfinite().all()


def is_unfit(family, init):
    """Return whether a model lacks what an initialization needs: gates, or branches."""
    if init == "chrono":
        return family not in ("lstm", "gru")  # gates
    return init in ("depth_scaled", "fixup") and family in (*RECURRENT, "densenet1d")  # branches


@pytest.mark.parametrize("init", ROWS["init"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_init_leaves_finite_weights_and_is_reproducible(family, init):
    model = build(family, norm="layer", residual=any_residual(family), activation="prelu")
    rule = make("init", init)()
    inputs = make_input(model)
    if is_unfit(family, init):
        with pytest.raises(RequestError):
            initialize_(model, rule, inputs=inputs)
        return
    rows = {}
    for activation in (None, nn.Tanh(), nn.SiLU()):
        torch.manual_seed(3)
        assert initialize_(model, rule, activation=activation, inputs=inputs) is model
        rows[activation] = [p.detach().clone() for p in model.parameters()]
        assert all(p.isfinite().all() for p in rows[activation])
        torch.manual_seed(3)
        initialize_(model, init, activation=activation, inputs=inputs)
        assert all(torch.equal(a, b) for a, b in zip(rows[activation], model.parameters(), strict=True))
    assert all(p.requires_grad and p.grad_fn is None for p in model.parameters())
    assert model(inputs).isfinite().all()


@pytest.mark.parametrize("norm", ROWS["norm"])
def test_state_dict_round_trips(norm):
    for family in FAMILIES:
        join = any_residual(family)
        if is_refused(family, norm, join):
            continue
        first, second = (build(family, norm=norm, residual=join, activation="prelu") for _ in range(2))
        first(make_input(first))
        second.load_state_dict(first.state_dict())
        x = make_input(first)
        assert torch.equal(first.eval()(x), second.eval()(x))
