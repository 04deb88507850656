"""Help texts, made from what is there: commands, groups and options."""

from __future__ import annotations

from dataclasses import dataclass

from stabletrain.app.composition.overrides import list_groups


@dataclass(frozen=True)
class Command:
    """What the command line knows of a command before it loads it.

    Attributes:
        module: Module in `stabletrain.app.commands`.
        summary: One line.
        usage: What follows the command's name.
        examples: Command lines, each with a word on what it does.
        takes_folders: Whether it takes folders of runs; then at least one.
    """

    module: str
    summary: str
    usage: str
    examples: tuple[tuple[str, str], ...]
    takes_folders: bool = False


COMMANDS = {
    "train": Command(
        "train",
        "compose, train, validate, test, diagnose, report (the default)",
        "[key=value …]",
        (
            ("python -m stabletrain model=rnn clip=norm", "a recurrent network on handwritten digits"),
            (
                "python -m stabletrain model=lstm data=adding optimizer.lr=1e-2",
                "another family, data and learning rate",
            ),
            ("python -m stabletrain experiment=vanishing_depth", "see a network that does not train"),
            ("python -m stabletrain resume=auto output_dir=runs/mine", "go on with a run"),
            ("python -m stabletrain +lr_find=true", "look for the learning rate first"),
            ("python -m stabletrain -m init=normal,he norm=none,layer", "every combination, and a table at the end"),
            ("python -m stabletrain search=clip model=rnn", "look for the best threshold"),
            ("python -m stabletrain --cfg job model=gru", "show the configuration, run nothing"),
        ),
    ),
    "check": Command(
        "check",
        "validate configuration, data and environment; train nothing",
        "[key=value …]",
        (
            ("python -m stabletrain check model=resnet norm=group", "do these fit together, and what would be trained"),
            ("python -m stabletrain check data=table data.path=my.csv data.target=y", "is the data as it should be"),
        ),
    ),
    "diagnose": Command(
        "diagnose",
        "run the doctor again on a recorded run",
        "RUN_DIR… [--replay]",
        (
            ("python -m stabletrain diagnose runs/mine", "print the verdict, rewrite findings.json"),
            ("python -m stabletrain diagnose runs/mine --replay", "go through the step that stopped the run once more"),
        ),
        takes_folders=True,
    ),
    "report": Command(
        "report",
        "write report.html again from the record; of several runs, or of a sweep, one page that compares them",
        "RUN_DIR…",
        (
            ("python -m stabletrain report runs/mine", "one self-contained page"),
            ("python -m stabletrain report runs/one runs/two", "compare them, in runs/compare.html"),
            ("python -m stabletrain report runs/sweep", "compare the children of a sweep"),
        ),
        takes_folders=True,
    ),
    "sync": Command(
        "sync",
        "carry to MLflow what is recorded and not yet there",
        "RUN_DIR…",
        (("MLFLOW_TRACKING_URI=http://127.0.0.1:5000 python -m stabletrain sync runs/mine", "to that server"),),
        takes_folders=True,
    ),
    "ui": Command(
        "ui",
        "open MLflow and TensorBoard on 127.0.0.1",
        "[key=value …]",
        (("python -m stabletrain ui ui.mlflow_port=5001", "on another port"),),
    ),
}

FLAGS = """\
flags
  -h, --help            this text; after a command, that command's
  --version             the version
  --cfg job             print the composed configuration and stop
  --config FILE         start from the config.yaml of a run instead of the defaults
  --config-dir DIR      take further options from DIR/<group>/<option>.yaml
  -m, --multirun        run every combination of comma-separated values

exit codes
  0 done   1 the run failed   2 the request was wrong
  3 stopped by the stability policy   143 asked to stop, after saving"""


def overview() -> str:
    """Return the help text of the whole tool."""
    commands = "\n".join(f"  {name:<10} {command.summary}" for name, command in COMMANDS.items())
    return "\n\n".join(
        [
            "Train deep and recurrent networks that stay stable, and see where the gradient goes.",
            "usage: python -m stabletrain [COMMAND] [key=value …]",
            f"commands\n{commands}",
            _examples(COMMANDS["train"]),
            _options(),
            FLAGS,
        ]
    )


def help_of(name: str) -> str:
    """Return the help text of one command."""
    command = COMMANDS[name]
    parts = [f"{name}: {command.summary}", f"usage: python -m stabletrain {name} {command.usage}", _examples(command)]
    if not command.takes_folders:
        parts += [_options(), FLAGS]
    return "\n\n".join(parts)


def _examples(command: Command) -> str:
    lines = [f"  {line}\n      {what}" for line, what in command.examples]
    return "examples\n" + "\n".join(lines)


def _options() -> str:
    lines = [f"  {group:<11}{' '.join(options)}" for group, options in list_groups().items()]
    return "groups and their options (group=option)\n" + "\n".join(lines)
