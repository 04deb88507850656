import pytest
import torch

from stabletrain.errors import RequestError
from stabletrain.network import CNN, MLP, Parts, ResNet, Transformer
from stabletrain.network.residual import AddResidual, DenseResidual, HighwayResidual, NoResidual
from stabletrain.network.residual.stochastic_depth import DropBranch, branch_rates


def test_the_expectation_is_the_input():
    drop = DropBranch(0.3)
    x = torch.ones(40_000, 2)
    y = drop(x)
    # Six standard errors of √(p / ((1 − p) n)).
    assert y[:, 0].mean() == pytest.approx(1.0, abs=6 * (0.3 / 0.7 / 40_000) ** 0.5)
    assert y.unique().tolist() == pytest.approx([0.0, 1 / 0.7])


@pytest.mark.parametrize("shape", [(200, 5), (200, 3, 5), (200, 5, 2, 2), (200,)])
def test_a_branch_is_dropped_for_whole_examples(shape):
    y = DropBranch(0.5)(torch.ones(shape)).reshape(200, -1)
    assert torch.equal(y, y[:, :1].expand_as(y))
    assert 50 < int(y[:, 0].eq(0).sum()) < 150


def test_predicting_and_rate_zero_change_nothing():
    x = torch.randn(5, 3)
    assert DropBranch(0.9).eval()(x) is x
    assert DropBranch(0.0)(x) is x


def test_half_precision_and_gradient():
    x = torch.ones(8, 3, dtype=torch.bfloat16, requires_grad=True)
    y = DropBranch(0.5)(x)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_rates_rise_linearly():
    """Huang et al. 2016, eq. 4: p_l = 1 − l/L · (1 − p_L)."""
    assert branch_rates(4, 0.5) == [1 - (1 - number / 4 * (1 - 0.5)) for number in (1, 2, 3, 4)]
    assert branch_rates(0, 0.5) == []
    assert branch_rates(3, 0.0) == [0.0] * 3


FAMILIES = {
    "mlp": (MLP, 5, [0.0, 0.1, 0.2, 0.3, 0.4]),  # the first layer has no residual connection
    "cnn": (CNN, 5, [0.0, 0.1, 0.2, 0.3, 0.4]),
    "resnet": (ResNet, 4, [0.1, 0.2, 0.3, 0.4]),
    "transformer": (Transformer, 2, [0.1, 0.2, 0.3, 0.4]),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_take_the_linear_rates(family):
    make, depth, expected = FAMILIES[family]
    model = make(3, 2, Parts(residual=AddResidual), depth=depth, width=8, stochastic_depth=0.4)
    rates = [module.rate for module in model.modules() if isinstance(module, DropBranch)]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("residual", [NoResidual, HighwayResidual, DenseResidual])
def test_refuses_what_has_no_skip(residual):
    with pytest.raises(RequestError) as caught:
        MLP(3, 2, Parts(residual=residual), stochastic_depth=0.1)
    assert caught.value.key == "stochastic_depth"
    MLP(3, 2, Parts(residual=residual), stochastic_depth=0.0)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan"), "half"])
def test_refuses_rates_out_of_range(rate):
    for make in (DropBranch, lambda rate: ResNet(3, 2, stochastic_depth=rate)):
        with pytest.raises(RequestError) as caught:
            make(rate)
        assert caught.value.key == "stochastic_depth"


def test_a_dropped_branch_leaves_the_skip():
    model = MLP(4, 4, Parts(residual=AddResidual), depth=2, width=4)
    model.layers[1].drop_branch = DropBranch(0.999999)
    x = torch.randn(5, 4)
    assert torch.equal(model.layers[1](x), x)
