import pytest
import torch

from stabletrain.errors import RequestError
from stabletrain.network.normalization import BatchNorm, GroupNorm, LayerNorm, NoNorm, RMSNorm
from stabletrain.network.residual import ScaledResidual
from stabletrain.network.step_norm import StepBatchNorm


def test_norms_agree_with_their_equations():
    x = torch.randn(6, 8, dtype=torch.float64) * 3 + 1
    layer = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    batch = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
    halves = x.view(6, 2, 4)
    group = (halves - halves.mean(2, keepdim=True)) / (halves.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    rms = x / (x.square().mean(1, keepdim=True) + 1e-5).sqrt()
    expected = [
        (NoNorm(8), x),
        (LayerNorm(8), layer),
        (BatchNorm(8), batch),
        (StepBatchNorm(8), torch.tensor(0.1).double() * batch),
        (GroupNorm(8, num_groups=2), group.view(6, 8)),
        (RMSNorm(8), rms),
    ]
    for norm, value in expected:
        arguments = (x, 0) if isinstance(norm, StepBatchNorm) else (x,)
        torch.testing.assert_close(norm.double()(*arguments), value, rtol=1e-10, atol=1e-10)


def test_step_batch_norm_can_be_differentiated_through_many_steps():
    norm = StepBatchNorm(3).double()
    x = torch.randn(5, 4, 3, dtype=torch.float64, requires_grad=True)

    def run(x):
        return torch.stack([norm(x[:, t], t) for t in range(4)]).sin()

    assert torch.autograd.gradcheck(run, (x,))


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: GroupNorm(8, num_groups=8), "num_groups"),
        (lambda: GroupNorm(8, num_groups=3), "num_groups"),
        (lambda: GroupNorm(8, num_groups=0), "num_groups"),
        (lambda: LayerNorm(8, eps=0.0), "eps"),
        (lambda: BatchNorm(8, momentum=1.5), "momentum"),
        (lambda: ScaledResidual(8, factor=0.0), "factor"),
    ],
)
def test_refuses_what_is_out_of_range(make, key):
    with pytest.raises(RequestError) as caught:
        make()
    assert caught.value.key == key
