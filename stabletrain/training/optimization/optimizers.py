"""Optimizers that are composed of several of PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from stabletrain.errors import require_range


class Muon(Optimizer):
    """Muon for matrices, AdamW for everything else, as one optimizer.

    M ← μ M + G, W ← W − η · 0.2 √max(n, m) · NewtonSchulz(G + μ M): the update is orthogonalized, and scaled so that
    learning rates tuned for AdamW apply. AdamW updates convolution kernels, everything else that is not a matrix of at
    least two rows and columns, and the last matrix, the head.

    Args:
        params: Parameters or parameter groups, in the order of definition; the last matrix is taken as the head.
        lr: η, for both, above 0.
        weight_decay: Decoupled weight decay, for both, from 0; 0.01 as in AdamW.
        momentum: μ, from 0 to below 1; 0.95 in the source.
        beta1: Decay of AdamW's first moment, from 0 to below 1.
        beta2: Decay of AdamW's second moment, from 0 to below 1.

    Raises:
        RequestError: A number is out of its range.

    References:
        Jordan et al. 2024, Muon: An Optimizer for Hidden Layers (which parameters, μ); Liu et al. 2025, Muon is
        Scalable for LLM Training, eq. 4 (0.2 √max(n, m)).
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        beta1: float = 0.9,
        beta2: float = 0.999,
    ) -> None:
        require_range("lr", lr, 0.0, open_minimum=True)
        require_range("weight_decay", weight_decay, 0.0)
        for key, value in (("momentum", momentum), ("beta1", beta1), ("beta2", beta2)):
            require_range(key, value, 0.0, 1.0, open_maximum=True)
        groups = _split(list(params), lr, weight_decay)
        matrices, others = ([g for g in groups if g["is_matrix"] is kind] for kind in (True, False))
        self._parts: list[Optimizer] = []
        if matrices:
            self._parts.append(torch.optim.Muon(matrices, lr, momentum=momentum, adjust_lr_fn="match_rms_adamw"))
        if others:
            self._parts.append(AdamW(others, lr, betas=(beta1, beta2)))
        super().__init__(
            [group for part in self._parts for group in part.param_groups], {"lr": lr, "weight_decay": weight_decay}
        )
        self._share()

    def _share(self) -> None:
        """Make both parts use this optimizer's parameter groups and state, which schedules and checkpoints access."""
        for part in self._parts:
            is_matrix = part.param_groups[0]["is_matrix"]
            part.param_groups = [g for g in self.param_groups if g["is_matrix"] is is_matrix]
            part.state = self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take a step with both parts and return the loss of the closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss


def _split(params: list[Any], lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Split every group into matrices, for Muon, and other parameters, for AdamW."""
    groups = params if params and isinstance(params[0], dict) else [{"params": params}]
    flat = [p for group in groups for p in group["params"]]
    matrices = [p for p in flat if p.dim() == 2 and min(p.shape) > 1]
    hidden = {id(p) for p in matrices[:-1]}
    split = []
    for group in groups:
        for is_matrix in (True, False):
            chosen = [p for p in group["params"] if (id(p) in hidden) is is_matrix]
            defaults = {"lr": lr, "weight_decay": weight_decay}
            if chosen:
                split.append({**defaults, **group, "params": chosen, "is_matrix": is_matrix})
    return split
