"""Why an operation on finite numbers returned Inf or NaN: outside of its domain, or too large for its type."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stabletrain.vocabulary.origins import INVALID, NUMBER, OVERFLOW

NEARLY_ZERO = 1e3  # times the smallest normal number: below it, a quotient of ordinary numbers overflows


class Judgement(NamedTuple):
    """`invalid_operation` or `overflow`, and the reason in words."""

    origin: str
    why: str


def is_bad(x: Tensor) -> bool:
    """Return whether a tensor contains Inf or NaN."""
    return _is_float(x) and not bool(_values(x).isfinite().all())


def has_nan(x: Tensor) -> bool:
    """Return whether a tensor contains NaN."""
    return _is_float(x) and bool(_values(x).isnan().any())


def has_positive_infinity(x: Tensor) -> bool:
    """Return whether a tensor contains +Inf."""
    return _is_float(x) and not x.is_complex() and bool(_values(x).isposinf().any())


def largest(x: Tensor) -> float:
    """Return the largest finite magnitude, 0 if there is none."""
    values = _values(x).detach().abs()
    finite = values[values.isfinite()]
    return float(finite.max()) if finite.numel() else 0.0


def judge(name: str, args: Sequence[Any], output: Tensor) -> Judgement:
    """Say why an operation's output is not finite, although its inputs are, or contain only an intended -Inf.

    Args:
        name: Name of an ATen operation without its overload, such as `div`.
        args: Its arguments.
        output: Its first output that is not finite.
    """
    name = name.rstrip("_").lstrip("_")
    for names, check in CHECKS:
        if name in names:
            try:
                why = check(args)
            except (IndexError, AttributeError, TypeError, RuntimeError):
                why = None  # called with other arguments than expected
            if why:
                return Judgement(INVALID, why)
    number = next((x for x in args if isinstance(x, float) and not math.isfinite(x)), None)
    if number is not None:
        return Judgement(INVALID, f"{NUMBER} is {number}")
    tensors = [x for x in args if isinstance(x, Tensor) and _is_float(x)]
    if any(is_bad(x) for x in tensors):
        return Judgement(INVALID, _of_infinities(name))
    size = max((largest(x) for x in tensors), default=0.0)
    kind = str(output.dtype).removeprefix("torch.")
    limit = torch.finfo(output.dtype).max
    told = f"a value beyond {limit:,.0f}" if limit < 1e6 else f"a value beyond {limit:.2g}"
    overflow = Judgement(OVERFLOW, f"{told}, the largest of {kind}, from inputs up to {size:.3g}")
    if has_nan(output) and size < math.sqrt(limit) * 1e-3 and name not in ("exp", "sinh", "cosh"):
        return Judgement(INVALID, "NaN from finite inputs")  # far too small for a sum of squares to overflow
    return overflow


def _of_infinities(name: str) -> str:
    if "softmax" in name or "attention" in name or "logsumexp" in name:
        return "every entry of a row is -Inf"
    if name.startswith(("mul", "mm", "bmm", "addmm", "matmul", "dot", "baddbmm")):
        return "0 · Inf"
    return "Inf - Inf" if name in ("sub", "add", "sum", "rsub", "mean", "cumsum") else "operation on Inf"


def _is_float(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def _values(x: Tensor) -> Tensor:
    return x.coalesce().values() if x.layout is torch.sparse_coo else x


def _any(condition: Any) -> bool:
    return bool(condition.any()) if isinstance(condition, Tensor) else bool(condition)


def _log(args: Sequence[Any]) -> str | None:
    if _any(args[0] < 0):
        return "the logarithm of a negative number"
    return "the logarithm of 0" if _any(args[0] == 0) else None


def _root(args: Sequence[Any]) -> str | None:
    return "the square root of a negative number" if _any(args[0] < 0) else None


def _reciprocal_root(args: Sequence[Any]) -> str | None:
    return _root(args) or ("1 / sqrt(0)" if _any(args[0] == 0) else None)


def _division(args: Sequence[Any]) -> str | None:
    numerator, denominator = args[0], args[1]
    zero = denominator == 0
    if _any(zero):
        both = _any((numerator == 0) & zero) if isinstance(numerator, Tensor) else False
        return "0 / 0" if both else "division by 0"
    if not isinstance(denominator, Tensor):
        return None
    info = torch.finfo(denominator.dtype)
    is_small = float(denominator.abs().min()) < NEARLY_ZERO * info.tiny
    return "division by nearly 0" if is_small and largest(numerator) < math.sqrt(info.max) else None


def _reciprocal(args: Sequence[Any]) -> str | None:
    return "division by 0" if _any(args[0] == 0) else None


def _power(args: Sequence[Any]) -> str | None:
    base, exponent = (x if isinstance(x, Tensor) else torch.tensor(float(x)) for x in args[:2])
    if _any((base == 0) & (exponent < 0)):
        return "0 to a negative power"
    return "a negative number to a fractional power" if _any((base < 0) & (exponent != exponent.round())) else None


def _beyond(low: float, high: float, *, closed: bool) -> Callable[[Sequence[Any]], str | None]:
    def check(args: Sequence[Any]) -> str | None:
        x = args[0]
        outside = (x < low) | (x > high) | (((x == low) | (x == high)) & closed)
        return f"an argument outside of ({low:g}, {high:g})" if _any(outside) else None

    return check


def _softmax(args: Sequence[Any]) -> str | None:
    rows = args[0].isneginf().all(args[1]) if len(args) > 1 else args[0].isneginf()
    return "every entry of a row is -Inf" if _any(rows) else None


def _empty_mean(args: Sequence[Any]) -> str | None:
    return "the mean of no element" if args[0].numel() == 0 else None


def _deviation(args: Sequence[Any]) -> str | None:
    return "the deviation of a single element" if 1 in (args[0].numel(), *args[0].shape) else None


def _ignored(args: Sequence[Any]) -> str | None:
    target, ignored = args[1], args[4] if len(args) > 4 else -100
    return "the mean of no element: every target is ignored" if bool((target == ignored).all()) else None


def _pole(args: Sequence[Any]) -> str | None:
    return "a pole at 0 or a negative integer" if _any((args[0] <= 0) & (args[0] == args[0].round())) else None


def _weight_norm(args: Sequence[Any]) -> str | None:
    v, dim = args[0], args[2] if len(args) > 2 else 0
    return "a vector of the weight is 0, and its norm too" if _any(torch.norm_except_dim(v, 2, dim) == 0) else None


def _singular(args: Sequence[Any]) -> str | None:
    return "a singular matrix" if any(isinstance(x, Tensor) for x in args) else None


CHECKS: tuple[tuple[tuple[str, ...], Callable[[Sequence[Any]], str | None]], ...] = (
    (("log", "log2", "log10", "xlogy"), _log),
    (("log1p",), lambda args: _log((args[0] + 1,))),
    (("sqrt",), _root),
    (("rsqrt",), _reciprocal_root),
    (("div", "divide", "true_divide", "floor_divide", "remainder", "fmod"), _division),
    (("reciprocal",), _reciprocal),
    (("pow", "float_power"), _power),
    (("acos", "asin"), _beyond(-1, 1, closed=False)),
    (("atanh", "erfinv"), _beyond(-1, 1, closed=True)),
    (("logit",), _beyond(0, 1, closed=True)),
    (("acosh",), _beyond(1, math.inf, closed=False)),
    (("softmax", "log_softmax", "safe_softmax", "logsumexp"), _softmax),
    (("mean",), _empty_mean),
    (("std", "var", "var_mean", "std_mean"), _deviation),
    (("nll_loss_forward", "nll_loss2d_forward"), _ignored),
    (("lgamma", "digamma"), _pole),
    (("weight_norm_interface",), _weight_norm),
    (("linalg_inv_ex", "linalg_solve_ex", "linalg_cholesky_ex", "inverse", "linalg_eigh", "linalg_slogdet"), _singular),
)
