"""One model or several, as one module whose parameters are named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from stabletrain.errors import RequestError

Models = nn.Module | Sequence[nn.Module] | Mapping[str, nn.Module]
CONTAINERS = (nn.ModuleDict, nn.ModuleList)  # they have no forward pass of their own


def join(models: Models) -> nn.Module:
    """Return a model as it is; several ones in a container, so that a parameter is `<name or position>.<its path>`.

    Raises:
        RequestError: Something is not a module.
    """
    if isinstance(models, nn.Module):
        return models
    several = models.values() if isinstance(models, Mapping) else models
    parts = [*several] if isinstance(several, Iterable) else [several]
    wrong = [part for part in parts if not isinstance(part, nn.Module)]
    if wrong or not parts:
        raise RequestError(
            "The doctor watches modules.",
            key="model",
            found=type(wrong[0]).__name__ if parts else "nothing",
            allowed="a torch.nn.Module, or several as a sequence or by name",
            command='st.Doctor({"generator": generator, "discriminator": discriminator})',
        )
    return nn.ModuleDict(models) if isinstance(models, Mapping) else nn.ModuleList(parts)


def parts_of(model: nn.Module) -> list[nn.Module]:
    """Return the modules that a training loop calls: the model, or those in a container."""
    return [*model.children()] if isinstance(model, CONTAINERS) else [model]
