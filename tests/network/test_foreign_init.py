"""Every initialization on foreign networks: torch's transformer, a residual network, BERT and GPT-2."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from stabletrain.errors import RequestError
from stabletrain.network import initialize_
from stabletrain.network.initialization import INITIALIZATIONS
from stabletrain.network.introspection.structure import find_all_branches, find_head

WIDTH = 32


class BasicBlock(nn.Module):
    def __init__(self, num_inputs, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(num_inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride > 1 or num_inputs != width:
            self.downsample = nn.Sequential(nn.Conv2d(num_inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    def __init__(self, width, groups):
        super().__init__()
        self.conv1, self.conv3 = nn.Conv2d(4 * width, width, 1), nn.Conv2d(width, 4 * width, 1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=groups)
        self.relu = nn.ReLU()
        self.shortcut = nn.Identity()

    def forward(self, x):
        return self.relu(self.conv3(self.relu(self.conv2(self.relu(self.conv1(x))))) + self.shortcut(x))


def make_resnet():
    stem = [nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    blocks = [BasicBlock(16, 16, 1), BasicBlock(16, 32, 2), Bottleneck(8, 4)]
    model = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))
    return SimpleNamespace(model=model, inputs=torch.randn(16, 3, 16, 16), activation=nn.ReLU(), num_branches=3)


def make_encoder(**options):
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 64, dropout=0.1, batch_first=True, **options)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return SimpleNamespace(model=model, inputs=torch.randn(16, 6, WIDTH), activation=nn.ReLU(), num_branches=4)


def make_decoder():
    model = nn.TransformerDecoderLayer(WIDTH, 4, 64, batch_first=True, activation="gelu")
    inputs = {"tgt": torch.randn(16, 6, WIDTH), "memory": torch.randn(16, 4, WIDTH)}
    return SimpleNamespace(model=model, inputs=inputs, activation=nn.GELU(), num_branches=3)


def make_bert():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    model = transformers.BertForMaskedLM(config)
    inputs = {"input_ids": torch.randint(50, (16, 6))}
    return SimpleNamespace(model=model, inputs=inputs, activation=nn.GELU(), num_branches=4)


def make_gpt2():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=WIDTH, n_layer=2, n_head=4)
    inputs = {"input_ids": torch.randint(50, (16, 6))}
    model = transformers.GPT2LMHeadModel(config)
    return SimpleNamespace(model=model, inputs=inputs, activation=nn.GELU("tanh"), num_branches=4)


MAKERS = {
    "resnet": make_resnet,
    "encoder": make_encoder,
    "decoder": make_decoder,
    "bert": make_bert,
    "gpt2": make_gpt2,
}


def call(model, inputs):
    outputs = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    return getattr(outputs, "logits", outputs)


def std_of(weight):
    """A tolerance of six standard errors."""
    return pytest.approx(float(weight.detach().std()), rel=6 / math.sqrt(2 * weight.numel()))


@pytest.fixture(params=MAKERS)
def case(request):
    return MAKERS[request.param]()


@pytest.mark.parametrize("init", INITIALIZATIONS)
def test_every_init_on_every_model(case, init):
    if init == "chrono":
        with pytest.raises(RequestError, match="no LSTM or GRU"):
            initialize_(case.model, init, inputs=case.inputs)
        return
    untouched = (nn.Embedding, nn.LayerNorm, nn.BatchNorm2d)
    kept = [p for m in case.model.modules() if isinstance(m, untouched) for p in m.parameters()]
    before = [p.detach().clone() for p in kept]
    weights = {n: p.detach().clone() for n, p in case.model.named_parameters() if p.dim() > 1}
    initialize_(case.model, init, activation=case.activation, inputs=case.inputs)
    assert call(case.model.train(), case.inputs).isfinite().all()
    assert call(case.model.eval(), case.inputs).isfinite().all()
    assert all(torch.equal(a, b) for a, b in zip(kept, before, strict=True))
    kept_ids = {id(p) for p in kept}  # includes a tied output layer
    for name, parameter in case.model.named_parameters():
        if parameter.dim() > 1 and id(parameter) not in kept_ids:
            assert torch.equal(parameter, weights[name]) == (init == "default"), name


def test_branches_are_found(case):
    branches = find_all_branches(case.model)
    assert len(branches) == case.num_branches
    parameters = {p.untyped_storage().data_ptr() for p in case.model.parameters()}
    assert all(w.untyped_storage().data_ptr() in parameters for b in branches for w in b.weights)


def test_the_branches_are_the_right_ones():
    encoder = make_encoder().model
    for layer, pair in zip(encoder.layers, zip(*[iter(find_all_branches(encoder))] * 2, strict=True), strict=True):
        (value, output), (first, second) = (branch.weights for branch in pair)
        assert torch.equal(value, layer.self_attn.in_proj_weight[2 * WIDTH :])
        assert output is layer.self_attn.out_proj.weight
        assert (first, second) == (layer.linear1.weight, layer.linear2.weight)
    resnet = make_resnet().model
    assert [len(branch.weights) for branch in find_all_branches(resnet)] == [2, 2, 3]
    assert find_head(resnet) is resnet[-1]
    assert find_head(encoder) is None


def test_attention_of_other_widths_has_its_value_apart():
    layer = nn.TransformerDecoderLayer(WIDTH, 4, 64)
    layer.multihead_attn = nn.MultiheadAttention(WIDTH, 4, kdim=8, vdim=12)
    assert find_all_branches(layer)[1].weights[0] is layer.multihead_attn.v_proj_weight


def test_gpt2_stores_its_weights_the_other_way_round():
    model = make_gpt2().model
    branches = find_all_branches(model)
    for block, attention, feed_forward in zip(model.transformer.h, branches[::2], branches[1::2], strict=True):
        assert torch.equal(attention.weights[0], block.attn.c_attn.weight[:, 2 * WIDTH :].T)
        assert torch.equal(attention.weights[1], block.attn.c_proj.weight.T)
        assert feed_forward.weights[0].shape == (4 * WIDTH, WIDTH)
    initialize_(model, "lecun")
    for block in model.transformer.h:
        assert 1 / math.sqrt(WIDTH) == std_of(block.mlp.c_fc.weight)  # fan-in is WIDTH, not 4 WIDTH
        assert 1 / math.sqrt(4 * WIDTH) == std_of(block.mlp.c_proj.weight)
    initialize_(model, "xavier")
    assert 1 / math.sqrt(WIDTH) == std_of(model.transformer.h[0].attn.c_attn.weight)  # query, key, value: each square
    initialize_(model, "orthogonal")
    for matrix in model.transformer.h[0].attn.c_attn.weight.chunk(3, dim=1):
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(WIDTH))


def test_gpt2_with_attention_across():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=9, n_positions=8, n_embd=16, n_layer=1, n_head=2, add_cross_attention=True
    )
    model = transformers.GPT2Model(config)
    across = model.h[0].crossattention
    branches = find_all_branches(model)
    assert len(branches) == 3
    assert torch.equal(branches[1].weights[0], across.c_attn.weight[:, 16:].T)
    initialize_(model, "orthogonal")
    for matrix in across.c_attn.weight.chunk(2, dim=1):
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(16))


def last_weights(case):
    return [branch.weights[-1] for branch in find_all_branches(case.model)]


def test_depth_scaled(case):
    initialize_(case.model, "depth_scaled")
    for branch in find_all_branches(case.model):
        *others, last = branch.weights
        for weight in others:
            assert weight[0].numel() ** -0.5 == std_of(weight)
        assert (last[0].numel() * case.num_branches) ** -0.5 == std_of(last)
    initialize_(case.model, "depth_scaled", std=0.02)
    assert all(0.02 / case.num_branches**0.5 == std_of(last) for last in last_weights(case))


def test_depth_scaled_as_gpt2_itself_does_it():
    model = make_gpt2().model
    expected = model.transformer.h[0].mlp.c_proj.weight.detach().clone()  # from the library's constructor
    initialize_(model, "depth_scaled", std=0.02)
    assert float(expected.std()) == std_of(model.transformer.h[0].mlp.c_proj.weight)


def test_fixup(case):
    initialize_(case.model, "fixup", activation=nn.ReLU())
    assert not any(last.any() for last in last_weights(case))
    for branch in find_all_branches(case.model):
        for weight in branch.weights[:-1]:
            shrink = case.num_branches ** (-1 / (2 * len(branch.weights) - 2))
            assert shrink * math.sqrt(2 / weight[0].numel()) == std_of(weight)
    head = find_head(case.model)
    assert head is None or not head.weight.any()


def test_fixup_makes_every_layer_the_identity():
    case = make_encoder(norm_first=True)
    initialize_(case.model, "fixup", activation=nn.ReLU())
    assert torch.equal(case.model(case.inputs), case.inputs)


def measure(model, inputs):
    """Variance of the output of every layer with weights, in evaluation mode."""
    found = {}

    def note(name):
        def hook(module, args, output):
            found[name] = float((output[0] if isinstance(output, tuple) else output).var())

        return hook

    kinds = ("Linear", "Conv2d", "Conv1D", "MultiheadAttention")
    handles = [m.register_forward_hook(note(n)) for n, m in model.named_modules() if type(m).__name__ in kinds]
    with torch.no_grad():
        call(model.eval(), inputs)
    for handle in handles:
        handle.remove()
    return found


def test_lsuv_gives_every_layer_unit_variance(case):
    case.model.train()
    state = {name: value.clone() for name, value in case.model.named_buffers()}
    random_state = torch.get_rng_state()
    initialize_(case.model, "orthogonal")
    drawn = torch.get_rng_state()
    torch.set_rng_state(random_state)
    initialize_(case.model, "lsuv", inputs=case.inputs)
    assert torch.equal(torch.get_rng_state(), drawn)  # the measurement samples no random numbers
    assert all(module.training for module in case.model.modules())
    assert not any(module._forward_hooks for module in case.model.modules())
    assert all(torch.equal(value, state[name]) for name, value in case.model.named_buffers())
    variances = measure(case.model, case.inputs)
    tied = {n for n, m in case.model.named_modules() if n in ("lm_head", "cls.predictions.decoder")}
    assert len(variances) >= 4
    assert {name: v for name, v in variances.items() if abs(v - 1) > 0.1 and name not in tied} == {}


def test_critical_finds_the_activation_or_asks():
    for maker in (make_resnet, make_encoder, make_decoder, make_gpt2, make_bert):
        torch.manual_seed(0)
        given = maker()
        initialize_(given.model, "critical", activation=given.activation)
        torch.manual_seed(0)
        found = maker()
        initialize_(found.model, "critical")
        states = zip(found.model.state_dict().values(), given.model.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in states)
    with pytest.raises(RequestError, match="no elementwise activation"):
        initialize_(nn.Linear(2, 2), "critical")
    with pytest.raises(RequestError, match="more than one") as caught:
        initialize_(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Sigmoid()), "critical")
    assert caught.value.found == "relu, sigmoid"


def test_bert_with_a_pooler_has_two_activations():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=9, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    model = transformers.BertModel(config)
    with pytest.raises(RequestError, match="more than one"):
        initialize_(model, "critical")
    initialize_(model, "critical", activation=nn.GELU())


def test_layers_that_are_no_blocks_are_not_taken_for_some():
    class Lookalike(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 3, 1)
            self.downsample = None
            self.attn = nn.Linear(3, 3)
            self.mlp = None

    assert find_all_branches(nn.Sequential(Lookalike(), nn.Linear(2, 2), nn.MultiheadAttention(4, 2))) == []
    for init in ("depth_scaled", "fixup"):
        with pytest.raises(RequestError, match="nothing to scale"):
            initialize_(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), init)


def test_what_others_call_branches_is_no_obstacle():
    class Parallel(nn.Module):  # as in HRNet
        def __init__(self):
            super().__init__()
            self.branches = nn.ModuleList([BasicBlock(4, 4, 1)])

    class Tree(nn.Linear):
        def branches(self, depth):
            raise AssertionError

    class Other(nn.Linear):
        def branches(self):
            return ["no branch of ours"]

    model = nn.Sequential(Parallel(), Tree(2, 2), Other(2, 2))
    assert len(find_all_branches(model)) == 1
    initialize_(model, "fixup")
    assert not model[0].branches[0].conv2.weight.any()


@pytest.mark.slow
def test_timm():
    timm = pytest.importorskip("timm")
    for name, options, num_branches in (("vit_tiny_patch16_224", {"img_size": 64}, 24), ("resnet18", {}, 8)):
        model = timm.create_model(name, num_classes=5, **options)
        assert len(find_all_branches(model)) == num_branches
        inputs = torch.randn(2, 3, 64, 64)
        for init in INITIALIZATIONS.keys() - {"chrono"}:
            initialize_(model, init, activation=nn.GELU(), inputs=inputs)
            assert model(inputs).isfinite().all()
