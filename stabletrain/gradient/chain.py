"""Several clips, one after the other."""

from __future__ import annotations

from typing import Any

from torch import nn

from stabletrain.errors import RequestError, closest_name
from stabletrain.gradient.adaptive import AdaptiveClip
from stabletrain.gradient.clip import NormClip
from stabletrain.gradient.clip_base import Clip
from stabletrain.gradient.device_clip import Call, DeviceClip, OneReadClip, steps_of


class Chain(OneReadClip, name="chain"):
    """g ← c_n(… c_2(c_1(g))): each clip takes what the one before it left.

    Args:
        clips: By names of one's choice, in their order; `adaptive`, then `norm`, if left out.

    Raises:
        RequestError: There is no clip, or one that is none.

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
                raise RequestError(f"{name} is no clip.", key=f"clips.{name}", found=clip, allowed="a Clip")

    def attach(self, model: nn.Module) -> None:
        """Pass the model on to every clip."""
        for clip in self.clips.values():
            clip.attach(model)

    def steps(self) -> list[DeviceClip | Call]:
        """Return the clips in their order, those of a chain inside it included."""
        return [step for clip in self.clips.values() for step in steps_of(clip)]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of each clip under its name."""
        return {name: clip.state_dict() for name, clip in self.clips.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state that `state_dict` returned."""
        unknown = sorted(set(state) ^ set(self.clips))
        if unknown:
            raise RequestError(
                "This is not the state of these clips.",
                key="clips",
                found=", ".join(state) or "none",
                allowed=", ".join(self.clips),
                closest=closest_name(unknown[0], self.clips),
            )
        for name, clip in self.clips.items():
            clip.load_state_dict(state[name])
