"""timm's ViT, ResNet, ConvNeXt and MobileNet in a plain loop, with nothing told to the doctor but the model."""

from __future__ import annotations

import functools

import pytest
import torch
from client_runs import FAULTS, Run, break_, check_broken, check_healthy, rate, weights_of
from torch import nn

import stabletrain as st

try:
    import timm
except (ImportError, RuntimeError) as error:  # a torchvision of another build raises RuntimeError
    pytest.skip(f"timm cannot be imported: {error}", allow_module_level=True)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

BATCH, SIZE = 16, 32
COLORS = 1.5 * torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
MODELS = {  # with the learning rate and the number of steps
    "vit": (
        "vit_tiny_patch16_224",
        {"img_size": SIZE, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3},
        1e-3,
        120,
    ),
    "resnet": ("resnet10t", {}, 1e-3, 60),
    "convnext": ("convnext_atto", {"depths": (1, 1, 2, 1), "dims": (16, 32, 48, 64)}, 1e-3, 60),
    "mobilenet": ("mobilenetv3_small_050", {}, 3e-3, 120),
}


def make_images(num):
    """Four classes: a quarter of a noisy image, of one color."""
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(0, 4, (num,), generator=generator)
    x = torch.randn(len(y), 3, SIZE, SIZE, generator=generator)
    half = SIZE // 2
    for image, label in zip(x, y.tolist(), strict=True):
        image[:, half * (label // 2) :][:, :half, half * (label % 2) :][..., :half] += COLORS[label, :, None, None]
    return x, y


@functools.cache
def make_client(name):
    kind, settings, lr, num_steps = MODELS[name]

    def train(fault, watched, folder) -> Run:
        torch.manual_seed(0)
        model = break_(timm.create_model(kind, num_classes=4, **settings), fault)
        doctor = st.Doctor(model) if watched else None
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate(lr, fault))
        x, y = make_images(num_steps * BATCH)
        losses = []
        for i in range(num_steps):
            part = slice(i * BATCH, (i + 1) * BATCH)
            loss = nn.functional.cross_entropy(model(x[part]), y[part])
            optimizer.zero_grad()
            loss.backward()
            if doctor is not None:
                doctor.step(loss)
            optimizer.step()
            losses.append(float(loss.detach()))
        if doctor is None:
            return Run(weights_of(model), losses=losses)
        return Run(weights_of(model), doctor.verdict, doctor.findings, losses)

    return train


@pytest.mark.parametrize("name", MODELS)
def test_a_healthy_run_is_left_alone(name, tmp_path):
    check_healthy(make_client(name), tmp_path)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", MODELS)
def test_what_broke_it_comes_first(name, fault, tmp_path):
    check_broken(make_client(name), fault, tmp_path)
