"""Replacing activations and norms in our models and in foreign ones: torch's encoder, a ResNet, BERT, GPT-2."""

import copy
import functools
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

import stabletrain as st
from stabletrain.errors import RequestError
from stabletrain.network import CNN, LSTM, MLP, RNN, Parts
from stabletrain.network.activation import ACTIVATIONS, Identity
from stabletrain.network.normalization import NORMS, BatchNorm, GroupNorm, LayerNorm, NoNorm, RMSNorm, WeightNorm
from stabletrain.network.normalization.step_norm import StepBatchNorm
from stabletrain.network.surgery.recognition import find_norm, is_activation, is_activation_function

WIDTH = 16
OWN_NORM = {"resnet": "batch", "encoder": "layer", "bert": "layer", "gpt2": "layer", "llama": "rms"}


class PlainBlock(nn.Module):
    """As in torchvision: one ReLU is called twice."""

    def __init__(self, width):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(x + self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))


def make_resnet():
    stem = [nn.Conv2d(3, WIDTH, 3, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU()]
    blocks = [PlainBlock(WIDTH), PlainBlock(WIDTH)]
    model = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 5))
    return SimpleNamespace(model=model, inputs=torch.randn(8, 3, 9, 9), activations=3, norms=5)


def make_encoder(**options):
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 32, dropout=0.0, batch_first=True, **options)
    model = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(WIDTH))
    return SimpleNamespace(model=model, inputs=torch.randn(8, 6, WIDTH), activations=2, norms=5)


def make_bert():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32
    )
    inputs = {"input_ids": torch.randint(50, (8, 6))}
    model = transformers.BertForMaskedLM(config)  # its head has an activation and a norm too
    return SimpleNamespace(model=model, inputs=inputs, activations=3, norms=6)


def make_gpt2():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=WIDTH, n_layer=2, n_head=4)
    inputs = {"input_ids": torch.randint(50, (8, 6))}
    return SimpleNamespace(model=transformers.GPT2LMHeadModel(config), inputs=inputs, activations=2, norms=5)


def make_llama():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.LlamaConfig(vocab_size=50, **sizes)
    inputs = {"input_ids": torch.randint(50, (8, 6))}
    return SimpleNamespace(model=transformers.LlamaForCausalLM(config), inputs=inputs, activations=2, norms=5)


MAKERS = {
    "resnet": make_resnet,
    "encoder": make_encoder,
    "bert": make_bert,
    "gpt2": make_gpt2,
    "llama": make_llama,
}


@pytest.fixture(params=MAKERS)
def case(request):
    found = MAKERS[request.param]()
    found.name = request.param
    found.model.eval()  # dropout
    return found


def call(case):
    outputs = case.model(**case.inputs) if isinstance(case.inputs, dict) else case.model(case.inputs)
    return getattr(outputs, "logits", outputs)


def check_trains(case):
    case.model.train()
    call(case).square().mean().backward()
    for name, parameter in case.model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert call(case).isfinite().all()
    case.model.eval()


def count(model, kind):
    return sum(type(module) is kind for module in model.modules())


@pytest.mark.parametrize("activation", ["prelu", "elu"])  # in none of the models
def test_all_activations_are_replaced(case, activation):
    torch.manual_seed(0)
    before = call(case)
    assert st.replace_activations_(case.model, activation) is case.model
    assert count(case.model, ACTIVATIONS[activation]) == case.activations
    assert not any(is_activation(m) and type(m) is not ACTIVATIONS[activation] for m in case.model.modules())
    assert not torch.equal(before, call(case))
    check_trains(case)


@pytest.mark.parametrize("norm", ["none", "batch", "layer", "group", "instance", "rms"])
def test_all_norms_are_replaced(case, norm):
    case.model.train(case.name == "resnet")  # in evaluation mode a new batch norm does nothing
    widths = [find_norm(m, "")[0] for m in case.model.modules() if find_norm(m, "")]
    before = call(case)
    assert st.replace_norms_(case.model, norm) is case.model
    assert count(case.model, NORMS[norm]) == case.norms == len(widths)
    assert [find_norm(m, "")[0] for m in case.model.modules() if find_norm(m, "")] == widths
    with torch.no_grad():
        change = (call(case) - before).abs().max() / before.abs().max()
    assert (change > 0.05) == (norm != OWN_NORM[case.name])  # the same norm differs only in eps
    check_trains(case)


