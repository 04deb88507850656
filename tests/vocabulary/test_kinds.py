"""Every kind of finding is whole: rules, remedies, words, a place in the documentation, and names that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stabletrain.diagnosis.doctor import diagnose  # its package registers the rules
from stabletrain.vocabulary import kinds
from stabletrain.vocabulary.kinds import DOCUMENTATION, KINDS, Kind

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = (
    *("vanishing", "exploding", "time_vanishing", "time_exploding", "nonfinite", "dead_units", "saturation"),
    *("bad_init", "loss_spike", "oscillation", "no_progress", "lr_too_high", "lr_too_low"),
    *("clip_ineffective", "clip_always"),
    *("gradients_accumulate", "not_optimized", "no_gradient", "output_activation", "input_scale", "target_scale"),
    *("shape_mismatch", "wrong_mode"),
)


def test_the_kinds_are_those_that_users_rely_on():
    assert diagnose.__module__ == "stabletrain.diagnosis.doctor"
    assert set(CONTRACT) <= set(KINDS)
    objects = [x for x in vars(kinds).values() if isinstance(x, Kind)]
    assert {x.name: x for x in objects} == KINDS, "a kind that is not in KINDS has no rule run"


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_kind_is_whole(kind):
    assert kind.rules
    assert len(kind.remedies) == 1
    for sentence in (kind.meaning, kind.advice):
        assert re.fullmatch(r"[A-Z].*\.", sentence), sentence
    assert kind.heading[0].isupper()
    assert not kind.heading.endswith(".")
    assert not kind.in_code.endswith(".")
    headings = re.findall(r"^## (\S+)$", (ROOT / DOCUMENTATION).read_text(), re.M)
    assert kind.anchor.partition("#")[2] in headings


def test_what_a_kind_explains_exists():
    for kind in KINDS.values():
        assert kind.name not in kind.explains
        assert set(kind.explains) | set(kind.yields_to) <= set(KINDS)


def test_of_two_that_explain_each_other_one_yields():
    for a in KINDS.values():
        mutual = {name for name in a.explains if a.name in KINDS[name].explains}
        assert set(a.yields_to) <= mutual
        for name in mutual:
            assert (name in a.yields_to) + (a.name in KINDS[name].yields_to) == 1, (a.name, name)


def test_no_kind_is_a_literal_outside_the_vocabulary():
    package = Path(kinds.__file__).resolve().parents[1]
    literal = re.compile(r'"({})"'.format("|".join(set(KINDS) - {"nonfinite"})))  # also the name of a statistic
    files = [path for path in package.rglob("*.py") if path.parent.name != "vocabulary"]
    found = {(path.name, text) for path in files for text in literal.findall(path.read_text())}
    assert found == set(), "import the kind from stabletrain.vocabulary.kinds"
    assert literal.findall('kind="vanishing"') == ["vanishing"]
