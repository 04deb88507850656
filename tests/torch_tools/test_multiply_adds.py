"""The multiply-adds of an average matrix product, against sums by hand."""

import pytest
import torch
from torch import nn

from stabletrain.torch_tools.multiply_adds import mean_multiply_adds


class FromHand(nn.Module):
    """Products by functions and operators, which no module shows."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5, 3))

    def forward(self, x):
        return torch.bmm((x @ self.weight.T)[:, :, None], torch.ones(len(x), 1, 2))


class Silent(nn.Module):
    def forward(self, x):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("network", "shape", "expected"),
    [
        (nn.Linear(4, 3), (4,), 10 * 4 * 3),
        (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), (4,), 10 * (4 * 8 + 8 * 2) / 2),
        (nn.Conv2d(3, 8, 3, padding=1), (3, 6, 6), 10 * 6 * 6 * 8 * 3 * 9),
        (nn.Conv2d(4, 8, 3, groups=2), (4, 6, 6), 10 * 4 * 4 * 8 * 2 * 9),
        (nn.LSTM(4, 8, batch_first=True), (5, 4), 10 * 4 * 8 * (4 + 8)),  # of each of five steps
        (FromHand(), (3,), 10 * (3 * 5 + 5 * 2) / 2),
        (nn.ReLU(), (4,), 0.0),
    ],
    ids=["linear", "two layers", "convolution", "groups", "fused LSTM", "functions", "no product"],
)
def test_the_mean_is_that_by_hand(network, shape, expected):
    assert mean_multiply_adds(network, torch.ones(2, *shape), batch_size=10) == expected


def test_a_recurrent_layer_has_a_product_per_step():
    """An RNN on the CPU multiplies all inputs at once, and the hidden state step by step."""
    found = mean_multiply_adds(nn.RNN(4, 8, batch_first=True), torch.ones(2, 5, 4), batch_size=10)
    assert found == 10 * (5 * 4 * 8 + 5 * 8 * 8) / 6


def test_the_number_of_examples_does_not_matter():
    network = nn.LSTM(4, 8, batch_first=True)
    few, many = (mean_multiply_adds(network, torch.ones(n, 5, 4), 32) for n in (2, 16))
    assert few == many


def test_a_network_that_cannot_run_alone_is_not_counted():
    assert mean_multiply_adds(Silent(), torch.ones(2, 4), 32) is None


def test_counting_changes_neither_the_network_nor_the_random_state():
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout()).eval()
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in network.state_dict().items()}
    mean_multiply_adds(network, torch.randn(2, 4, generator=torch.Generator().manual_seed(0)), 32)
    assert torch.equal(torch.get_rng_state(), before)
    assert not network.training
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
