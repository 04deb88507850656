"""Characters of a text, each predicted from those before it."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from stabletrain.data.base import MAX_SEED, Data, Split, Task, require_count, resolve_form
from stabletrain.data.splits import split_sizes
from stabletrain.errors import RequestError

MAX_CHARACTERS = 1000  # different ones: a one-hot step has as many numbers, and beyond that words are meant
MIN_WINDOWS = 3  # one for each split
MAX_NUMBERS = 2**29  # of all one-hot inputs together: 2 GiB in float32


@final
class Text(Data):
    """A text, cut into windows of `num_steps` characters; the next character is to be predicted.

    As a sequence, every step is one character, one-hot, and every step asks for the one that follows: a character
    language model. As a vector, a window is laid out flat and only the character after it is asked for.

    The first part of the text trains, the next validates, the last tests. A character that the training part lacks
    is a class all the same.

    Attributes:
        characters: The classes, in sorted order.

    Args:
        path: A file in UTF-8; null for the English documentation of Python that CPython ships (`pydoc_data.topics`).
        batch_size: Global batch size, from 1 to the size of the training set.
        num_steps: Characters of a window, from 1.
        form: ``sequence`` (num_steps, characters) or ``vector``; ``auto`` is ``sequence``.
        val_fraction: Share of the windows that validates, above 0.
        test_fraction: Share of the windows that tests, above 0; both shares together below 1.
        max_characters: Read no more of the text than this, from 100; null for all.
        seed: Not used: a text has one order. From 0 to 2³² - 1, like that of other data.

    Raises:
        RequestError: The file cannot be read or is too short, or an argument is out of its range.
    """

    name: ClassVar[str] = "text"
    forms: ClassVar[tuple[str, ...]] = ("sequence", "vector")
    causal: bool = True
    task: Task = "classification"

    def __init__(
        self,
        path: str | None = None,
        batch_size: int = 32,
        num_steps: int = 64,
        form: str = "auto",
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        max_characters: int | None = None,
        seed: int = 0,
    ) -> None:
        require_count("batch_size", batch_size)
        require_count("num_steps", num_steps)
        require_count("seed", seed, 0, MAX_SEED)
        form = resolve_form(form, self.forms)
        self.per_step = form == "sequence"
        text = read_text(path)
        text = text if max_characters is None else text[: require_count("max_characters", max_characters, 100)]
        self._origin = "Python's own documentation (pydoc_data.topics)" if path is None else Path(path).name
        self.characters, codes = encode(text)
        windows = cut_windows(codes, num_steps)
        _require_memory(windows.size, len(self.characters))
        num_val, num_test = split_sizes(len(windows), val_fraction, test_fraction, 1, "windows")
        num_train = len(windows) - num_val - num_test
        splits: list[Split] = [
            _pair(torch.from_numpy(part), len(self.characters), form)
            for part in np.split(windows, [num_train, num_train + num_val])
        ]
        super().__init__(*splits, batch_size=batch_size, form=form, num_outputs=len(self.characters))

    @property
    def source(self) -> str:
        """One sentence that says where the numbers come from."""
        return f"Characters of {self._origin}: {len(self.characters)} different ones, each from those before it."


def read_text(path: str | None) -> str:
    """Return a text file's content, or the documentation that ships with Python.

    Raises:
        RequestError: There is no such file, or it is not UTF-8.
    """
    if path is None:
        from pydoc_data.topics import topics

        return "\n".join(topics[name] for name in sorted(topics))
    file = Path(path).expanduser()
    if not file.is_file():
        raise RequestError("There is no such text.", key="path", found=path, allowed="a text file, or null")
    try:
        return file.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise RequestError(
            f"The file cannot be read as text: {error}.", key="path", found=path, allowed="a text file in UTF-8"
        ) from error


def encode(text: str) -> tuple[str, np.ndarray]:
    """Return the characters of a text in sorted order, and the text as their numbers, int64.

    Raises:
        RequestError: The text has fewer than two different characters, or more than a thousand.
    """
    characters = "".join(sorted(set(text)))
    if not 2 <= len(characters) <= MAX_CHARACTERS:
        raise RequestError(
            "The text is empty, or of a single character, or of too many different ones.",
            key="path",
            found=f"{len(text)} characters, {len(characters)} of them different",
            allowed=f"2 to {MAX_CHARACTERS} different characters",
        )
    number = {character: i for i, character in enumerate(characters)}
    return characters, np.fromiter((number[c] for c in text), dtype=np.int64, count=len(text))


def cut_windows(codes: np.ndarray, num_steps: int) -> np.ndarray:
    """Return windows of num_steps + 1 numbers, (windows, num_steps + 1); the last of each begins the next.

    Raises:
        RequestError: The text is too short for one window in each split.
    """
    num_windows = (len(codes) - 1) // num_steps
    if num_windows < MIN_WINDOWS:
        raise RequestError(
            "The text is too short for three splits of such windows.",
            key="num_steps",
            found=f"windows of {num_steps} in a text of {len(codes)} characters",
            allowed=f"an integer from 1 up to {max(1, (len(codes) - 1) // MIN_WINDOWS)}",
            closest=str(max(1, (len(codes) - 1) // MIN_WINDOWS)),
        )
    starts = np.arange(num_windows)[:, None] * num_steps
    return codes[starts + np.arange(num_steps + 1)]


def _pair(windows: Tensor, num_characters: int, form: str) -> Split:
    inputs = torch.nn.functional.one_hot(windows[:, :-1], num_characters).to(torch.float32)
    if form == "vector":
        return inputs.flatten(1), windows[:, -1].contiguous()
    return inputs, windows[:, 1:].contiguous()


def _require_memory(num_codes: int, num_characters: int) -> None:
    if num_codes * num_characters > MAX_NUMBERS:
        raise RequestError(
            "The text is too long to be held one-hot.",
            key="max_characters",
            found=f"{num_codes} characters of {num_characters} kinds",
            allowed=f"an integer up to {MAX_NUMBERS // num_characters}",
            command=f"data.max_characters={MAX_NUMBERS // num_characters}",
        )
