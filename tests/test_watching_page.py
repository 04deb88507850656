"""The page on watching: each option has its heading, each signal its row, and what it says to type is accepted."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from stabletrain.app.composition.compose import compose
from stabletrain.vocabulary.signals import SIGNALS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/watching.md").read_text()
OPTIONS = sorted(path.stem for path in (ROOT / "conf/watch").glob("*.yaml"))
LINES = re.findall(r"^python -m stabletrain (?!report)(.+)$", PAGE, re.M) + re.findall(
    r"\*\*Override:\*\* `(.+)`", PAGE
)


def test_every_option_has_a_heading_with_its_use_cost_and_override():
    parts = re.split(r"^###? (.+)$", PAGE, flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert sorted(h for h in sections if re.fullmatch(r"[a-z_]+", h)) == OPTIONS
    for option in OPTIONS:
        for word in ("**When:**", "**Cost:**", f"**Override:** `watch={option}"):
            assert word in sections[option], option
        assert f"[{option}](#{option})" in PAGE


def test_every_signal_has_its_row():
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, re.M)
    assert rows == list(SIGNALS)


@pytest.mark.parametrize("line", LINES)
def test_the_overrides_are_accepted(line):
    words = shlex.split(line)
    watch = compose(words).config["watch"]
    for key, value in (word.split("=") for word in words):
        if key.startswith("watch."):
            assert watch[key.removeprefix("watch.")] == yaml.safe_load(value)


def test_the_plain_loop_prints_what_the_page_says(capsys):
    code, output = re.search(r"```python\n(import torch\n.+?)```\n\n```\n(.+?)```", PAGE, re.S).groups()
    exec(compile(code, "docs/watching.md", "exec"), {})
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()] == [line.split()[0] for line in output.splitlines()]
    assert re.findall(r"rms (\S+)", printed)[-1] == re.findall(r"rms (\S+)", output)[-1]


def test_the_pictures_are_there():
    pictures = re.findall(r"\]\((pictures/.+?)\)", PAGE)
    assert len(pictures) == 3
    assert [p for p in pictures if not (ROOT / "docs" / p).is_file()] == []
