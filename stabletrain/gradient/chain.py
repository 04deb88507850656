"""Several clips, applied in turn."""

from __future__ import annotations

from typing import Any

from torch import nn

from stabletrain.errors import RequestError, closest_name
from stabletrain.gradient.adaptive import AdaptiveClip
from stabletrain.gradient.clip import NormClip
from stabletrain.gradient.clip_base import Clip
from stabletrain.gradient.device_clip import Call, DeviceClip, OneReadClip, steps_of


class Chain(OneReadClip, name="chain"):
    """Clips in turn, g ← c_n(… c_2(c_1(g))): each receives the gradients that the one before it left.

    Args:
        clips: The clips in their order, under names of your choice; `adaptive`, then `norm`, by default.

    Raises:
        RequestError: There is no clip, or a value is not a `Clip`.

    Example:
        >>> import torch
        >>> from stabletrain.gradient import NormClip, ValueClip
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> weight.grad = torch.tensor([3.0, 40.0])
        >>> Chain({"value": ValueClip(4.0), "norm": NormClip(1.0)})([weight]), weight.grad
        (tensor(40.1123), tensor([0.6000, 0.8000]))
    """

    def __init__(self, clips: dict[str, Clip] | None = None) -> None:
        self.clips: dict[str, Clip] = {"adaptive": AdaptiveClip(), "norm": NormClip()} if clips is None else dict(clips)
        if not self.clips:
            raise RequestError("A chain needs a clip.", key="clips", found="none", allowed="one or more, by name")
        for name, clip in self.clips.items():
            if not isinstance(clip, Clip):
                raise RequestError(f"{name} is not a clip.", key=f"clips.{name}", found=clip, allowed="a Clip")

    def attach(self, model: nn.Module) -> None:
        """Attach every clip to the model."""
        for clip in self.clips.values():
            clip.attach(model)

    def steps(self) -> list[DeviceClip | Call]:
        """Return the clips in their order, those of a chain inside it included."""
        return [step for clip in self.clips.values() for step in steps_of(clip)]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each clip under its name."""
        return {name: clip.state_dict() for name, clip in self.clips.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state that `state_dict` returned."""
        unknown = sorted(set(state) ^ set(self.clips))
        if unknown:
            raise RequestError(
                "The state does not belong to these clips.",
                key="clips",
                found=", ".join(state) or "none",
                allowed=", ".join(self.clips),
                closest=closest_name(unknown[0], self.clips),
            )
        for name, clip in self.clips.items():
            clip.load_state_dict(state[name])
