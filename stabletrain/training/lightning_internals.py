"""Private attributes of Lightning and torch.optim that the training relies on, with the versions checked."""

from __future__ import annotations

from torch.optim import Optimizer


def unscale_before_step_(optimizer: Optimizer) -> None:
    """Make Lightning unscale the gradients before they are measured and clipped, for a fused optimizer too.

    Under a loss scaler a fused optimizer unscales inside its step, and Lightning leaves that to it: until then the
    gradients are about 65,536 times too large.
    """
    # Read by torch.amp.GradScaler and by Lightning's MixedPrecision plugin; torch 2.13.0, pytorch-lightning 2.6.6.
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer._step_supports_amp_scaling = False  # pyright: ignore[reportAttributeAccessIssue]
