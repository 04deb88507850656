"""Reads `trainer_state.json`, which Hugging Face's `Trainer` saves with each checkpoint, entry by entry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stabletrain.record.foreign_logs.cells import Clock
from stabletrain.record.foreign_logs.columns import STEPS, Columns
from stabletrain.record.foreign_logs.json_lines import MIN_GAP, add_object
from stabletrain.record.foreign_logs.log import ForeignLog, make_log
from stabletrain.vocabulary import clients
from stabletrain.vocabulary.log_format import LogFormat

TRAINER_STATE = LogFormat(
    "trainer_state.json of Hugging Face's Trainer",
    client=clients.HUGGINGFACE,
    recorder="Trainer(callbacks=[stabletrain.integrations.huggingface.WatchCallback()])",
    often="TrainingArguments(logging_steps=1)",
)
HISTORY = '"log_history"'
CHUNK = 2**16  # characters read at once
MAX_ENTRY = 2**20  # characters of an entry of the history
MAX_TAIL = 2**22  # characters behind the history
SUMMARY = ("train_runtime", "train_samples_per_second")  # in the last entry, beside the mean loss of the whole training


def read_trainer_state(path: Path, loss: str | None = None) -> ForeignLog:
    """Return the history of a training. A file that breaks off is read as far as it goes.

    Args:
        path: The file.
        loss: Key of the training's loss; None to recognize it by its name.
    """
    reader = _Reader(path)
    columns, clock = Columns(loss), Clock()
    for index, entry in enumerate(reader.entries()):
        if not any(name in entry for name in SUMMARY):
            add_object(columns, clock, index, entry)
    columns.close(MIN_GAP)
    state = reader.rest()
    told = {"max_steps": state.get("max_steps"), "logging_steps": state.get("logging_steps")}
    notes = () if reader.is_complete else ("The file breaks off.",)
    return make_log(path, TRAINER_STATE, columns, STEPS, notes=notes, parameters=told)


class _Reader:
    """Reads the objects of `log_history` one by one, then what stands behind them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rest = ""
        self.is_complete = False

    def entries(self) -> Iterator[dict[str, Any]]:
        decoder = json.JSONDecoder()
        with self._path.open(encoding="utf-8-sig", errors="replace") as file:
            text = self._find_history(file)
            while text is not None:
                text = text.lstrip(" \t\r\n,")
                if text.startswith("]"):
                    self._rest = text[1:] + file.read(MAX_TAIL)
                    self.is_complete = True
                    return
                try:
                    entry, end = decoder.raw_decode(text)
                except ValueError:
                    more = file.read(CHUNK)
                    if not more or len(text) > MAX_ENTRY:
                        return
                    text += more
                    continue
                text = text[end:]
                if isinstance(entry, dict):
                    yield entry

    def _find_history(self, file: Any) -> str | None:
        """Return the text behind the bracket that opens the history, as far as it is read; None without a history."""
        text = file.read(CHUNK)
        while HISTORY not in text or "[" not in text.partition(HISTORY)[2]:
            more = file.read(CHUNK)
            if not more:
                return None
            text = text[-len(HISTORY) - CHUNK :] + more
        return text.partition(HISTORY)[2].partition("[")[2]

    def rest(self) -> dict[str, Any]:
        """Return the fields behind the history; none if they cannot be read."""
        try:
            return json.loads("{" + self._rest.strip().removeprefix(","))
        except ValueError:
            return {}
