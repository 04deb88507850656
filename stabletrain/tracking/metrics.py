"""From the record to what MLflow takes: each number of each step once, under a key that MLflow accepts."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stabletrain.record.reader import Entry, Position, Scalar, event_files, read_entries
from stabletrain.vocabulary import metric_names as names

MAX_KEY_LENGTH = 250
_MAX_FILES = 40  # of a position; a tag holds 8,000 characters
_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9_\-. :/]")
_OF_LAYER = re.compile(r"/L(\d+)\.")
_SHIPPED_FAMILIES = (names.GRADIENT_RMS, names.GRADIENT_NONFINITE, names.UPDATE_RATIO)  # the first ones first
MAX_CURVES = 600  # of a run, with one curve per layer; beyond a thousand keys MLflow's page freezes


@dataclass(frozen=True)
class Point:
    """One metric value, as MLflow takes it."""

    key: str
    step: int
    time_ms: int
    value: float


def is_shipped(name: str, num_layers: int) -> bool:
    """Whether the scalar goes to MLflow: of what has one curve per layer, as many families as make 600 curves.

    | layers | what is shipped of each |
    |---|---|
    | up to 200 | `gradient/rms`, `gradient/nonfinite`, `update/ratio` |
    | up to 300 | `gradient/rms`, `gradient/nonfinite` |
    | up to 600 | `gradient/rms` |
    | more | `gradient/rms` of every second layer, every third, and so on |

    TensorBoard and the report have them all; the table of the worst layers looks at all.

    Args:
        name: Name of the scalar.
        num_layers: Number of layers whose gradient is recorded.
    """
    match = _OF_LAYER.search(name)
    if match is None:
        return True
    family = name[: match.start()]
    if family not in _SHIPPED_FAMILIES:
        return False
    if family == names.GRADIENT_RMS:
        return int(match[1]) % max(1, math.ceil(num_layers / MAX_CURVES)) == 0
    return (_SHIPPED_FAMILIES.index(family) + 1) * num_layers <= MAX_CURVES


def num_layers_of(entries: Iterable[Entry]) -> int:
    """Return how many layers' gradients one event holds."""
    prefix = f"{names.GRADIENT_NONFINITE}/"
    return sum(isinstance(entry, Scalar) and entry.name.startswith(prefix) for entry in entries)


def clean_key(name: str) -> str:
    """Return `name` as a key MLflow accepts: at most 250 of `A-Za-z0-9_-. :/`, a path that needs no folding."""
    parts = [part for part in _NOT_ALLOWED.sub("_", name).split("/") if part not in ("", ".")]
    key = "/".join("__" if part == ".." else part for part in parts) or "_"
    return key if len(key) <= MAX_KEY_LENGTH else marked_key(key, name)


def marked_key(key: str, name: str) -> str:
    """Return `key`, shortened, with a mark that tells `name` from others that were cleaned to the same key."""
    return f"{key[: MAX_KEY_LENGTH - 9]}-{zlib.crc32(name.encode()):08x}"


@dataclass
class Progress:
    """What the record has yielded so far; rebuilt by reading the record from the start.

    Attributes:
        last_step: Last step of each name. A resumed run repeats some steps: they are left out.
        keys: The key of each name.
        num_repeated: How many points were left out for that.
        num_layers: The most layers whose gradient was recorded on one step.
    """

    last_step: dict[str, int] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    num_repeated: int = 0
    num_layers: int = 0
    _taken: set[str] = field(default_factory=set)

    def take(self, entries: Sequence[Entry]) -> list[Point]:
        """Return the new points among the entries of one event."""
        points = []
        self.num_layers = max(self.num_layers, num_layers_of(entries))
        for entry in entries:
            if not isinstance(entry, Scalar) or not math.isfinite(entry.value):
                continue
            if not is_shipped(entry.name, self.num_layers):
                continue
            if entry.step <= self.last_step.get(entry.name, -1):
                self.num_repeated += 1
                continue
            self.last_step[entry.name] = entry.step
            points.append(Point(self._key(entry.name), entry.step, round(entry.time_s * 1000), entry.value))
        return points

    def _key(self, name: str) -> str:
        key = self.keys.get(name)
        if key is None:
            key = clean_key(name)
            key = marked_key(key, name) if key in self._taken else key
            self.keys[name] = key
            self._taken.add(key)
        return key


def read_events(folder: Path, position: Position | None = None) -> Iterator[tuple[list[Entry], Position]]:
    """Yield the entries of each whole event, and the position after it."""
    before, entries = dict(position or {}), []
    for entry, after in read_entries(folder, position):
        entries.append(entry)
        if after != before:
            yield entries, after
            before, entries = after, []


def covers(shipped: Position, position: Position) -> bool:
    """Whether what ends at `position` lies before `shipped`."""
    return all(offset <= shipped.get(name, 0) for name, offset in position.items())


def encode_position(position: Position) -> str:
    """Return a position as text for a tag; of a run resumed very often, the latest files."""
    files = dict(sorted(position.items())[-_MAX_FILES:])
    return json.dumps(files, separators=(",", ":"))


def decode_position(text: str | None, folder: Path) -> Position:
    """Return the position that `encode_position` wrote; files left out of it were read to their end."""
    position: Position = json.loads(text) if text else {}
    if len(position) == _MAX_FILES:
        first = min(position)
        position |= {p.name: p.stat().st_size for p in event_files(folder) if p.name < first}
    return position
