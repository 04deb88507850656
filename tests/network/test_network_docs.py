"""The documentation of models and parts: every option has a heading, and the commands shown are valid."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = {"model": "models", "activation": "activation", "norm": "normalization", "residual": "residual"}


def read_page(group):
    return (ROOT / "docs" / f"{PAGES[group]}.md").read_text()


def read_options(group):
    return {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "conf" / group).glob("*.yaml")}


def read_sections(group):
    """Return the text under each second-level heading."""
    parts = re.split(r"^## (.+)$", read_page(group), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("group", PAGES)
def test_every_option_has_a_heading_with_its_use_cost_and_override(group):
    sections = read_sections(group)
    options = read_options(group)
    assert set(options) <= set(sections)
    named = {heading for heading in sections if re.fullmatch(r"[a-z_0-9]+", heading)}
    assert named == set(options)
    for option in options:
        assert "When:" in sections[option], option
        assert "Cost:" in sections[option], option
        overrides = " ".join(re.findall(r"python -m stabletrain (.+)", sections[option]))
        assert f"{group}={option}" in overrides.split(), option


def test_every_option_of_the_parts_was_measured():
    for group in ("activation", "norm", "residual"):
        table = read_sections(group)["What it costs"]
        assert set(re.findall(r"^\| (\w+) \| [\d–]", table, flags=re.MULTILINE)) == set(read_options(group))
    families = set(re.findall(r"^\| (\w+) \| [\d,]+ \|", read_sections("model")["What it costs"], flags=re.MULTILINE))
    assert families == set(read_options("model")) - {"custom"}


def test_parameters_of_the_families_are_those_of_the_configuration():
    sections, options = read_sections("model"), read_options("model")
    for family in set(options) - {"custom"}:
        line = re.search(r"^Parameters: (.+?)\n\n", sections[family], flags=re.MULTILINE | re.DOTALL)[1]
        line = re.search(r"^Parameters: (.+?)\n\n", sections["rnn"], re.M | re.S)[1] if line == "as `rnn`." else line
        written = {name: yaml.safe_load(value) for name, value in re.findall(r"`(\w+)` (\d+\.\d+|\w+)", line)}
        configured = {k: v for k, v in options[family].items() if k not in ("_target_", "defaults")}
        assert written == configured, family


COMMANDS = [line for group in PAGES for line in re.findall(r"^python -m stabletrain (.+)$", read_page(group), re.M)]


@pytest.mark.parametrize("line", COMMANDS)
def test_the_overrides_name_what_is_there(line):
    pairs = dict(word.split("=") for word in line.split())
    chosen = {"model": "mlp", "activation": "relu", "data": "digits"} | {k: v for k, v in pairs.items() if "." not in k}
    for key in pairs:
        group, _, parameter = key.partition(".")
        path = ROOT / "conf" / group / f"{chosen[group]}.yaml"
        assert path.exists(), key
        settings = yaml.safe_load(path.read_text())
        assert not parameter or parameter in settings or chosen[group] == "custom", key
