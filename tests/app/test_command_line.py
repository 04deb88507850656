"""What the command line's front makes of its words: flags, folders, overrides and the help texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from stabletrain.app.building import build_trainer
from stabletrain.app.cli import Request, main, read_request
from stabletrain.app.composition.override_text import group_of, key_of, value_of, without
from stabletrain.app.composition.suggestions import complete
from stabletrain.app.exit_codes import MEANINGS, WORDS
from stabletrain.app.help import COMMANDS, FLAGS, help_of
from stabletrain.errors import RequestError
from stabletrain.vocabulary.statuses import EXIT_CODES


@pytest.mark.parametrize(
    ("line", "request_"),
    [
        ("", Request()),
        ("model=rnn +a=b ~c a=[1,2]", Request(overrides=["model=rnn", "+a=b", "~c", "a=[1,2]"])),
        ("+model.x=1 -m seed=0,1", Request(overrides=["+model.x=1", "seed=0,1"], multirun=True)),
        ("--multirun seed=0,1", Request(overrides=["seed=0,1"], multirun=True)),
        ("a=1 --config x.yaml b=2", Request(overrides=["a=1", "b=2"], saved=Path("x.yaml"))),
        ("--config=x.yaml", Request(saved=Path("x.yaml"))),
        ("--cfg job model=gru", Request(overrides=["model=gru"], show="job")),
        ("-c job", Request(show="job")),
        ("--config-dir a -cd b clip=mine", Request(overrides=["clip=mine"], config_dirs=[Path("a"), Path("b")])),
        ("train a=-1", Request(overrides=["a=-1"])),
        ("check --help", Request("check", help=True)),
        ("-h", Request(help=True)),
        ("--version", Request(version=True)),
        ("diagnose x y --replay", Request("diagnose", arguments=["--replay", "x", "y"])),
        ("sync x --follow", Request("sync", arguments=["--follow", "x"])),
        ("report x output_dir=y", Request("report", overrides=["output_dir=y"], arguments=["x"])),
    ],
)
def test_words_are_sorted_into_flags_folders_and_overrides(line, request_):
    assert read_request(line.split()) == request_


@pytest.mark.parametrize(
    ("line", "key", "closest"),
    [
        ("--hlep", "--hlep", "--help"),
        ("--conf x", "--conf", "--config"),  # flags are not abbreviated
        ("train --replay", "--replay", None),  # a flag of another command
        ("--config", "--config", None),
        ("--help=3", "--help", None),
        ("--cfg hydra", "--cfg", None),
        ("trainn", "command", "train"),
    ],
)
def test_a_wrong_flag_or_command_is_refused(line, key, closest):
    with pytest.raises(RequestError) as caught:
        read_request(line.split())
    assert caught.value.key == key
    if closest is not None:
        assert caught.value.closest == closest


def test_a_run_keeps_no_arguments_of_the_one_before():
    assert read_request(["-cd", "a"]).config_dirs == [Path("a")]
    assert read_request([]) == Request()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_has_its_flags_and_all_exit_codes(name):
    text = help_of(name)
    for flag in (*FLAGS, *COMMANDS[name].flags):
        assert flag.summary in text
        assert all(each in text for each in flag.names)
    assert all(f"  {code:<3}  {meaning}\n" in f"{text}\n" for code, meaning in MEANINGS.items())
    assert ("group=option" in text) == (not COMMANDS[name].takes_folders)


def test_every_exit_code_has_its_words():
    assert set(EXIT_CODES.values()) <= set(MEANINGS) == set(WORDS)
    assert MEANINGS[EXIT_CODES["stopped"]] == "stopped by the stability policy"
    assert WORDS[EXIT_CODES["terminated"]] == "asked to stop"


@pytest.mark.parametrize(
    ("fix", "typed", "line"),
    [
        ("python -m pip install x", ["a=1"], "python -m pip install x"),
        ("export A=1", ["a=1"], "export A=1"),
        ("stabletrain sync x", ["a=1"], "python -m stabletrain sync x"),
        ("a=2", ["+a=1", "b=1"], "python -m stabletrain b=1 a=2"),
        ("~m.a ~m.b", ["m.a=1", "c=1"], "python -m stabletrain c=1 '~m.b'"),
    ],
)
def test_a_proposed_fix_becomes_a_whole_command(fix, typed, line):
    error = RequestError("Wrong.", key="a", command=fix)
    complete(error, "train", typed)
    assert error.command == line


def test_a_fix_is_checked_before_it_is_trained():
    error = RequestError("Wrong.", key="a", command="a=2")
    complete(error, "check", ["a=1"])
    assert error.command == "python -m stabletrain check a=2"


def test_the_parts_of_an_override():
    texts = ["model.width=3", "+model.x=a=b", "~model", "++a=1", "model"]
    assert [key_of(text) for text in texts] == ["model.width", "model.x", "model", "a", "model"]
    assert [value_of(text) for text in texts] == ["3", "a=b", "", "1", ""]
    assert [group_of(text) for text in texts] == ["model", "model", "model", "a", "model"]
    assert without(texts, ("model", "a")) == ["model.width=3", "+model.x=a=b"]


def test_a_logger_whose_package_is_missing_names_the_command_that_installs_it(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(build_trainer.OPTIONAL_PACKAGES, "pytorch_lightning.loggers.WandbLogger", "wandb_is_missing")
    assert main(["check", "logger=wandb"]) == 2
    error = capsys.readouterr().err
    assert "key      logger.wandb\n" in error
    assert "fix      python -m pip install 'stabletrain[wandb_is_missing]'\n" in error
    assert list(tmp_path.iterdir()) == []
