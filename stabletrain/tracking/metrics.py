"""Turn the record into MLflow metrics: each value of each step once, under a key that MLflow accepts."""

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
_MAX_FILES = 40  # event files in a position; a tag holds 8,000 characters
_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9_\-. :/]")
_OF_LAYER = re.compile(r"/L(\d+)\.")
_SHIPPED_FAMILIES = (
    names.GRADIENT_RMS,
    names.GRADIENT_NONFINITE,
    names.UPDATE_RATIO,
)  # in the order in which they are kept
MAX_CURVES = 600  # of a run, among those with one curve per layer; beyond 1,000 keys MLflow's page freezes


@dataclass(frozen=True)
class Point:
    """One value of a metric in MLflow."""

    key: str
    step: int
    time_ms: int
    value: float


def is_shipped(name: str, num_layers: int) -> bool:
    """Return whether to ship a scalar to MLflow, which gets at most `MAX_CURVES` curves by layer.

    | layers | shipped for each layer |
    |---|---|
    | up to 200 | `gradient/rms`, `gradient/nonfinite`, `update/ratio` |
    | up to 300 | `gradient/rms`, `gradient/nonfinite` |
    | up to 600 | `gradient/rms` |
    | more | `gradient/rms` of every second layer, of every third, and so on |

    Scalars without a layer are always shipped. TensorBoard, the report and the table of layers have all of them.

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
    """Return the number of layers whose gradient is in one event."""
    prefix = f"{names.GRADIENT_NONFINITE}/"
    return sum(isinstance(entry, Scalar) and entry.name.startswith(prefix) for entry in entries)


def clean_key(name: str) -> str:
    """Return `name` as a key that MLflow accepts: at most 250 of `A-Za-z0-9_-. :/`, and a normalized path."""
    parts = [part for part in _NOT_ALLOWED.sub("_", name).split("/") if part not in ("", ".")]
    key = "/".join("__" if part == ".." else part for part in parts) or "_"
    return key if len(key) <= MAX_KEY_LENGTH else marked_key(key, name)


def marked_key(key: str, name: str) -> str:
    """Return `key`, shortened, with a checksum of `name`: unique among names that are cleaned to the same key."""
    return f"{key[: MAX_KEY_LENGTH - 9]}-{zlib.crc32(name.encode()):08x}"


@dataclass
class Progress:
    """State of turning a record into points; reading the record from the start restores it.

    Attributes:
        last_step: Last step of each name. Steps that a resumed run repeats are skipped.
        keys: Key of each name.
        num_layers: Largest number of layers whose gradient was recorded in one step.
    """

    last_step: dict[str, int] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    num_layers: int = 0
    _taken: set[str] = field(default_factory=set)
    _is_shipped: dict[str, bool] = field(default_factory=dict)

    def take(self, entries: Sequence[Entry]) -> list[Point]:
        """Return the new points among the entries of one event."""
        points = []
        if (num_layers := num_layers_of(entries)) > self.num_layers:
            self.num_layers = num_layers
            self._is_shipped.clear()
        for entry in entries:
            if not isinstance(entry, Scalar) or not math.isfinite(entry.value):
                continue
            if entry.name not in self._is_shipped:
                self._is_shipped[entry.name] = is_shipped(entry.name, self.num_layers)
            if not self._is_shipped[entry.name]:
                continue
            if entry.step <= self.last_step.get(entry.name, -1):
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
    """Yield the entries of each complete event, and the position after it."""
    before, entries = dict(position or {}), []
    for entry, after in read_entries(folder, position):
        entries.append(entry)
        if after != before:
            yield entries, after
            before, entries = after, []


def covers(shipped: Position, position: Position) -> bool:
    """Return whether everything up to `position` is contained in `shipped`."""
    return all(offset <= shipped.get(name, 0) for name, offset in position.items())


def encode_position(position: Position) -> str:
    """Return a position as text for a tag; only the latest `_MAX_FILES` files of a run that was resumed more often."""
    files = dict(sorted(position.items())[-_MAX_FILES:])
    return json.dumps(files, separators=(",", ":"))


def decode_position(text: str | None, folder: Path) -> Position:
    """Return the position that `encode_position` wrote; files that it left out had been read to their end."""
    position: Position = json.loads(text) if text else {}
    if len(position) == _MAX_FILES:
        first = min(position)
        position |= {p.name: p.stat().st_size for p in event_files(folder) if p.name < first}
    return position
