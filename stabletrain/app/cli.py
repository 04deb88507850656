"""The command line: which command, which overrides, which exit code."""

from __future__ import annotations

import importlib
import os
import select
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from stabletrain.errors import RequestError, closest_name, require_choice

WRONG_REQUEST = 2
FAILED = 1
PIPE_CLOSED = 141  # 128 + SIGPIPE, as a shell says it


@dataclass
class Request:
    """A command line, taken apart."""

    command: str = "train"
    overrides: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    config_dirs: list[Path] = field(default_factory=list)
    saved: Path | None = None
    help: bool = False
    version: bool = False
    show: str | None = None
    multirun: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; a wrong request is explained, without a traceback."""
    words = list(sys.argv[1:] if argv is None else argv)
    request = Request()
    try:
        request = read_request(words)
        code = _run(request)
        sys.stdout.flush()
        return code
    except RequestError as error:
        from stabletrain.app.composition.suggestions import complete

        complete(error, request.command, request.overrides, request.config_dirs)
        print(f"stabletrain: {error}", file=sys.stderr)
        return WRONG_REQUEST
    except KeyboardInterrupt:
        print("stabletrain: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        if _has_readers(sys.stdout):
            raise  # another pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what Python flushes at exit goes nowhere
        return PIPE_CLOSED


def _has_readers(stream: TextIO) -> bool:
    """Whether somebody still reads what is written; not so behind `| head`, once that has seen enough."""
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLOUT)
    return not any(event & select.POLLERR for _, event in poll.poll(0))


def read_request(words: Sequence[str]) -> Request:
    """Take a command line apart.

    Raises:
        RequestError: An unknown command or flag, or a word that is neither.
    """
    from stabletrain.app.help import COMMANDS

    request = Request()
    queue = list(words)
    if queue and _is_name(queue[0]):
        request.command = read_command(queue.pop(0))
    while queue:
        word = queue.pop(0)
        if word in ("-h", "--help"):
            request.help = True
        elif word == "--version":
            request.version = True
        elif word in ("-m", "--multirun"):
            request.multirun = True
        elif word.partition("=")[0] in ("--cfg", "-c"):
            request.show = require_choice("--cfg", _value(word, queue, "--cfg"), ["job"])
        elif word.partition("=")[0] in ("--config-dir", "-cd"):
            request.config_dirs.append(Path(_value(word, queue, "--config-dir")))
        elif word.partition("=")[0] == "--config":
            request.saved = Path(_value(word, queue, "--config"))
        elif (word, request.command) in (("--follow", "sync"), ("--replay", "diagnose")):
            request.arguments.append(word)
        elif word.startswith("-"):
            raise _unknown_flag(word)
        elif COMMANDS[request.command].takes_folders and ("=" not in word or Path(word).exists()):
            request.arguments.append(word)
        else:
            request.overrides.append(word)
    return request


def read_command(word: str) -> str:
    """Return the command that a word names; raise RequestError if there is none."""
    from stabletrain.app.composition.overrides import list_groups
    from stabletrain.app.help import COMMANDS

    if word in COMMANDS:
        return word
    group = word if word in list_groups() else None
    raise RequestError(
        f"There is no command {word!r}." + (f" {word} is a group: choose one of its options." if group else ""),
        key="command",
        found=word,
        allowed=", ".join(COMMANDS),
        closest=f"{group}={list_groups()[group][0]}" if group else closest_name(word, COMMANDS),
    )


def _is_name(word: str) -> bool:
    return "=" not in word and not word.startswith(("-", "+", "~"))


def _value(word: str, queue: list[str], flag: str) -> str:
    _, equals, value = word.partition("=")
    if equals:
        return value
    if not queue:
        raise RequestError(f"{flag} needs a value.", key=flag, found="nothing", allowed=f"{flag} VALUE")
    return queue.pop(0)


def _unknown_flag(word: str) -> RequestError:
    flags = ["--help", "--version", "--cfg", "--config", "--config-dir", "--multirun"]
    return RequestError(
        f"There is no flag {word}.",
        key=word,
        found=word,
        allowed=", ".join(flags),
        closest=closest_name(word, flags),
        command="python -m stabletrain --help",
    )


def _run(request: Request) -> int:
    from stabletrain.app.help import COMMANDS, help_of, overview

    if request.version:
        from stabletrain import __version__

        print(f"stabletrain {__version__}")
        return 0
    if request.help:
        print(help_of(request.command) if request.command != "train" else overview())
        return 0
    if request.multirun:
        from stabletrain.app.sweeps.multirun import run_all

        return run_all(request.overrides, request.config_dirs)
    command = COMMANDS[request.command]
    if command.takes_folders and not [a for a in request.arguments if not a.startswith("--")]:
        raise RequestError(
            f"{request.command} needs the folder of a run.",
            key="RUN_DIR",
            found="nothing",
            allowed="the output_dir of one run or several",
            command=f"python -m stabletrain {request.command} runs/…",
        )
    return _run_command(request, command.module)


def _run_command(request: Request, module: str) -> int:
    from stabletrain.app.composition.compose import compose

    composition = compose(request.overrides, request.config_dirs, request.saved)
    if request.show:
        import yaml

        print(yaml.safe_dump(composition.config, sort_keys=False, allow_unicode=True), end="")
        return 0
    try:
        if composition.config["search"] is not None and request.command == "train":
            from stabletrain.app.sweeps.search import run_search

            return run_search(composition, request.config_dirs)
        return importlib.import_module(f"stabletrain.app.commands.{module}").run(composition, request.arguments)
    except (RequestError, KeyboardInterrupt):
        raise
    except Exception:
        import traceback

        traceback.print_exc()
        return FAILED