@pytest.mark.parametrize("kind", ["weight", "spectral"])
def test_weight_and_spectral_norm_leave_the_norms_out_and_normalize_the_weights(case, kind):
    st.replace_norms_(case.model, kind)
    assert count(case.model, NORMS[kind]) == case.norms
    assert any(parametrize.is_parametrized(module) for module in case.model.modules())
    assert not any(isinstance(m, (nn.LayerNorm, nn.BatchNorm2d, nn.RMSNorm)) for m in case.model.modules())
    check_trains(case)
    for module in case.model.modules():
        if kind == "spectral" and type(module).__name__ == "ParametrizedLinear":
            for _ in range(200):
                module.train().weight  # noqa: B018 - every access is a step of the power iteration
            assert torch.linalg.matrix_norm(module.eval().weight.detach(), 2) == pytest.approx(1.0, rel=1e-3)


def test_a_norm_of_weights_is_refused_before_anything_changes():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    nn.init.zeros_(model[0].weight)
    with pytest.raises(RequestError, match="zero"):
        st.replace_norms_(model, "weight")
    assert type(model[1]) is nn.LayerNorm
    assert not parametrize.is_parametrized(model[0])


def test_weight_norm_of_a_transposed_linear_layer_is_per_output():
    case = make_gpt2()
    st.replace_norms_(case.model, "weight")
    layer = case.model.transformer.h[0].mlp.c_fc  # stores (in, out)
    assert layer.parametrizations.weight.original0.shape == (1, layer.nf)


# --- torch's fused encoder layer ---------------------------------------------------------------------------------


def slow(case, **options):
    """The output of the modules, without torch's fused path."""
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        return case.model(case.inputs, **options)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("given", ["relu", "gelu", F.relu, nn.ReLU(), nn.GELU("tanh")])
@pytest.mark.parametrize(("activation", "norm"), [("relu", None), ("gelu", None), ("tanh", None), (None, "rms")])
def test_the_fused_path_of_torch_computes_what_the_modules_do(given, activation, norm):
    case = make_encoder(activation=given)
    case.model.eval()
    if activation:
        st.replace_activations_(case.model, activation)
    if norm:
        st.replace_norms_(case.model, norm)
    mask = torch.zeros(8, 6, dtype=torch.bool)
    mask[:, 4:] = True
    with torch.no_grad():
        torch.testing.assert_close(case.model(case.inputs), slow(case), rtol=1e-4, atol=1e-5)
        fast = case.model(case.inputs, src_key_padding_mask=mask)
        torch.testing.assert_close(fast[:, :4], slow(case, src_key_padding_mask=mask)[:, :4], rtol=1e-4, atol=1e-5)
    assert case.model.use_nested_tensor == (norm is None and activation in ("relu", "gelu") and fused_at_first(given))


def fused_at_first(given):
    """Return whether torch enabled nested tensors when the encoder was built."""
    return bool(nn.TransformerEncoderLayer(WIDTH, 4, activation=given).activation_relu_or_gelu)


@pytest.mark.parametrize("norm", ["none", "layer", "group"])
def test_every_norm_leaves_an_encoder_that_predicts(norm):
    case = make_encoder()
    st.replace_norms_(case.model, norm)
    case.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(case.model(case.inputs), slow(case), rtol=1e-4, atol=1e-5)
    assert bool(case.model.layers[0].activation_relu_or_gelu) == (norm == "layer")


# --- unchanged --------------------------------------------------------------------------------------------------


