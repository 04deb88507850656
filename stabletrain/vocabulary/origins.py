"""Where a non-finite value comes from, by the name of the operation that made it, and what fixes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

INPUT, TARGET, WEIGHT, INVALID, OVERFLOW = "input", "target", "weight", "invalid_operation", "overflow"
ORIGINS = (INPUT, TARGET, WEIGHT, INVALID, OVERFLOW)

ORIGIN, OPERATION, MODULE, LINE, SAMPLES = "origin", "operation", "module", "line", "samples"  # keys of the evidence
WHY, PHASE, DTYPE, REPRODUCIBLE, TENSOR, MADE_ON = "why", "phase", "dtype", "reproducible", "tensor", "made_on_step"
SAMPLES_ARE, CLEAN, BUNDLE = "samples_are", "clean", "bundle"  # of a step that was replayed and saved
OF_BATCH, OF_DATASET = "batch", "dataset"  # what the samples are indices of
FORWARD, BACKWARD = "forward", "backward"
NOT_AGAIN = "a replay of the step is finite: a random state that is not torch's, a race, or a fault of the hardware"
CHANGED = "or a gradient that was changed after the backward pass, for example by your own clipping of one with norm 0"
NUMBER = "a number in the code"  # begins the reason where it is no tensor that is Inf or NaN
HALF_MAX = {"float16": 65_504.0}  # largest finite value, where it is small enough to be met


@dataclass(frozen=True)
class Family:
    """Operations that fail alike.

    Attributes:
        names: Names of autograd's nodes without `Backward0`, or their beginning and `*`.
        forward: Why its value is not finite.
        backward: Why its derivative is not finite.
        code: What to write instead.
    """

    names: tuple[str, ...]
    forward: str
    backward: str
    code: str


FAMILIES = (
    Family(
        ("Sqrt", "Rsqrt"),
        "the square root of a negative number is NaN, and 1 / sqrt(0) is Inf",
        "the derivative of the square root at 0 is Inf",
        "torch.sqrt(x.clamp(min=0) + 1e-8)",
    ),
    Family(
        ("LogSoftmax", "Logsumexp"),
        "every entry of a row is -Inf",
        "every entry of a row is -Inf",
        "logits = logits.masked_fill(mask, torch.finfo(logits.dtype).min)",
    ),
    Family(
        ("Log", "Xlogy", "Logit", "Lgamma", "Digamma"),
        "the logarithm of 0 is -Inf, and of a negative number NaN",
        "the derivative of the logarithm at 0 is Inf",
        "torch.log_softmax(logits, -1) in place of softmax(...).log(), or torch.log(x.clamp(min=1e-8))",
    ),
    Family(
        ("Softmax", "SafeSoftmax", "ScaledDotProduct*"),
        "every entry of a row is masked (-Inf), so that its softmax is 0 / 0",
        "every entry of a row is masked (-Inf), so that its softmax is 0 / 0",
        "mask = mask & ~mask.all(-1, keepdim=True), so that no row is masked completely, or drop such examples",
    ),
    Family(
        ("Pow", "FloatPower"),
        "0 to a negative power is Inf, and a negative number to a fractional power is NaN",
        "the derivative of x**p at 0 is Inf for p < 1",
        "(x.clamp(min=1e-8)) ** p",
    ),
    Family(
        ("Acosh", "Atanh", "Acos", "Asin", "Erfinv"),
        "its argument is outside of the domain",
        "its derivative at the ends of the domain, such as ±1, is Inf",
        "torch.acos(x.clamp(-1 + 1e-6, 1 - 1e-6))",
    ),
    Family(
        ("Atan2",),
        "its arguments are not finite",
        "the derivative of atan2 at (0, 0) is 0 / 0",
        "torch.atan2(y, torch.where((x == 0) & (y == 0), 1e-8, x))",
    ),
    Family(
        ("Div", "Reciprocal", "Remainder", "Fmod"),
        "a number is divided by 0",
        "the derivative of a quotient whose denominator is (nearly) 0 overflows",
        "x / y.clamp(min=1e-8), or skip the case that y == 0",
    ),
    Family(
        ("LinalgVectorNorm", "Norm", "Cdist", "PairwiseDistance", "CosineSimilarity"),
        "the norm overflows",
        "the derivative of a norm or distance at 0 is 0 / 0",
        "(x.square().sum(-1) + 1e-8).sqrt()",
    ),
    Family(
        ("WeightNormInterface",),
        "a vector of the weight is 0, and its norm too",
        "the derivative of a norm at 0 is 0 / 0",
        "torch.nn.utils.parametrizations.weight_norm(layer) after its weight was initialized, no row with zeros",
    ),
    Family(
        ("Std", "Var"),
        "the deviation of a single element is 0 / 0",
        "the derivative of the deviation at 0 is 0 / 0",
        "(x.var(-1, correction=0) + 1e-8).sqrt()",
    ),
    Family(
        ("Mean", "NllLoss", "NanMean"),
        "the mean of no element is 0 / 0",
        "the mean of no element is 0 / 0",
        "loss = total / count.clamp(min=1), or skip a batch in which nothing counts",
    ),
    Family(
        ("CtcLoss",),
        "no alignment exists, since a text is longer than its input",
        "no alignment exists, since a text is longer than its input",
        "torch.nn.functional.ctc_loss(..., zero_infinity=True), or drop such examples",
    ),
    Family(
        ("Linalg*", "Inverse", "Cholesky*", "Svd", "Eigh", "Det", "Logdet"),
        "the matrix is singular",
        "two eigenvalues or singular values are equal, or the matrix is singular, so that the derivative divides by 0",
        "matrix + 1e-5 * torch.eye(n)",
    ),
    Family(
        ("Exp", "Sinh", "Cosh", "Expm1"),
        "the exponential of more than 88 exceeds float32, and of more than 11 float16",
        "the exponential of more than 88 exceeds float32, and of more than 11 float16",
        "torch.logsumexp(x, -1) or log_softmax in place of exp, or x.clamp(max=30).exp()",
    ),
    Family(
        ("Where", "MaskedFill", "Index"),
        "a value that is not finite was selected",
        "the branch that `where` did not take has an infinite derivative, and 0 · Inf is NaN",
        "torch.where(ok, f(torch.where(ok, x, 1.0)), 0.0)",
    ),
    Family(
        ("Sub", "Add", "Sum", "Logcumsumexp", "Cumsum"),
        "Inf - Inf is NaN",
        "Inf - Inf is NaN",
        "x.masked_fill(mask, torch.finfo(x.dtype).min) in place of -Inf",
    ),
    Family(
        ("Mul", "Mm", "Bmm", "Addmm", "Matmul"),
        "0 · Inf is NaN",
        "0 · Inf is NaN",
        "torch.where(mask, x, 0.0) in place of x * mask",
    ),
)


RISKY = {  # nodes whose derivative, or value, may not be finite for ordinary numbers
    *("Sqrt", "Rsqrt", "Log", "Log2", "Log10", "Log1p", "Xlogy", "Logit", "Lgamma", "Digamma", "Pow", "FloatPower"),
    *("Acosh", "Atanh", "Acos", "Asin", "Erfinv", "Atan2", "Div", "Reciprocal", "Remainder", "Fmod", "Cdist", "Norm"),
    *("LinalgVectorNorm", "Std", "Var", "Exp", "Expm1", "Sinh", "Cosh", "Tan", "Prod", "Svd", "Inverse", "ToCopy"),
}


def base_of(operation: str) -> str:
    """Return the name of an operation without `Backward0`; that of ATen, such as `log_softmax`, in the same form."""
    base = operation.split("Backward")[0]
    return base if base != base.lower() else "".join(part.capitalize() for part in base.split("_"))


def is_risky(operation: str) -> bool:
    """Return whether an operation can make Inf or NaN of ordinary numbers."""
    base = base_of(operation)
    return base in RISKY or base.startswith("Linalg")


def family_of(operation: str | None) -> Family | None:
    """Return the family of an operation, such as that of `SqrtBackward0`."""
    base = base_of(operation) if operation else ""
    return next((f for f in FAMILIES if any(_fits(base, name) for name in f.names)), None)


def _fits(base: str, name: str) -> bool:
    return base.startswith(name[:-1]) if name.endswith("*") else base == name


def stands_for_itself(evidence: Mapping[str, Any]) -> bool:
    """Return whether a non-finite value has an origin of its own, which no learning rate or initialization explains."""
    return evidence.get(ORIGIN) in (INPUT, TARGET, WEIGHT, INVALID)


def advice_for(evidence: Mapping[str, Any]) -> str:
    """Return what happened and what fixes it, for the evidence of a non-finite value; "" if its origin is not known.

    An overflow by growth has no advice of its own: that of the kind applies.
    """
    origin, why = evidence.get(ORIGIN), str(evidence.get(WHY, ""))
    happened = f"{_where(evidence)}: {why}." if why else f"{_where(evidence)}."
    if origin == INPUT:
        return f"The batch contains values that are not finite{_samples(evidence)}. {REMOVE_INPUTS}"
    if origin == TARGET:
        return f"The targets contain values that are not finite{_samples(evidence)}. {REMOVE_TARGETS}"
    if origin == WEIGHT:
        tensor = evidence.get(TENSOR)
        named = why if not tensor or tensor in why else f"{why[:1].upper()}{why[1:]}: {tensor}"
        return f"{named}. {_fix_weight(evidence)}"
    family = family_of(evidence.get(OPERATION))
    if origin == INVALID and why.startswith(NUMBER):
        return happened
    if origin == INVALID:
        code = f" In code: {family.code}." if family else " Keep its arguments inside of its domain."
        return f"{happened}{code} A lower learning rate or clipping does not fix it."
    if origin == OVERFLOW and family is not None and family.names[0] == "Exp":
        return f"{happened} In code: {family.code}."
    if origin == OVERFLOW and evidence.get(DTYPE) in HALF_MAX:
        limit = HALF_MAX[evidence[DTYPE]]
        return f"{happened} {evidence[DTYPE]} ends at {limit:,.0f}. {FIX_HALF}"
    if evidence.get(REPRODUCIBLE) is False:
        return f"{why[:1].upper()}{why[1:]}. Run the step again on other hardware, or with st.find_offender."
    if origin is None and why:
        return f"{why[:1].upper()}{why[1:]}. st.find_offender(model, loss_fn, batch) follows every operation of a step."
    return ""


def is_unknown(evidence: Mapping[str, Any]) -> bool:
    """Return whether the origin was looked for and not found, and may be an overflow by growth."""
    return evidence.get(ORIGIN) is None and evidence.get(REPRODUCIBLE) is not False


REMOVE_INPUTS = (
    "In code: keep = x.isfinite().flatten(1).all(1); x, y = x[keep], y[keep], or fix the data where they are made."
)
REMOVE_TARGETS = "In code: keep = y.isfinite(); loss = loss_fn(model(x)[keep], y[keep]), or fix the data."
FIX_HALF = (
    "In code: torch.autocast(device, dtype=torch.bfloat16), which has the range of float32; or compute this operation "
    "in float32, and scale the loss with torch.amp.GradScaler."
)


def _where(evidence: Mapping[str, Any]) -> str:
    operation, module, line = evidence.get(OPERATION), evidence.get(MODULE), evidence.get(LINE)
    place = f" in {module}" if module else ""
    return f"{operation or 'The loss'}{place}{f' ({line})' if line else ''}"


def _samples(evidence: Mapping[str, Any]) -> str:
    samples = evidence.get(SAMPLES) or []
    shown = ", ".join(map(str, samples[:8])) + (", …" if len(samples) > 8 else "")
    of = "training set" if evidence.get(SAMPLES_ARE) == OF_DATASET else "batch"
    return f" (samples {shown} of the {of})" if samples else ""


def _fix_weight(evidence: Mapping[str, Any]) -> str:
    if "eps=0" in str(evidence.get(WHY, "")):
        return "In code: torch.optim.Adam(model.parameters(), lr, eps=1e-8)."
    if evidence.get(MADE_ON) is None:
        return "In code: assert all(x.isfinite().all() for x in model.state_dict().values()); set it anew."
    return (
        "Go back to a checkpoint from before that step. In code: model.load_state_dict(torch.load(path)), with a new "
        "optimizer."
    )
