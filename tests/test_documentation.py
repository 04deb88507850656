"""The documentation as a whole: links and anchors resolve, the glossary is in order, the README stays short."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docker/README.md", *sorted((ROOT / "docs").glob("*.md"))]
GLOSSARY = (ROOT / "docs/glossary.md").read_text()


def without_code(text):
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def anchors_of(page):
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if target.startswith(("http:", "https:")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors_of(linked), target


def test_a_link_to_a_missing_heading_is_noticed():
    assert "vanishing" in anchors_of(ROOT / "docs/doctor.md")
    assert "when-a-finding-becomes-an-alarm" in anchors_of(ROOT / "docs/doctor.md")
    assert "vanished" not in anchors_of(ROOT / "docs/doctor.md")


def test_the_glossary_has_each_term_once_in_order_with_a_link():
    entries = re.findall(r"^- \*\*(.+?)\*\*: (.+?)(?=\n- |\n*\Z)", GLOSSARY, re.M | re.DOTALL)
    terms = [term.lower() for term, _ in entries]
    assert len(terms) == GLOSSARY.count("\n- ") > 50
    assert terms == sorted(set(terms))
    assert [term for term, text in entries if "](" not in text] == []


def test_the_readme_is_short_and_names_the_command_that_ci_runs():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if "-m pytest" in line] == [
        "python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e '.[test]'"
        " && .venv/bin/python -m pytest -q -n 2 --dist loadfile"
    ]