def test_dtype_mode_and_position_are_kept():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).to(torch.bfloat16).eval()
    st.replace_activations_(st.replace_norms_(model, "layer"), "prelu")
    assert [type(m) for m in model] == [nn.Linear, LayerNorm, nn.PReLU, nn.Linear]
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not any(m.training for m in model.modules())
    assert model(torch.randn(1, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_the_device_is_kept():
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    st.replace_activations_(st.replace_norms_(model, "group"), "prelu")
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_a_norm_of_another_dtype_than_its_network_keeps_it():
    model = nn.Sequential(nn.Linear(4, 4).bfloat16(), nn.LayerNorm(4))
    assert st.replace_norms_(model, "rms")[1].weight.dtype == torch.float32


def test_what_was_shared_stays_shared():
    act, norm = nn.ReLU(), nn.LayerNorm(4)
    model = nn.Sequential(nn.Linear(4, 4), norm, act, nn.Sequential(nn.Linear(4, 4), norm, act))
    st.replace_activations_(st.replace_norms_(model, "rms"), "prelu")
    assert type(model[2]) is nn.PReLU
    assert model[2] is model[3][2]
    assert model[1] is model[3][1]
    assert type(model[1]) is RMSNorm


def test_a_function_that_many_layers_keep_becomes_a_module_for_each():
    case = make_encoder(activation=F.gelu)
    st.replace_activations_(case.model, "prelu")
    assert case.model.layers[0].activation is not case.model.layers[1].activation
    assert "activation" not in vars(case.model.layers[0])
    assert len([n for n, _ in case.model.named_parameters() if "activation" in n]) == 2


class BloomGelu(nn.Module):
    """As in transformers: a custom activation outside of the library's module of activations."""

    def forward(self, x):
        return F.gelu(x)


class ConvBNReLU(nn.Sequential):
    pass


class GEGLU(nn.Module):
    pass


def test_activations_of_others_are_known_by_name():
    assert is_activation(BloomGelu())
    assert type(st.replace_activations_(nn.Sequential(BloomGelu()), "tanh")[0]) is nn.Tanh
    block = ConvBNReLU(nn.Linear(2, 2), nn.ReLU())
    assert not any(map(is_activation, (block, GEGLU(), nn.GLU(), nn.Softmax(-1), nn.Identity(), nn.Linear(1, 1))))
    assert type(st.replace_activations_(block, "tanh")[1]) is nn.Tanh


def test_functions_with_bound_arguments_and_what_is_none():
    assert is_activation_function(functools.partial(F.gelu, approximate="tanh"))
    assert is_activation_function(torch.tanh)
    assert not any(map(is_activation_function, (torch.sin, None, [], {}, F.softmax, nn.ReLU, "relu")))


@pytest.mark.parametrize(("root", "replaced"), [(nn.ReLU(), nn.SiLU), (Identity(), nn.SiLU), (nn.Hardswish(), nn.SiLU)])
def test_the_root_itself(root, replaced):
    assert type(st.replace_activations_(root, "silu")) is replaced


def test_the_root_itself_as_a_norm():
    assert type(st.replace_norms_(nn.BatchNorm2d(4), "layer")) is LayerNorm


def test_a_norm_that_holds_an_activation_keeps_it():
    class NormAct(nn.BatchNorm2d):
        def __init__(self, width):
            super().__init__(width)
            self.act = nn.ReLU()

        def forward(self, x):
            return self.act(super().forward(x))

    model = nn.Sequential(nn.Conv2d(3, 8, 3), NormAct(8))
    st.replace_norms_(model, "none")
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(model(x), model[0](x).relu())


# --- layouts -----------------------------------------------------------------------------------------------------


class LayerNorm2d(nn.LayerNorm):
    """As in torchvision and timm: channels on axis 1."""

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ConvNextLayerNorm(nn.LayerNorm):
    """As in ConvNeXt: both layouts, by an attribute."""

    data_format = "channels_first"


class T5LayerNorm(nn.Module):
    """As in transformers: not a subclass of a torch norm."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


@pytest.mark.parametrize(
    ("norm", "width", "layout"),
    [
        (nn.BatchNorm1d(6), 6, "channels"),
        (nn.SyncBatchNorm(6), 6, "channels"),
        (nn.BatchNorm3d(6, affine=False), 6, "channels"),
        (nn.InstanceNorm2d(6), 6, "channels"),
        (nn.GroupNorm(2, 6), 6, "channels"),
        (nn.LayerNorm(6, elementwise_affine=False), 6, "sequence"),
        (nn.RMSNorm(6), 6, "sequence"),
        (LayerNorm2d(6), 6, "channels"),
        (ConvNextLayerNorm(6), 6, "channels"),
        (T5LayerNorm(6), 6, "sequence"),
        (LayerNorm(6), 6, "vector"),
        (NoNorm(6), 6, "vector"),
        (StepBatchNorm(6), 6, "vector"),
    ],
)
def test_width_and_layout_are_found(norm, width, layout):
    assert find_norm(norm, "") == (width, layout)


def test_what_is_no_norm():
    assert [find_norm(x, "") for x in (nn.Linear(2, 2), nn.LocalResponseNorm(2), F.relu, None)] == [None] * 4


@pytest.mark.parametrize("norm", ["batch", "layer", "group", "rms", "none"])
def test_batch_norm_of_vectors_can_be_replaced(norm):
    model = st.replace_norms_(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)), norm)
    assert model(torch.randn(5, 4)).shape == (5, 8)


def test_instance_norm_of_vectors_is_refused_when_it_meets_one():
    model = st.replace_norms_(nn.Sequential(nn.BatchNorm1d(8)), "instance")
    assert model(torch.randn(5, 8, 3)).shape == (5, 8, 3)
    with pytest.raises(RequestError, match="has none"):
        model(torch.randn(5, 8))


def test_replaced_norms_compute_what_new_ones_would():
    x = torch.randn(4, 8, 5, 5)
    model = st.replace_norms_(nn.Sequential(nn.BatchNorm2d(8)), "rms")
    torch.testing.assert_close(model(x), x / (x.square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt())
    model = st.replace_norms_(nn.Sequential(nn.LayerNorm(8)), "group", num_groups=2)
    torch.testing.assert_close(
        model(x.movedim(1, -1)), F.group_norm(x.movedim(1, -1).reshape(-1, 8), 2).view(4, 5, 5, 8)
    )


# --- our models -------------------------------------------------------------------------------------------------


def test_our_families_become_what_they_would_have_been():
    torch.manual_seed(1)
    expected = CNN(3, 2, Parts(nn.ReLU, BatchNorm), depth=3, width=8)
    torch.manual_seed(1)
    model = CNN(3, 2, depth=3, width=8)
    st.replace_norms_(st.replace_activations_(model, "relu"), BatchNorm)
    x = torch.randn(4, 3, 8, 8)
    assert list(model.state_dict()) == list(expected.state_dict())
    assert torch.equal(model(x), expected(x))


def test_batch_norm_in_a_recurrent_cell_keeps_statistics_for_each_step():
    torch.manual_seed(1)
    model = LSTM(3, 2, Parts(norm=LayerNorm), width=4)
    st.replace_norms_(model, "batch", max_steps=7)
    assert {type(n) for n in model.rnn.norms.values()} == {StepBatchNorm}
    assert model.rnn.norms["cell_l0"].running_mean.shape == (7, 4)
    assert model(torch.randn(4, 5, 3)).shape == (4, 2)
    st.replace_norms_(model, "rms")
    assert {type(n) for n in model.rnn.norms.values()} == {RMSNorm}
    assert model(torch.randn(4, 5, 3)).shape == (4, 2)


def test_deepcopy_and_state_dict_after_replacing():
    case = make_encoder()
    st.replace_norms_(st.replace_activations_(case.model, "prelu"), "batch")
    other = copy.deepcopy(case.model)
    other.load_state_dict(case.model.state_dict())
    assert torch.equal(call(case), SimpleNamespace(model=other).model(case.inputs))


# --- errors ------------------------------------------------------------------------------------------------------


def refuse(action, key):
    with pytest.raises(RequestError) as caught:
        action()
    assert caught.value.key == key
    return caught.value


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.LSTM(2, 2), nn.Sequential(), nn.Softmax(-1), nn.Identity()])
def test_nothing_to_replace(model):
    assert refuse(lambda: st.replace_activations_(model, "relu"), "model").found == type(model).__name__
    refuse(lambda: st.replace_norms_(model, "layer"), "model")


def test_names_options_and_modules_that_are_wrong():
    model = MLP(4, 2)
    assert refuse(lambda: st.replace_activations_(model, "rely"), "activation").closest == "relu"
    assert refuse(lambda: st.replace_norms_(model, "lyer"), "norm").closest == "layer"
    assert refuse(lambda: st.replace_norms_(model, "group", num_group=2), "num_group").closest == "num_groups"
    refuse(lambda: st.replace_norms_(model, "layer", width=2), "width")
    refuse(lambda: st.replace_activations_(model, nn.ELU, alpha=2.0), "alpha")
    refuse(lambda: st.replace_activations_(model, nn.ReLU()), "activation")
    refuse(lambda: st.replace_activations_(model, F.relu), "activation")
    refuse(lambda: st.replace_norms_(model, 3), "norm")


def test_factories():
    model = MLP(4, 2, width=8)
    st.replace_activations_(model, functools.partial(nn.ELU, alpha=2.0))
    assert {m.alpha for m in model.modules() if isinstance(m, nn.ELU)} == {2.0}
    st.replace_norms_(model, functools.partial(GroupNorm, num_groups=2))
    assert count(model, GroupNorm) == 4
    st.replace_norms_(model, nn.RMSNorm)  # torch's own class
    assert count(model, nn.RMSNorm) == 4
    st.replace_norms_(model, WeightNorm)
    assert parametrize.is_parametrized(model.head)


def test_a_width_that_does_not_fit_changes_nothing():
    model = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 6), nn.LayerNorm(6))
    error = refuse(lambda: st.replace_norms_(model, "group"), "num_groups")
    assert str(error).startswith("2: num_groups")
    assert type(model[0]) is nn.LayerNorm


def test_a_norm_over_several_axes_is_named():
    model = nn.Sequential(nn.LayerNorm(4), nn.Sequential(nn.LayerNorm((3, 4))))
    assert refuse(lambda: st.replace_norms_(model, "rms"), "model").found == "1.0 over (3, 4)"
    assert type(model[0]) is nn.LayerNorm


def test_a_lazy_norm_is_refused():
    model = nn.Sequential(nn.LazyBatchNorm1d())
    assert refuse(lambda: st.replace_norms_(model, "layer"), "model").found == "0"
    model(torch.randn(3, 5))
    assert find_norm(st.replace_norms_(model, "layer")[0], "") == (5, "channels")


def test_fused_recurrent_layers_are_left_alone():
    model = RNN(3, 2, depth=1)
    assert "implementation=unrolled" in refuse(lambda: st.replace_activations_(model, "relu"), "model").allowed
    model = RNN(3, 2, depth=1, implementation="unrolled")
    assert type(st.replace_activations_(model, "relu").rnn.activations["l0"]) is nn.ReLU


def test_activations_of_timm():
    timm = pytest.importorskip("timm")
    model = timm.create_model("efficientnet_b0", num_classes=3)
    st.replace_norms_(st.replace_activations_(model, "relu"), "group", num_groups=2)
    assert model(torch.randn(2, 3, 64, 64)).isfinite().all()


class _Gained(nn.Module):
    """RMS norm as in x-transformers: its gain is called `g`, and `scale` is a number."""

    def __init__(self, width):
        super().__init__()
        self.scale = width**0.5
        self.g = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return nn.functional.normalize(x, dim=-1) * self.scale * self.g


class _Wrapping(nn.Module):
    """Layer norm as in x-transformers: a gain beside torch's layer norm without one."""

    def __init__(self, width):
        super().__init__()
        self.ln = nn.LayerNorm(width, elementwise_affine=False)
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.ln(x) * self.gamma


@pytest.mark.parametrize(("base", "name"), [(_Gained, "RMSNorm"), (_Wrapping, "LayerNorm")])
def test_a_foreign_norm_is_found_by_its_name_and_gain(base, name):
    kind = type(name, (base,), {})
    model = nn.Sequential(nn.Linear(3, 6), kind(6), nn.Linear(6, 2))
    st.replace_norms_(model, "layer")
    assert type(model[1]) is LayerNorm
    assert model[1].weight.shape == (6,)
    other = nn.Sequential(nn.Linear(3, 6), type("Gate", (base,), {})(6))
    if base is _Gained:
        with pytest.raises(RequestError):
            st.replace_norms_(other, "layer")
