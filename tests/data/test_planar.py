"""Points in a plane: their geometry after undoing the standardization, and which models can learn them."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from stabletrain.data import Blobs, Circles
from stabletrain.errors import RequestError


def pair(data, split="train"):
    x, y = getattr(data, split).tensors
    return x.double().numpy(), y.numpy()


@pytest.mark.parametrize("factor", [0.3, 0.8])
def test_circles_without_noise_have_two_radii(factor):
    x, y = pair(Circles(noise=0.0, factor=factor))
    radii = np.linalg.norm(x, axis=1)
    outer, inner = radii[y == 0], radii[y == 1]
    assert inner.mean() / outer.mean() == pytest.approx(factor, rel=0.02)  # both axes shrink nearly alike
    assert (outer.max() - outer.min()) / outer.mean() < 0.1


def test_noise_widens_the_rings():
    spread = [np.linalg.norm(x[y == 0], axis=1).std() for x, y in (pair(Circles(noise=n)) for n in (0.05, 0.2))]
    assert spread[1] > 2.5 * spread[0]


def test_no_line_parts_circles_and_a_line_parts_most_blobs():
    scores = []
    for data in (Circles(), Blobs()):
        scores.append(LogisticRegression().fit(*pair(data)).score(*pair(data, "test")))
    assert scores[0] < 0.6
    assert scores[1] > 0.85


def test_blobs_have_their_classes_features_and_spread():
    x, y = pair(Blobs(num_samples=7000, num_classes=7, num_features=3, std=2.0))
    assert x.shape == (4900, 3)
    assert np.bincount(y).tolist() == [700] * 7
    wide, narrow = (pair(Blobs(std=std)) for std in (2.0, 0.5))
    within = [np.mean([x[y == k].std(axis=0).mean() for k in range(4)]) for x, y in (wide, narrow)]
    assert within[0] > 2 * within[1]


@pytest.mark.parametrize("data", [Circles(seed=3), Blobs(seed=3)], ids=["circles", "blobs"])
def test_training_set_is_standardized_and_stratified(data):
    x, y = data.train.tensors
    assert x.mean(dim=0).abs().max() < 1e-6
    assert (x.square().mean(dim=0) - 1).abs().max() < 1e-5
    for split in (data.train, data.val, data.test):
        counts = torch.bincount(split.tensors[1])
        assert counts.max() - counts.min() <= 1
    assert [len(data.train), len(data.val), len(data.test)] == [1400, 300, 300]
    assert len(y) == 1400


def test_smallest():
    assert len(Circles(num_samples=20, batch_size=1).train) == 14
    assert len(Blobs(num_samples=20, num_classes=2, batch_size=1).val) == 3
    assert sorted(set(pair(Blobs(num_samples=120, num_classes=12, batch_size=1), "val")[1])) == list(range(12))


@pytest.mark.parametrize(
    ("cls", "key", "value"),
    [
        (Circles, "num_samples", 19),
        (Circles, "num_samples", 50.5),
        (Circles, "noise", -0.1),
        (Circles, "noise", float("nan")),
        (Circles, "factor", 0.0),
        (Circles, "factor", 1.0),
        (Circles, "factor", "half"),
        (Blobs, "num_samples", 39),
        (Blobs, "num_classes", 1),
        (Blobs, "num_features", 0),
        (Blobs, "std", 0.0),
        (Blobs, "std", None),
    ],
)
def test_refuses(cls, key, value):
    with pytest.raises(RequestError) as caught:
        cls(**{key: value})
    assert caught.value.key == key
