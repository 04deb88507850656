"""What the doctor of a plain loop accepts: an error at once is better than one after hours of training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from stabletrain.errors import RequestError, require_range
from stabletrain.integrations.plain_loop.saving import require_free


def require_initialized(model: nn.Module) -> nn.Module:
    """Return a model whose parameters all have a shape.

    Raises:
        RequestError: A lazy module has not been called yet.
    """
    lazy = next((path for path, p in model.named_parameters() if isinstance(p, UninitializedParameter)), None)
    if lazy is not None:
        raise RequestError(
            "A parameter has no shape yet.",
            key="model",
            found=f"{lazy}, of a lazy module",
            allowed="a model that has been called once",
            command="model(example); st.Doctor(model)",
        )
    return model


def require_optimizers(optimizer: Optimizer | Iterable[Optimizer] | None) -> list[Any]:
    """Return the optimizers in a list.

    Raises:
        RequestError: Something has no parameters.
    """
    several = isinstance(optimizer, Iterable) and not isinstance(optimizer, str) and not _is_optimizer(optimizer)
    found: list[Any] = [] if optimizer is None else [*optimizer] if several else [optimizer]  # pyright: ignore[reportGeneralTypeIssues]
    wrong = [x for x in found if not _is_optimizer(x)]
    if wrong:
        raise RequestError(
            "There is no optimizer.",
            key="optimizer",
            found=wrong[0] if isinstance(wrong[0], str) else type(wrong[0]).__name__,
            allowed="a torch.optim.Optimizer, several, or None: those of torch are found by themselves",
        )
    return found


def _is_optimizer(x: Any) -> bool:
    return hasattr(x, "param_groups") or hasattr(x, "optimizer")  # of torch, or a wrapper of one


def require_settings(
    num_steps: int | None,
    prior_loss: float | None,
    on_finding: Callable[[str], object] | None,
    output_dir: Path | str | None,
) -> None:
    """Check the other arguments.

    Raises:
        RequestError: A number is out of range, `on_finding` cannot be called, or the folder holds a run.
    """
    if num_steps is not None:
        require_range("num_steps", num_steps, 1)
        if not isinstance(num_steps, Integral):
            raise RequestError("num_steps is not an integer.", key="num_steps", found=num_steps, allowed="an integer")
    if prior_loss is not None:
        require_range("prior_loss", prior_loss)
    if on_finding is not None and not callable(on_finding):
        allowed = "a function of one line, such as print"
        raise RequestError("on_finding cannot be called.", key="on_finding", found=on_finding, allowed=allowed)
    if output_dir is not None:
        require_free(output_dir)


def require_loss(loss: Any) -> None:
    """Check the loss of a step.

    Raises:
        RequestError: It is no single number.
    """
    if loss is None or isinstance(loss, Real):
        return
    if isinstance(loss, Tensor) and loss.numel() == 1 and not loss.is_complex():
        return
    raise RequestError(
        "The loss is not a scalar.",
        key="loss",
        found=f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__,
        allowed="a number, or a tensor with one element, such as loss.mean()",
        command="doctor.step(loss)",
    )


def require_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of a validation as numbers.

    Raises:
        RequestError: One is no single number.
    """
    found = {}
    for name, value in metrics.items():
        try:
            found[name] = float(value)
        except (TypeError, ValueError, RuntimeError):
            allowed = "a number, or a tensor with one element"
            kind = type(value).__name__
            raise RequestError("A metric is not a number.", key=name, found=kind, allowed=allowed) from None
    return found
