"""The interface of every clip, and the registry of clips by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from stabletrain.errors import RequestError

# Clips by name, as in `conf/clip/`. A class enters with `class MyClip(DeviceClip, name="mine")`.
CLIPS: dict[str, type[Clip]] = {}


class Clip(ABC):
    """Changes gradients in place between the backward pass and the optimizer's step.

    A clip of your own implements `__call__`, and `attach`, `state_dict` and `load_state_dict` if it needs them. The
    built-in clips derive from `DeviceClip`, which saves reads of the device.
    """

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is not None:
            assert name not in CLIPS, f"two clips are named {name!r}"
            CLIPS[name] = cls

    @abstractmethod
    def __call__(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Clip the gradients of `parameters` and return their total norm before clipping."""

    def attach(self, model: nn.Module) -> None:  # noqa: B027 (most clips do not need the model)
        """Inspect the model whose gradients will be clipped. Called once, before the first step."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold; empty for a stateless clip."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state that `state_dict` returned.

        Raises:
            RequestError: The state belongs to another clip.
        """
        if state:
            raise RequestError(
                f"{type(self).__name__} has no state to load.", key="clip", found=", ".join(state), allowed="none"
            )
