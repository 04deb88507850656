"""What is said of findings: causes with what follows from them, in text and on the screen."""

from __future__ import annotations

import io
from dataclasses import replace

import rich.console

from stabletrain.app.findings_table import MAX_ROWS, advice_lines, notes_line, verdict_table
from stabletrain.diagnosis.findings_text import describe, measured, steps
from stabletrain.vocabulary.finding import Finding, by_cause


def finding(kind, severity="critical", layer="L00.a.weight", because_of=None, **evidence):
    if because_of:
        evidence["because_of"] = because_of
    return Finding(kind, severity, layer, 3, 9, evidence, "Do this.", ["init=he", "norm=layer"], ["Why.", "Because."])


CAUSE = finding("bad_init", log10_activation_change=-4.25, threshold=1.0)
SYMPTOM = finding("vanishing", "info", because_of="bad_init", severity_alone="critical")
NOTE = finding("saturation", "info")
WARNING = finding("oscillation", "warning", None)


def shown(findings):
    console = rich.console.Console(width=100, file=io.StringIO())
    table = verdict_table(findings)
    if table is not None:
        console.print(table)
    return console.file.getvalue()


def test_symptoms_stand_below_their_cause_and_the_worst_comes_first():
    assert by_cause([WARNING, CAUSE, SYMPTOM, NOTE]) == [(CAUSE, [SYMPTOM]), (WARNING, []), (NOTE, [])]


def test_a_symptom_whose_cause_is_not_there_stands_for_itself():
    assert by_cause([SYMPTOM]) == [(SYMPTOM, [])]


def test_of_two_causes_of_one_kind_the_worse_one_has_the_symptoms():
    milder = finding("bad_init", "warning", "L05.b.weight")
    assert by_cause([milder, CAUSE, SYMPTOM]) == [(CAUSE, [SYMPTOM]), (milder, [])]


def test_the_text_has_what_alarms_and_what_it_explains():
    assert describe([CAUSE, SYMPTOM, NOTE], 10) == [
        "verdict: bad_init   after 10 steps",
        "  critical bad_init in L00.a.weight, steps 3–9",
        "    Do this.",
        "    It explains: vanishing in L00.a.weight.",
    ]
    assert describe([NOTE]) == ["verdict: healthy"]


def test_the_number_that_shows_it_is_the_first_of_the_evidence():
    assert measured(CAUSE) == "log10 activation change -4.25 (threshold 1)"
    assert measured(WARNING) == ""
    assert measured(finding("nonfinite", signal="loss", is_known=True, num_nonfinite=3)) == "num nonfinite 3"


def test_the_table_is_small_and_says_where_and_when():
    lines = [line.strip() for line in shown([CAUSE, SYMPTOM, NOTE, WARNING]).splitlines() if line.strip()]
    assert lines[0].split() == ["finding", "where", "when", "shown", "by"]
    assert "critical bad_init" in lines[2]
    assert "L00.a.weight" in lines[2]
    assert "steps 3–9" in lines[2]
    assert lines[3].startswith("└ vanishing")
    assert "warning oscillation" in lines[4]
    assert "the whole model" in lines[4]
    assert len(lines) == 5
    assert shown([NOTE]) == ""


def test_many_rows_are_cut():
    many = [finding("dead_units", layer=f"L{i:02}.x") for i in range(30)]
    assert "and 18 more" in shown(many)
    assert shown(many).count("critical") == MAX_ROWS


def test_each_cause_has_its_advice_and_why_each_override_helps():
    assert advice_lines([CAUSE, SYMPTOM, NOTE]) == [
        "  [bold]bad_init[/]: Do this.",
        "    try  [bold]init=he   [/]  Why.",
        "         [bold]norm=layer[/]  Because.",
    ]


def test_what_harms_nothing_takes_one_line():
    assert notes_line([CAUSE, SYMPTOM]) is None
    assert notes_line([CAUSE, NOTE]) == "  [dim]also seen, harmless so far: saturation[/]"


def test_steps_have_separators():
    assert steps(replace(CAUSE, first_step=5, last_step=5)) == "step 5"
    assert steps(replace(CAUSE, first_step=1000, last_step=12000)) == "steps 1,000–12,000"
