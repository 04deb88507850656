"""Finds the log of another tool in a file or folder, and reads it. The content decides, not the file's name."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stabletrain.errors import RequestError, closest_name
from stabletrain.record.checksum import masked_crc
from stabletrain.record.foreign_logs.csv_table import header_of, read_csv
from stabletrain.record.foreign_logs.json_lines import parse_object, read_json_lines
from stabletrain.record.foreign_logs.log import ForeignLog
from stabletrain.record.foreign_logs.tensorboard_events import read_events, renamed, scalars_of
from stabletrain.record.foreign_logs.text_lines import lines_of
from stabletrain.record.foreign_logs.trainer_state import HISTORY, read_trainer_state
from stabletrain.record.reader import event_files, read_bodies
from stabletrain.record.run_folder import EVENTS
from stabletrain.vocabulary.metric_names import LOSS, STAGES, of_stage
from stabletrain.vocabulary.usual_names import EXAMPLE, STAGE_WORDS, usual_name

KNOWN = (
    "TensorBoard event files, metrics.csv of Lightning's CSVLogger or any csv with a header, "
    "trainer_state.json of Hugging Face, JSON lines"
)
TRAINER_STATE, CHECKPOINTS = "trainer_state.json", "checkpoint-*"
TABLES = ("*.csv", "*.tsv", "*.jsonl", "*.ndjson")
USUAL_TABLES = ("metrics.csv", "progress.csv", "metrics.jsonl")  # of CSVLogger, of Stable-Baselines3
MAX_DEPTH = 4  # of folders below the one that the user names
MAX_SEARCHED = 10_000  # files and folders
MAX_NAMED = 12
PEEK = 4096  # bytes
MAX_EVENTS = 100  # in which a tag is looked for
LOSSES = tuple(of_stage(stage, LOSS) for stage in STAGES)


@dataclass(frozen=True)
class Found:
    """A log: a file, or a folder with event files.

    Attributes:
        path: What the user would name to read it alone.
        files: For event files, what to put before each tag, and the file; else the file alone.
    """

    path: Path
    files: tuple[tuple[str, Path], ...]


def read_log(path: Path | str, loss: str | None = None) -> ForeignLog:
    """Return the only log in a file or folder.

    Args:
        path: The file or folder.
        loss: Name that the training's loss has in the log; None to recognize it.

    Raises:
        RequestError: There is no log, there are several, its format is not known, or nothing in it can be judged.
    """
    found = find_log(Path(path))
    try:
        log = _read(found, loss)
    except OSError as error:
        raise RequestError(f"The log cannot be read: {error.strerror}.", key=str(found.path)) from error
    if not log.num_rows:
        raise RequestError("There is no measurement in this log.", key=str(log.path), found=log.format.name)
    if loss is not None and log.read_as.get(LOSSES[0]) != loss:
        raise _without(log, loss)
    is_table = log.path.is_file() and found.files[0][1].suffix != ".json"
    if not log.scalars or (is_table and not any(name in log.scalars for name in LOSSES)):
        raise _without(log, None)
    return log


def find_log(path: Path) -> Found:
    """Return the only log in a file or folder; raise RequestError otherwise."""
    if path.is_file():
        return Found(path, (("", path),))
    if not (path.is_dir() and os.access(path, os.R_OK | os.X_OK)):
        raise RequestError(
            "There is no such file or folder, or it cannot be read.",
            key="RUN_DIR",
            found=path,
            allowed="a file or folder",
        )
    candidates = _dedupe(_find_in(path, MAX_DEPTH, [MAX_SEARCHED]))
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise RequestError(
            "There is neither a run of stabletrain in this folder nor a log of another tool.",
            key="RUN_DIR",
            found=path,
            allowed=f"the folder of a run; {KNOWN}",
        )
    shown = [str(found.path) for found in candidates[:MAX_NAMED]]
    more = len(candidates) - len(shown)
    raise RequestError(
        f"There are {len(candidates)} logs in this folder; name one of them.",
        key="RUN_DIR",
        found=path,
        allowed=", ".join(shown) + (f", and {more} more" if more else ""),
        closest=str(_newest(candidates).path),
        command=f"python -m stabletrain diagnose {_newest(candidates).path}",
    )


def _newest(candidates: Sequence[Found]) -> Found:
    return max(candidates, key=lambda found: max(file.stat().st_mtime for _, file in found.files))


def _dedupe(candidates: Iterator[Found]) -> list[Found]:
    return list({found.path: found for found in candidates}.values())


def _find_in(folder: Path, depth: int, left: list[int]) -> Iterator[Found]:
    """Yield the logs in a folder; those in its subfolders only if it has none itself."""
    state = folder / TRAINER_STATE
    checkpoints = sorted(folder.glob(f"{CHECKPOINTS}/{TRAINER_STATE}"), key=lambda p: p.stat().st_mtime)
    if state.is_file() or checkpoints:  # a later checkpoint has all that earlier ones have
        yield Found(folder, (("", state if state.is_file() else checkpoints[-1]),))
        return
    tables = [p for pattern in TABLES for p in sorted(folder.glob(pattern)) if p.is_file()]
    usual = [p for p in tables if p.name in USUAL_TABLES]
    if tables:
        yield from (Found(folder if len(usual or tables) == 1 else p, (("", p),)) for p in usual[:1] or tables)
        return
    below = sorted(p for p in folder.iterdir() if p.is_dir() and not p.is_symlink() and os.access(p, os.R_OK | os.X_OK))
    left[0] -= len(below) + 1
    files = [("", file) for file in event_files(folder)]
    if parts := [(f"{p.name}/", file) for p in below if _is_part(p, bool(files)) for file in event_files(p)]:
        files += parts
    if files:
        yield Found(folder.parent if folder.name == EVENTS else folder, tuple(files))
    elif depth and left[0] > 0:
        for inner in below:
            yield from _find_in(inner, depth - 1, left)


def _is_part(folder: Path, is_below: bool) -> bool:
    """Return whether the event files of a folder belong to the run above it.

    Keras writes a folder for each stage, and `SummaryWriter.add_scalars("Loss", …)` one for each curve, `Loss_train`.
    """
    files = event_files(folder)
    if not files:
        return False
    if folder.name.lower() in STAGE_WORDS:
        return True
    prefix = f"{folder.name}/"
    tags = (
        tag for n, (body, _) in enumerate(read_bodies(files[0], 0)) if n < MAX_EVENTS for tag, *_ in scalars_of(body)
    )
    return is_below and any(renamed(prefix, tag) != prefix + tag for tag in tags)


def _read(found: Found, loss: str | None) -> ForeignLog:
    file = found.files[0][1]
    if _is_event_file(file):
        return read_events(found.files, found.path, loss)
    return _reader_of(file)(file, loss)


def _is_event_file(file: Path) -> bool:
    with file.open("rb") as opened:
        header = opened.read(12)
    return len(header) == 12 and masked_crc([header[:8]]) == struct.unpack("<I", header[8:])[0]


def _reader_of(file: Path) -> Callable[[Path, str | None], ForeignLog]:
    """Return the reader of a text file; raise RequestError if it is none of the known formats."""
    with file.open("rb") as opened:
        head = opened.read(PEEK)
    if not head.strip():
        raise _unknown(file, "an empty file")
    if b"\0" in head or _num_undecodable(head) > len(head) // 20:
        raise _unknown(file, f"binary data, which begins with {head[:8].hex(' ')}")
    first = next((line for line in lines_of(file) if line.strip() and not line.startswith("#")), "")
    if first.lstrip().startswith(("{", "[")):
        fields = parse_object(first)
        if fields is not None and "log_history" not in fields:
            return read_json_lines
        if fields is not None or _mentions(file, HISTORY.encode()):
            return read_trainer_state
        if parse_object(first.rstrip().rstrip(",")) is None and not _has_objects(file):
            raise _unknown(file, f"text that begins with {first[:40]!r}")
        return read_json_lines
    header = header_of(file)
    if not header or (len(header) == 1 and usual_name(header[0]) is None):
        raise _unknown(file, f"text that begins with {first[:40]!r}")
    return read_csv


def _num_undecodable(head: bytes) -> int:
    return head.decode("utf-8", errors="replace").count("�")


def _mentions(file: Path, word: bytes) -> bool:
    with file.open("rb") as opened:
        before = b""
        while chunk := opened.read(2**20):
            if word in before + chunk:
                return True
            before = chunk[-len(word) :]
    return False


def _has_objects(file: Path) -> bool:
    return any(parse_object(line) is not None for _, line in zip(range(100), lines_of(file), strict=False))


def _unknown(file: Path, found: str) -> RequestError:
    return RequestError("This file is no log of a known format.", key=str(file), found=found, allowed=KNOWN)


def _without(log: ForeignLog, loss: str | None) -> RequestError:
    """Return the error for a log without a loss, or without the one that the user names."""
    names = [*log.read_as.values(), *log.others]
    wanted = loss or EXAMPLE
    closest = closest_name(wanted, names, cutoff=0.6) or next((n for n in names if LOSS in n.lower()), None)
    example = closest or (names[0] if names else "NAME")
    return RequestError(
        f"The log has no {loss!r}." if loss else f"The log ({log.format.name}) has no loss under a usual name.",
        key=str(log.path),
        found=", ".join(names[:MAX_NAMED]) + (", …" if len(names) > MAX_NAMED else "") if names else "no numbers",
        allowed="--loss and one of these names" if names else "loss, train_loss, train/loss, Loss/train, …",
        closest=closest,
        command=f"python -m stabletrain diagnose {log.path} --loss {json.dumps(example) if ' ' in example else example}"
        if names
        else None,
    )
