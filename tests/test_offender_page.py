"""The page on the first offender: every phase has its row, and its example prints what it says."""

import re
from pathlib import Path

from stabletrain.signal.offender import PHASES

PAGE = (Path(__file__).parents[1] / "docs/offender.md").read_text()


def test_every_phase_has_its_row():
    header, *phases = re.findall(r"^\| `(\w+)` \|", PAGE, re.M)
    assert (header, tuple(phases)) == ("phase", PHASES)


def test_the_plain_loop_prints_what_the_page_says(capsys):
    code, output = re.search(r"```python\n(.+?)```\n\n```\n(.+?)```", PAGE, re.S).groups()
    exec(compile(code, "docs/offender.md", "exec"), {})
    assert capsys.readouterr().out == output
