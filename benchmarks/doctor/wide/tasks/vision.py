"""Images: classifiers, several labels at once, segmentation, autoencoding, distillation."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from benchmarks.doctor.wide.data import digits, images
from benchmarks.doctor.wide.program import Batch, Supervised, accuracy, entropy, r_squared
from benchmarks.doctor.wide.tasks.layers import Body, conv_block, mlp


class _Classifier(Supervised):
    activation = "softmax"

    def __init__(self, seed: int) -> None:
        self.x, self.y, self.val_x, self.val_y = self.data(seed)
        self.networks = {"model": self.make()}
        self.prior_loss = entropy(self.y)

    def data(self, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return images(seed)

    def make(self) -> nn.Module:
        raise NotImplementedError

    def loss(self, batch: Batch, network: str) -> Tensor:
        return F.cross_entropy(self.model(batch[0]), batch[1])

    def score(self) -> float:
        return accuracy(self.model(self.val_x), self.val_y)


class DropoutMlp(_Classifier):
    """A deep MLP with dropout."""

    parts = ("body.0", "body.1", "head")
    sgd_lr = 0.03
    has_modes = True

    def data(self, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return digits(seed)

    def make(self) -> nn.Module:
        blocks = [nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.2)) for _ in range(4)]
        return Body(nn.Sequential(*blocks), nn.Linear(64, 10))


class BatchNormCnn(_Classifier):
    """A CNN with batch norm."""

    parts = ("body.0", "body.1", "head")
    frozen = ("body.0",)
    num_steps = 120
    batch_size = 32
    has_modes = has_batch_norm = True

    def make(self) -> nn.Module:
        body = nn.Sequential(
            conv_block(1, 8), conv_block(8, 16, 2), conv_block(16, 16), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )
        return Body(body, nn.Linear(64, 10))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = conv_block(width, width), nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm, self.act = nn.BatchNorm2d(width), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.norm(self.second(self.first(x))))


class ResNet(_Classifier):
    """A residual network with batch norm."""

    parts = ("body.0", "body.1", "head")
    frozen = ("body.0",)
    num_steps = 120
    batch_size = 32
    has_modes = has_batch_norm = True

    def make(self) -> nn.Module:
        body = nn.Sequential(conv_block(1, 12, 2), _Residual(12), _Residual(12), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        return Body(body, nn.Linear(48, 10))


class SeveralLabels(Supervised):
    """Which of five properties a digit has: five sigmoids, binary cross-entropy."""

    activation = "sigmoid"
    parts = ("body.0", "body.2", "head")

    def __init__(self, seed: int) -> None:
        self.x, y, self.val_x, val_y = digits(seed)
        self.y, self.val_y = self._properties(y), self._properties(val_y)
        self.networks = {"model": Body(nn.Sequential(*mlp(64, 48, 48), nn.ReLU()), nn.Linear(48, 5))}
        share = self.y.mean(0)
        self.prior_loss = F.binary_cross_entropy(share.expand_as(self.y), self.y).item()

    @staticmethod
    def _properties(y: Tensor) -> Tensor:
        found = [y % 2 == 0, y >= 5, y % 3 == 0, (y == 2) | (y == 3) | (y == 5) | (y == 7), y == 8]
        return torch.stack(found, 1).float()

    def loss(self, batch: Batch, network: str) -> Tensor:
        return F.binary_cross_entropy_with_logits(self.model(batch[0]), batch[1])

    def score(self) -> float:
        """Return 100 times the share of digits whose properties are all right."""
        return 100.0 * ((self.model(self.val_x) > 0) == (self.val_y > 0.5)).all(1).float().mean().item()


class _UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle = conv_block(1, 8), conv_block(8, 16, 2)
        self.deep, self.up = conv_block(16, 16), nn.ConvTranspose2d(16, 8, 2, 2)
        self.last, self.head = conv_block(16, 8), nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.down(x)
        deep = self.up(self.deep(self.middle(wide)))
        return self.head(self.last(torch.cat([wide, deep], 1)))


class Segmentation(Supervised):
    """A U-Net finds a noisy square in noise; points are 100 times the intersection over union."""

    activation = "sigmoid"
    parts = ("down", "deep", "head")
    num_steps = 120
    batch_size = 16
    has_modes = has_batch_norm = True

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(1000 + seed)
        self.x, self.y = self._squares(1000, generator)
        self.val_x, self.val_y = self._squares(200, generator)
        self.networks = {"model": _UNet()}
        share = self.y.mean()
        self.prior_loss = F.binary_cross_entropy(share.expand_as(self.y), self.y).item()

    @staticmethod
    def _squares(count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        corner, size = (
            torch.randint(0, 9, (2, count, 1), generator=generator),
            torch.randint(3, 8, (count, 1), generator=generator),
        )
        line = torch.arange(16)
        rows, columns = ((line >= c) & (line < c + size) for c in corner)
        y = (rows[:, :, None] & columns[:, None, :]).float()[:, None]
        return y - 0.5 + 0.7 * torch.randn(y.shape, generator=generator), y

    def loss(self, batch: Batch, network: str) -> Tensor:
        return F.binary_cross_entropy_with_logits(self.model(batch[0]), batch[1])

    def score(self) -> float:
        found, true = self.model(self.val_x) > 0, self.val_y > 0.5
        return 100.0 * ((found & true).sum() / (found | true).sum().clamp(min=1)).item()


class Autoencoder(Supervised):
    """An autoencoder with a bottleneck of eight numbers; points are 100 · R² of the images."""

    head = "decoder.2"
    parts = ("encoder", "decoder", "decoder.2")

    def __init__(self, seed: int) -> None:
        self.x, _, self.val_x, _ = digits(seed)
        self.y, self.val_y = self.x, self.val_x
        self.networks = {"model": nn.Sequential()}
        self.model.encoder, self.model.decoder = mlp(64, 64, 8), mlp(8, 64, 64)
        self.prior_loss = (self.x - self.x.mean(0)).square().mean().item()

    def loss(self, batch: Batch, network: str) -> Tensor:
        return F.mse_loss(self._outputs(batch[0]), batch[1])

    def _outputs(self, x: Tensor) -> Tensor:
        return self.model.decoder(self.model.encoder(x))

    def score(self) -> float:
        return r_squared(self._outputs(self.val_x), self.val_y)


class Distillation(_Classifier):
    """A small network learns the probabilities of a larger one at a temperature of 3."""

    parts = ("body", "head")
    activation = "softmax"

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.prior_loss = None
        teacher = mlp(64, 128, 10)
        optimizer = torch.optim.Adam(teacher.parameters(), 3e-3, fused=True)
        for _ in range(100):
            optimizer.zero_grad()
            F.cross_entropy(teacher(self.x), self.y).backward()
            optimizer.step()
        self.y = F.softmax(teacher(self.x).detach() / 3, 1)

    def data(self, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return digits(seed)

    def make(self) -> nn.Module:
        return Body(nn.Sequential(nn.Linear(64, 24), nn.ReLU()), nn.Linear(24, 10))

    def loss(self, batch: Batch, network: str) -> Tensor:
        return 9 * F.kl_div(F.log_softmax(self.model(batch[0]) / 3, 1), batch[1], reduction="batchmean")
