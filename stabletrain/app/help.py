"""The commands and flags of the command line, and the help texts made from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stabletrain.app.composition.paths import list_groups
from stabletrain.app.exit_codes import MEANINGS


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        names: The long name, then short ones.
        summary: One line.
        action: Further arguments of `argparse.ArgumentParser.add_argument`; `dest` is a field of `cli.Request`.
        value: What stands for the flag's value in the help text; "" for a flag without one.
    """

    names: tuple[str, ...]
    summary: str
    action: dict[str, Any] = field(default_factory=dict)
    value: str = ""


def _switch(name: str, summary: str) -> Flag:
    """Return a flag of one command, which is handed to the command among its arguments."""
    return Flag((name,), summary, {"action": "append_const", "const": name, "dest": "arguments"})


FLAGS = (
    Flag(("--help", "-h"), "print this text; after a command, the command's own", {"action": "store_true"}),
    Flag(("--version",), "print the version", {"action": "store_true"}),
    Flag(("--cfg", "-c"), "print the composed configuration and exit", {"dest": "show"}, "job"),
    Flag(
        ("--config",),
        "start from the config.yaml of a run instead of the defaults",
        {"dest": "saved", "type": Path},
        "FILE",
    ),
    Flag(
        ("--config-dir", "-cd"),
        "add the options in DIR/<group>/<option>.yaml",
        {"action": "append", "dest": "config_dirs", "type": Path},
        "DIR",
    ),
    Flag(("--multirun", "-m"), "run every combination of comma-separated values", {"action": "store_true"}),
)


@dataclass(frozen=True)
class Command:
    """What the command line knows of a command before it imports `stabletrain.app.commands.<name>`.

    Attributes:
        summary: One line.
        usage: What follows the command's name.
        examples: Command lines, each with what it does.
        takes_folders: Whether the command takes folders of runs.
        needs_folder: Whether it needs at least one, if it takes some.
        flags: Flags of this command alone.
    """

    summary: str
    usage: str
    examples: tuple[tuple[str, str], ...]
    takes_folders: bool = False
    needs_folder: bool = True
    flags: tuple[Flag, ...] = ()


COMMANDS = {
    "train": Command(
        "compose, train, validate, test, diagnose, report (the default)",
        "[key=value …]",
        (
            ("python -m stabletrain model=rnn clip=norm", "train a recurrent network on handwritten digits"),
            (
                "python -m stabletrain model=lstm data=adding optimizer.lr=1e-2",
                "choose another model, data set and learning rate",
            ),
            (
                "python -m stabletrain experiment=vanishing_depth console=live",
                "watch a network fail to train, in a table of its layers",
            ),
            ("python -m stabletrain resume=auto output_dir=runs/mine", "resume a run"),
            ("python -m stabletrain +lr_find=true", "find the learning rate first"),
            ("python -m stabletrain -m init=normal,he norm=none,layer", "run every combination, then print a table"),
            ("python -m stabletrain search=clip model=rnn", "search for the best clipping threshold"),
            ("python -m stabletrain --cfg job model=gru", "print the configuration, run nothing"),
        ),
    ),
    "check": Command(
        "validate configuration, data and environment; train nothing",
        "[key=value …]",
        (
            (
                "python -m stabletrain check model=resnet norm=group",
                "check that these fit, print what is trained",
            ),
            ("python -m stabletrain check data=table data.path=my.csv data.target=y", "check a data file"),
        ),
    ),
    "diagnose": Command(
        "run the doctor again on a recorded run, or on the log of another tool",
        "PATH… [--replay] [--loss NAME] [--epochs]",
        (
            ("python -m stabletrain diagnose runs/mine", "print the verdict, rewrite findings.json"),
            ("python -m stabletrain diagnose runs/mine --replay", "run the step that stopped the run again"),
            (
                "python -m stabletrain diagnose lightning_logs/version_0",
                "TensorBoard events or metrics.csv; also trainer_state.json, JSON lines, any csv",
            ),
            ("python -m stabletrain diagnose log.csv doctor=strict", "exit with code 3 if something is wrong"),
        ),
        takes_folders=True,
        flags=(
            _switch("--replay", "run the step with the non-finite gradient again"),
            Flag(
                ("--loss",),
                "name of the training's loss in the log of another tool",
                {"action": "append", "type": "--loss={}".format, "dest": "arguments"},
                "NAME",
            ),
            _switch("--epochs", "take what the log of another tool calls steps for epochs"),
        ),
    ),
    "report": Command(
        "write report.html again from the record; for several runs or a sweep, one page that compares them",
        "RUN_DIR…",
        (
            ("python -m stabletrain report runs/mine", "write one self-contained page"),
            ("python -m stabletrain report runs/one runs/two", "compare two runs, in runs/compare.html"),
            ("python -m stabletrain report runs/sweep", "compare the children of a sweep"),
        ),
        takes_folders=True,
    ),
    "sync": Command(
        "ship to MLflow what is recorded and not yet there",
        "RUN_DIR…",
        (("MLFLOW_TRACKING_URI=http://127.0.0.1:5000 python -m stabletrain sync runs/mine", "ship to that server"),),
        takes_folders=True,
        flags=(_switch("--follow", "keep shipping until standard input says or shows that training has ended"),),
    ),
    "ui": Command(
        "open MLflow, TensorBoard and the live page of all runs on 127.0.0.1",
        "[RUN_DIR] [key=value …]",
        (
            ("python -m stabletrain ui", "show the runs in runs/"),
            ("python -m stabletrain ui runs/mine", "show the runs in another folder, or a single run"),
            ("python -m stabletrain ui ui.mlflow_port=5001", "use another port"),
        ),
        takes_folders=True,
        needs_folder=False,
    ),
}


def help_of(name: str) -> str:
    """Return the help text of one command; for `train`, the default, that of the whole tool."""
    command = COMMANDS[name]
    if name == "train":
        summaries = [(each, other.summary) for each, other in COMMANDS.items()]
        parts = [
            "Train deep and recurrent networks that stay stable, and see where the gradient goes.",
            "usage: python -m stabletrain [COMMAND] [key=value …]",
            _table("commands", summaries),
        ]
    else:
        parts = [f"{name}: {command.summary}", f"usage: python -m stabletrain {name} {command.usage}"]
    parts.append("examples\n" + "\n".join(f"  {line}\n      {what}" for line, what in command.examples))
    if not command.takes_folders:
        options = [(group, " ".join(options)) for group, options in list_groups().items()]
        parts.append(_table("groups and their options (group=option)", options))
    parts.append(_table("flags", [(_written(flag), flag.summary) for flag in (*command.flags, *FLAGS)]))
    parts.append(_table("exit codes", [(str(code), meaning) for code, meaning in MEANINGS.items()]))
    return "\n\n".join(parts)


def _table(heading: str, rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join([heading, *(f"  {name:<{width}}  {text}" for name, text in rows)])


def _written(flag: Flag) -> str:
    """Return the flag as the user types it, short names first: `-cd, --config-dir DIR`."""
    return " ".join([", ".join(reversed(flag.names)), flag.value]).rstrip()
