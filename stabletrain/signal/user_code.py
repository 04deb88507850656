"""Find the line of the user's own code that an operation belongs to."""

from __future__ import annotations

import ast
import linecache
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple

import torch

TORCH = str(Path(torch.__file__).parent)
OURS = str(Path(__file__).parents[1])
ENDS = tuple(
    str(Path(OURS) / room) for room in ("signal", "inspection", "integrations")
)  # of the part that is a user's
SKIPPED = (
    TORCH,
    str(Path(OURS) / "torch_tools"),
    "<frozen",
    "<string>",
    "<eval",
    str(Path(ast.__file__).parent / "contextlib"),
)
MAX_FRAMES = 80


class Place(NamedTuple):
    """A line of code, kept without its frame, which would keep tensors alive."""

    code: CodeType
    line: int

    def __str__(self) -> str:
        return describe(self.code.co_filename, self.line)


def describe(filename: str, line: int) -> str:
    """Return `train.py:12: loss = x.sqrt().mean()`."""
    text = linecache.getline(filename, line).strip()
    return f"{Path(filename).name}:{line}" + (f": {text}" if text else "")


def here(depth: int = 1) -> Place | None:
    """Return the innermost line of the user's code among the callers, of other packages if there is none of theirs."""
    frame: FrameType | None = sys._getframe()
    for _ in range(depth):
        frame = frame.f_back if frame is not None else None
    of_package: Place | None = None
    for _ in range(MAX_FRAMES):
        if frame is None:
            break
        filename = frame.f_code.co_filename
        if filename.startswith(ENDS):
            break
        if not filename.startswith(SKIPPED):
            place = Place(frame.f_code, frame.f_lineno)
            if "site-packages" not in filename:
                return place
            of_package = of_package or place
        frame = frame.f_back
    return of_package


def find_line(after: Place | None, operation: str) -> str | None:
    """Return the line that most likely called an operation: in the function that called the model, after that call.

    Args:
        after: Where the model was called.
        operation: Name of an autograd node, such as `SqrtBackward0`.
    """
    if after is None:
        return None
    lines = linecache.getlines(after.code.co_filename, None)
    wanted = words_of(operation)
    tree = _tree_of(after.code, lines)
    if tree is None or not wanted:
        return None
    first, root = tree
    numbers = [first + getattr(node, "lineno", 1) - 1 for node in ast.walk(root) if _mentions(node, wanted)]
    found = [n for n in numbers if n >= after.line] or numbers
    return describe(after.code.co_filename, min(found)) if found else None


def words_of(operation: str) -> set[str]:
    """Return names under which Python code calls the operation of a node: `{"sqrt"}` for `SqrtBackward0`."""
    base = operation.split("Backward")[0]
    snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in base).strip("_")
    return {snake, *SYNONYMS.get(base, ())}


SYNONYMS = {
    "Pow": ("**", "pow", "square", "float_power"),
    "Div": ("/", "div", "true_divide", "normalize", "cosine_similarity"),
    "Mul": ("*", "mul"),
    "Sub": ("-", "sub"),
    "Add": ("+", "add"),
    "Mm": ("@", "mm", "matmul", "linear"),
    "Bmm": ("@", "bmm", "matmul", "einsum"),
    "LinalgVectorNorm": ("norm", "vector_norm", "normalize", "pairwise_distance", "cosine_similarity"),
    "Norm": ("norm",),
    "Sqrt": ("sqrt", "**"),
    "MseLoss": ("mse_loss", "MSELoss", "criterion", "loss_fn"),
    "NllLoss": ("cross_entropy", "nll_loss", "CrossEntropyLoss", "criterion", "loss_fn"),
    "LogSoftmax": ("log_softmax", "cross_entropy"),
    "Std": ("std",),
    "Where": ("where",),
    "Mean": ("mean",),
}
_SIGNS = {ast.Pow: "**", ast.Div: "/", ast.Mult: "*", ast.Sub: "-", ast.Add: "+", ast.MatMult: "@"}


def _mentions(node: ast.AST, wanted: set[str]) -> bool:
    if isinstance(node, ast.BinOp):
        return _SIGNS.get(type(node.op)) in wanted
    if isinstance(node, ast.Call):
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
        return name in wanted
    return False


def _tree_of(code: CodeType, lines: list[str]) -> tuple[int, ast.AST] | None:
    """Return the first line and the syntax tree of a function; of the whole file for code outside of functions."""
    if not lines:
        return None
    for first, part in _candidates(code, lines):
        try:
            return first, ast.parse(textwrap.dedent("".join(part)))
        except SyntaxError:
            continue
    return None


def _candidates(code: CodeType, lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    if code.co_name == "<module>":
        yield 1, lines
        return
    first = code.co_firstlineno
    last = max((line for *_, line in code.co_lines() if line is not None), default=first)
    for end in range(last, min(last + 10, len(lines)) + 1):
        yield first, lines[first - 1 : end]
