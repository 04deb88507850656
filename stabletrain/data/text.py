"""A text as a character-level language modeling task."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from stabletrain.data.base import Data, Task, require_count, resolve_form
from stabletrain.data.lazy import LazySplit
from stabletrain.data.splits import split_sizes
from stabletrain.errors import RequestError

MAX_CHARACTERS = 1000  # distinct; each adds a number to every one-hot step, and more than this suggests word-level data
NUM_SPLITS = 3


class Windows(LazySplit):
    """Windows of a text, one-hot encoded on access: 64 steps of 100 characters take 25 kB, as text 64 bytes.

    Args:
        codes: Index of each character, int16 (length,).
        num_steps: Characters in a window.
        stride: Characters from the start of one window to the start of the next.
        num_characters: Number of distinct characters, K.
        form: ``sequence``: inputs (num_steps, K), targets (num_steps,); ``vector``: (num_steps · K,), targets ().
    """

    max_scanned = 256  # one-hot by construction

    def __init__(self, codes: np.ndarray, num_steps: int, stride: int, num_characters: int, form: str) -> None:
        self._codes = torch.from_numpy(codes)
        self._num_steps, self._stride = num_steps, stride
        self._num_characters, self._form = num_characters, form

    def __len__(self) -> int:
        """Return the number of windows that fit, each followed by one more character."""
        return max(0, (len(self._codes) - 1 - self._num_steps) // self._stride + 1)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one window, one-hot, and the character or characters to predict."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = index * self._stride
        window = self._codes[start : start + self._num_steps + 1].to(torch.int64)
        inputs = torch.zeros(self._num_steps, self._num_characters)
        inputs.scatter_(1, window[:-1, None], 1.0)
        return (inputs.flatten(), window[-1]) if self._form == "vector" else (inputs, window[1:])

    def numbers(self) -> list[Tensor]:
        """Return the encoded text, and how it is cut into windows."""
        return [self._codes, torch.tensor([self._num_steps, self._stride])]


@final
class Text(Data):
    """A text, cut into windows of `num_steps` characters; the next character is to be predicted.

    As a sequence, every step is one character, one-hot, and its target is the next character: a character-level
    language model (Graves 2013, section 2). As a vector, a window is flattened and its only target is the character
    after it.

    The text is divided into consecutive parts for training, validation and testing, and no window crosses a boundary.
    The classes are the characters of the whole text, including those that do not occur in the training part.

    Attributes:
        characters: The classes, in sorted order.

    Args:
        path: A file in UTF-8; null for the English documentation that ships with CPython (`pydoc_data.topics`).
        batch_size: Global batch size, from 1 to the number of training windows.
        num_steps: Characters in a window, from 1. 64 are about eleven English words.
        stride: Characters from one window to the next, from 1; null for `num_steps`: adjacent windows.
        form: ``sequence`` (num_steps, characters) or ``vector``; ``auto`` is ``sequence``.
        val_fraction: Fraction of the text used for validation, above 0.
        test_fraction: Fraction of the text used for testing, above 0; the two fractions add up to less than 1.
        max_characters: Number of characters to read, from 1; null for all.

    Raises:
        RequestError: The file cannot be read or is too short, or an argument is out of range.

    References:
        Graves 2013, Generating Sequences With Recurrent Neural Networks.

    Example:
        >>> data = Text(num_steps=32, max_characters=20_000)
        >>> x, y = data.train[0]
        >>> x.shape == (32, len(data.characters)), y.shape, bool((x[1:].argmax(1) == y[:-1]).all())
        (True, torch.Size([32]), True)
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
        stride: int | None = None,
        form: str = "auto",
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        max_characters: int | None = None,
    ) -> None:
        require_count("batch_size", batch_size)
        require_count("num_steps", num_steps)
        stride = num_steps if stride is None else require_count("stride", stride)
        form = resolve_form(form, self.forms)
        self.per_step = form == "sequence"
        text = read_text(path, max_characters)
        self._origin = "Python's own documentation (pydoc_data.topics)" if path is None else Path(str(path)).name
        self.characters, codes = encode(text)
        train, val, test = (
            Windows(part, num_steps, stride, len(self.characters), form)
            for part in cut_text(codes, num_steps, val_fraction, test_fraction)
        )
        super().__init__(train, val, test, batch_size=batch_size, form=form, num_outputs=len(self.characters))

    @property
    def source(self) -> str:
        """Where the data come from, in one sentence."""
        return (
            f"Characters of {self._origin}, {len(self.characters)} distinct ones, each predicted from those before it."
        )


def read_text(path: str | None, max_characters: int | None = None) -> str:
    """Return a text file's content, or the documentation that ships with Python.

    Raises:
        RequestError: There is no such file, it is not UTF-8, or it is empty.
    """
    limit = -1 if max_characters is None else require_count("max_characters", max_characters)
    if path is None:
        from pydoc_data.topics import topics

        return "\n".join(topics[name] for name in sorted(topics))[: None if limit < 0 else limit]
    file = Path(str(path)).expanduser()  # YAML reads a name of digits as a number
    if not file.is_file():
        found = f"{path} (a folder)" if file.is_dir() else path
        raise RequestError("There is no such text file.", key="path", found=found, allowed="a text file, or null")
    try:
        with file.open(encoding="utf-8-sig") as handle:
            text = handle.read(limit)
    except (UnicodeDecodeError, OSError) as error:
        raise RequestError(
            f"The file cannot be read as text: {error}.", key="path", found=path, allowed="a text file in UTF-8"
        ) from error
    if not text:
        raise RequestError("The text is empty.", key="path", found=path, allowed="a text file with characters in it")
    return text


def encode(text: str) -> tuple[str, np.ndarray]:
    """Return the distinct characters of a text, sorted, and the text as their indices, int16 (length,).

    Raises:
        RequestError: The text has a single distinct character, or more than a thousand.
    """
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    known = np.unique(points)
    characters = "".join(map(chr, known.tolist()))
    if not 2 <= len(known) <= MAX_CHARACTERS:
        is_single = len(known) < 2
        problem = "a single distinct character" if is_single else "too many distinct characters for a one-hot encoding"
        raise RequestError(
            f"The text has {problem}.",
            key="path",
            found=f"{characters!r}, {len(text)} times" if is_single else f"{len(known)} distinct characters",
            allowed=f"2 to {MAX_CHARACTERS} distinct characters",
        )
    numbers = np.zeros(int(known[-1]) + 1, dtype=np.int16)
    numbers[known] = np.arange(len(known))
    return characters, numbers[points]


def cut_text(codes: np.ndarray, num_steps: int, val_fraction: float, test_fraction: float) -> list[np.ndarray]:
    """Return the training, validation and test part of a text, each long enough for one window and its target.

    Raises:
        RequestError: The text is too short for one window in each part, or a fraction is too small or too large.
    """
    least = num_steps + 1
    if len(codes) < NUM_SPLITS * least:
        longest = len(codes) // NUM_SPLITS - 1
        raise RequestError(
            "The text is too short for three splits of such windows.",
            key="num_steps" if longest >= 1 else "path",
            found=f"windows of {num_steps} in a text of {len(codes)} characters",
            allowed=f"an integer from 1 up to {longest}" if longest >= 1 else "a text of 6 characters or more",
            closest=str(longest) if longest >= 1 else None,
        )
    num_val, num_test = split_sizes(len(codes), val_fraction, test_fraction, least, "characters")
    num_train = len(codes) - num_val - num_test
    return np.split(codes, [num_train, num_train + num_val])
