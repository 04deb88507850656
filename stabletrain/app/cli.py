"""The command line: which command, which overrides, which exit code."""

from __future__ import annotations

import argparse
import importlib
import os
import select
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from stabletrain.app.first_process import announce_composing
from stabletrain.app.help import COMMANDS, FLAGS, Flag, help_of
from stabletrain.app.lean_start.lean_imports import without_collection
from stabletrain.errors import RequestError, closest_name, require_choice
from stabletrain.vocabulary.statuses import DONE_CODE, FAILED_CODE, INTERRUPTED_CODE, WRONG_REQUEST_CODE

PIPE_CLOSED_CODE = 141  # 128 + SIGPIPE, the exit code that a shell reports


@dataclass
class Request:
    """A parsed command line; `argparse` fills it in.

    Attributes:
        command: One of `COMMANDS`.
        overrides: Hydra overrides, as they were typed.
        arguments: Folders of runs, and the flags that belong to one command.
        config_dirs: Folders with more options.
        saved: A run's `config.yaml` to start from.
        help: Whether to print the help text and stop.
        version: Whether to print the version and stop.
        show: What to print and stop: "job" for the composed configuration.
        multirun: Whether to run every combination of comma-separated values.
    """

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
    """Run one command line and return its exit code; a wrong request is explained without a traceback."""
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
        return WRONG_REQUEST_CODE
    except KeyboardInterrupt:
        print("stabletrain: interrupted", file=sys.stderr)
        return INTERRUPTED_CODE
    except BrokenPipeError:
        if _has_reader(sys.stdout):
            raise  # another pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at exit
        return PIPE_CLOSED_CODE


def _has_reader(stream: TextIO) -> bool:
    """Return whether the other end of a stream is still open; `| head` closes it after its last line."""
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLOUT)
    return not any(event & select.POLLERR for _, event in poll.poll(0))


def read_request(words: Sequence[str]) -> Request:
    """Parse a command line.

    `argparse` reads the flags; what it leaves, in its order, are folders and Hydra overrides.

    Raises:
        RequestError: An unknown command or flag, or a flag without its value.
    """
    words = list(words)
    is_named = bool(words) and "=" not in words[0] and not words[0].startswith(("-", "+", "~"))
    request = Request(command=_read_command(words.pop(0))) if is_named else Request()
    command = COMMANDS[request.command]
    try:
        _, rest = _parser((*FLAGS, *command.flags)).parse_known_args(words, request)
    except argparse.ArgumentError as error:  # the only way to misuse these flags: no value, or one too many
        flag = str(error.argument_name).partition("/")[0]
        if not error.message.startswith("expected"):
            raise RequestError(f"{flag} takes no value.", key=flag, found=error.message, allowed=flag) from error
        raise RequestError(f"{flag} needs a value.", key=flag, found="nothing", allowed=f"{flag} VALUE") from error
    if request.show is not None:
        require_choice("--cfg", request.show, ["job"])
    for word in rest:
        if word.startswith("-"):
            raise _unknown_flag(word)
        is_folder = command.takes_folders and ("=" not in word or Path(word).exists())
        (request.arguments if is_folder else request.overrides).append(word)
    return request


def _parser(flags: Sequence[Flag]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in flags:
        parser.add_argument(*flag.names, **flag.action)
    return parser


def _read_command(word: str) -> str:
    """Return the command with this name; raise RequestError if there is none."""
    from stabletrain.app.composition.paths import list_groups

    if word in COMMANDS:
        return word
    options = list_groups().get(word)
    raise RequestError(
        f"There is no command {word!r}." + (f" {word} is a group: choose one of its options." if options else ""),
        key="command",
        found=word,
        allowed=", ".join(COMMANDS),
        closest=f"{word}={options[0]}" if options else closest_name(word, COMMANDS),
    )


def _unknown_flag(word: str) -> RequestError:
    flags = [flag.names[0] for flag in FLAGS]
    return RequestError(
        f"There is no flag {word}.",
        key=word,
        found=word,
        allowed=", ".join(flags),
        closest=closest_name(word, flags),
        command="python -m stabletrain --help",
    )


def _run(request: Request) -> int:
    if request.version:
        from stabletrain.version import __version__

        print(f"stabletrain {__version__}")
        return DONE_CODE
    if request.help:
        print(help_of(request.command))
        return DONE_CODE
    if request.command == "train" and not request.show:
        announce_composing([*([request.saved] if request.saved else []), *request.overrides])
    if request.multirun:
        from stabletrain.app.commands.train import run as train
        from stabletrain.app.sweeps.multirun import run_all

        return run_all(request.overrides, train, request.config_dirs)
    has_folder = any(not argument.startswith("--") for argument in request.arguments)
    command = COMMANDS[request.command]
    if command.takes_folders and command.needs_folder and not has_folder:
        raise RequestError(
            f"{request.command} needs the folder of a run.",
            key="RUN_DIR",
            found="nothing",
            allowed="the output_dir of one or several runs",
            command=f"python -m stabletrain {request.command} runs/…",
        )
    return _run_command(request)


def _run_command(request: Request) -> int:
    with without_collection():
        from stabletrain.app.composition.compose import compose

        composition = compose(request.overrides, request.config_dirs, request.saved)
    if request.show:
        import yaml

        print(yaml.safe_dump(composition.config, sort_keys=False, allow_unicode=True), end="")
        return DONE_CODE
    try:
        command = importlib.import_module(f"stabletrain.app.commands.{request.command}")
        if composition.config["search"] is not None and request.command == "train":
            from stabletrain.app.sweeps.search import run_search

            return run_search(composition, command.run, request.config_dirs)
        return command.run(composition, request.arguments)
    except (RequestError, KeyboardInterrupt):
        raise
    except Exception:
        import traceback

        traceback.print_exc()
        return FAILED_CODE
