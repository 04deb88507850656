"""Test the forward order on difficult models: functional use, lists, parametrizations, copies, failed passes."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from stabletrain.signal.layer_names import ForwardOrder
from stabletrain.signal.watch import Watch
from stabletrain.torch_tools.module_hooks import is_hooked


def order_of(model: nn.Module, *inputs: torch.Tensor) -> list[str]:
    """Return the parameter paths in the order that one forward pass gives them."""
    order = ForwardOrder(model)
    model(*inputs)
    return [name.partition(".")[2] for name in order.named_parameters()]


def num_hooks(model: nn.Module) -> int:
    return sum(map(is_hooked, model.modules()))


class Shuffled(nn.Module):
    """A list of layers that are called in a given order."""

    def __init__(self, call_order: list[int]):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3, bias=False) for _ in call_order)
        self.call_order = call_order

    def forward(self, x):
        for index in self.call_order:
            x = self.layers[index](x)
        return x


@pytest.mark.parametrize("call_order", [[0, 1, 2], [2, 0, 1], [2, 1, 0], [1, 1, 0], [2, 2, 2]])
def test_the_order_is_that_of_the_first_calls(call_order):
    called = list(dict.fromkeys(call_order))
    never = [i for i in range(3) if i not in called]
    expected = [f"layers.{i}.weight" for i in called + never]
    assert order_of(Shuffled(call_order), torch.ones(1, 3)) == expected


def test_more_than_a_hundred_layers_sort_by_name():
    model = Shuffled(list(reversed(range(120))))
    order = ForwardOrder(model)
    model(torch.ones(1, 3))
    names = list(order.named_parameters())
    assert (names[0], names[-1]) == ("L000.layers.119.weight", "L119.layers.0.weight")
    assert sorted(names) == names


class Attention(nn.Module):
    """Uses the weight of a layer without calling it, as `nn.MultiheadAttention` does; has a list of parameters."""

    def __init__(self):
        super().__init__()
        self.query = nn.Linear(3, 3, bias=False)
        self.out = nn.Linear(3, 3, bias=False)
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(3)) for _ in range(2)])

    def forward(self, x):
        return F.linear(self.query(x) * self.scales[0] * self.scales[1], self.out.weight)


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(3, 3, bias=False)
        self.head = nn.Linear(3, 1, bias=False)
        self.blocks = nn.ModuleList(Attention() for _ in range(2))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def test_what_a_module_uses_without_calling_stays_with_it():
    held = ["out.weight", "scales.0", "scales.1", "query.weight"]
    expected = [f"blocks.{i}.{name}" for i in range(2) for name in held]
    assert order_of(Stack(), torch.ones(2, 3)) == [*expected, "head.weight", "unused.weight"]


def test_attention_keeps_its_output_projection():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 1))
    names = order_of(model, torch.randn(2, 3, 8))
    assert names.index("0.layers.0.self_attn.out_proj.weight") < names.index("0.layers.0.linear1.weight")
    assert names.index("0.layers.0.linear2.weight") < names.index("0.layers.1.self_attn.in_proj_weight")
    assert names[-1] == "1.bias"


class Nested(nn.Module):
    """Has its own parameter at every level of nesting."""

    def __init__(self, child: nn.Module | None = None):
        super().__init__()
        self.child = child
        self.own = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return (x if self.child is None else self.child(x)) * self.own


def test_own_parameters_at_every_level():
    model = Nested(Nested(Nested()))
    assert order_of(model, torch.ones(1, 3)) == ["own", "child.own", "child.child.own"]


def test_a_weight_shared_by_three_counts_once():
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
    model[3].weight = model[2].weight = model[1].weight
    assert order_of(model, torch.ones(1, 3)) == ["0.weight", "0.bias", "1.weight", "1.bias", "2.bias", "3.bias"]


@pytest.mark.parametrize("family", [nn.RNN, nn.LSTM, nn.GRU])
def test_all_weights_of_a_recurrent_layer_in_their_order(family):
    model = family(3, 4, num_layers=2, batch_first=True)
    assert order_of(model, torch.ones(1, 5, 3)) == [name for name, _ in model.named_parameters()]


def test_odd_names_are_made_plain_and_stay_apart():
    model = nn.Sequential()
    for name in ("a b", "a/b", "a:b", "ü", "a_b"):
        model.add_module(name, nn.Linear(2, 2, bias=False))
    watch = Watch(model)
    model(torch.ones(1, 2)).sum().backward()
    names = [layer.layer for layer in watch.step().layers]
    assert names == ["L00.a_b.weight", "L01.a_b.weight", "L02.a_b.weight", "L03._.weight", "L04.a_b.weight"]


def test_lazy_layers_are_found_once_they_have_a_shape():
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(2))
    watch = Watch(model)
    model(torch.ones(1, 3)).sum().backward()
    assert [(x.layer, x.size) for x in watch.step().layers] == [
        ("L00.0.weight", 12),
        ("L01.0.bias", 4),
        ("L02.2.weight", 8),
        ("L03.2.bias", 2),
    ]


def test_both_parts_of_a_normed_weight_come_with_their_layer():
    model = nn.Sequential(nn.Linear(3, 3), parametrizations.weight_norm(nn.Linear(3, 3)), nn.Linear(3, 1))
    names = order_of(model, torch.ones(1, 3))
    assert sorted(names[2:5]) == [
        "1.bias",
        "1.parametrizations.weight.original0",
        "1.parametrizations.weight.original1",
    ]


def test_a_parametrization_that_was_removed_is_gone():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3)), nn.Linear(3, 1))
    watch = Watch(model)
    model(torch.ones(1, 3))
    parametrize.remove_parametrizations(model[0], "weight")
    model(torch.ones(1, 3)).sum().backward()
    assert {x.layer.partition(".")[2] for x in watch.step().layers} == {"0.weight", "0.bias", "1.weight", "1.bias"}


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_watched_model_is_not_watched(duplicate):
    model = Shuffled([2, 0, 1])
    watch = Watch(model)
    other = duplicate(model)
    other(torch.ones(1, 3))
    assert num_hooks(other) == 0
    assert num_hooks(model) > 0  # the original's hooks stay
    model(torch.ones(1, 3)).sum().backward()
    assert [x.layer for x in watch.step().layers] == [f"L0{i}.layers.{k}.weight" for i, k in enumerate([2, 0, 1])]


def test_a_pass_that_fails_leaves_the_next_one_to_tell():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    watch = Watch(model)
    with pytest.raises(RuntimeError):
        model(torch.ones(1, 7))
    assert num_hooks(model) > 0
    model(torch.ones(1, 3)).sum().backward()
    assert num_hooks(model) == 0
    assert [x.layer for x in watch.step().layers] == ["L00.0.weight", "L01.0.bias", "L02.1.weight", "L03.1.bias"]


def test_hooks_go_with_the_first_step_and_on_request():
    model = Shuffled([0, 1])
    watch = Watch(model)
    assert watch.step().layers == ()  # nothing has a gradient yet
    assert num_hooks(model) == 0
    other = Watch(model)
    assert num_hooks(model) > 0
    other.detach()
    assert num_hooks(model) == 0


def test_hooks_of_others_stay():
    model = nn.Linear(3, 1)
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    watch = Watch(model)
    model(torch.ones(1, 3))
    watch.detach()
    model(torch.ones(1, 3))
    assert (len(calls), len(model._forward_hooks)) == (2, 1)


def test_two_watches_do_not_disturb_each_other():
    model = Shuffled([1, 0])
    first, second = Watch(model), Watch(model)
    model(torch.ones(1, 3)).sum().backward()
    assert first.step() == second.step()
    assert num_hooks(model) == 0


def test_asking_for_the_layers_early_does_not_fix_their_order():
    model = Shuffled([1, 0])
    watch = Watch(model)
    assert watch.layers == ["L00.layers.0.weight", "L01.layers.1.weight"]  # the order of definition
    model(torch.ones(1, 3)).sum().backward()
    expected = ["L00.layers.1.weight", "L01.layers.0.weight"]
    assert watch.layers == expected
    assert [x.layer for x in watch.step().layers] == expected == watch.layers
