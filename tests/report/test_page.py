from __future__ import annotations

import re
import time
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_fakes import INFO, healthy, nan_run, vanishing, with_all_signals

from stabletrain.record.reader import Record
from stabletrain.record.run_folder import RunFolder
from stabletrain.record.writer import RecordWriter
from stabletrain.report import explanations as words
from stabletrain.report import template
from stabletrain.report.frames import frame_steps
from stabletrain.report.page import render_report, write_report
from stabletrain.report.rerun_commands import rerun_command
from stabletrain.signal.snapshot import LayerStatistics, Snapshot
from stabletrain.vocabulary import statuses as states
from stabletrain.vocabulary.finding import HEALTHY, SEVERITIES, Finding
from stabletrain.vocabulary.kinds import KINDS

VANISHING = Finding(
    "vanishing", "critical", "L00.layers.0.weight", 3, 39, {"rms_first": 1.2e-16}, "Use relu.", ["activation=relu"]
)
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}'


def write_record(path: Path, record: Record) -> RunFolder:
    """Write a record to disk with the writer that runs use."""
    folder = RunFolder(path)
    writer = RecordWriter(folder.events)
    writer.write_info(record.info)
    steps = sorted({s for series in record.scalars.values() for s in series.steps})
    at = {name: dict(zip(v.steps, v.values, strict=True)) for name, v in record.scalars.items()}
    for step in steps:
        layers = []
        for layer in record.layers:
            rms, bad = (at[f"gradient/{kind}/{layer}"].get(step) for kind in ("rms", "nonfinite"))
            layers.append(LayerStatistics(layer, 300, rms, int(bad or 0), record.histograms.get(layer, {}).get(step)))
        writer.write_snapshot(Snapshot(step, tuple(layers)))
        others = [name for name in at if not name.startswith(("gradient/rms", "gradient/nonfinite"))]
        writer.write_scalars(step, {name: at[name][step] for name in others if step in at[name]})
    writer.close()
    return folder


class Page(HTMLParser):
    """The tags and the visible text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data


def images(page: Page) -> list[dict[str, str]]:
    return [attributes for tag, attributes in page.tags if tag == "img"]


def assert_self_contained(html: str) -> None:
    page = Page(html)
    assert not {"link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for key, value in attributes.items():
            assert not key.startswith("on"), (tag, key)
            if key in ("src", "srcset", "data", "poster"):
                assert value.startswith("data:image/png;base64,"), (tag, value[:50])
    assert "url(" not in html
    assert "@import" not in html
    assert all(image["alt"] for image in images(page))
    scripts = [attributes.get("type", "") for tag, attributes in page.tags if tag == "script"]
    assert scripts in ([], ["application/json", ""])
    assert not re.search(r"(fetch|XMLHttpRequest|import|WebSocket|sendBeacon)\s*\(", html)


def test_page_of_a_vanishing_run(tmp_path: Path):
    folder = write_record(tmp_path / "run", vanishing(6, 40))
    folder.write_findings([VANISHING])
    folder.update_summary(
        status=states.FINISHED,
        verdict="vanishing",
        metrics={"test/accuracy": 0.1034567},
        steps=40,
        seconds=83.0,
        watch_overhead=0.021,
        mlflow_url="http://127.0.0.1:5000/#/experiments/1",
    )
    path = write_report(folder)
    assert path == folder.report
    html = path.read_text()
    assert_self_contained(html)
    page = Page(html)
    for expected in (
        "✖ Vanishing gradients",
        "the layers near the input hardly learn",
        "Use relu.",
        "python -m stabletrain model=mlp data=digits model.depth=20 activation=relu",
        "0.1035",
        "1 min 23 s",
        "2.1%",
        "L00.layers.0.weight",
        "steps 3–39",
        "1bcb978",
        "123,456 parameters",
        "torch 2.13.0",
        "1,437 training examples",
    ):
        assert expected in page.text, expected
    assert len(images(page)) == 2 + 3  # curves and heatmap; ridges of the first, middle and last step
    assert ("a", "http://127.0.0.1:5000/#/experiments/1") in [(tag, a.get("href")) for tag, a in page.tags]
    assert not list(tmp_path.glob("run/.*"))


def test_healthy_is_green_and_says_so(tmp_path: Path):
    folder = write_record(tmp_path, healthy(3, 20))
    folder.update_summary(status=states.FINISHED, verdict=HEALTHY)
    page = Page(render_report(folder))
    assert ("header", {"class": "good"}) in page.tags
    assert "✔ Healthy" in page.text
    assert "No problem found." in page.text


def test_empty_folder(tmp_path: Path):
    html = render_report(RunFolder(tmp_path))
    assert_self_contained(html)
    page = Page(html)
    assert "No verdict yet" in page.text
    assert "Nothing was recorded." in page.text
    assert images(page) == []


def test_killed_run_is_not_called_healthy(tmp_path: Path):
    folder = write_record(tmp_path, healthy(3, 20))
    folder.update_summary(status=states.RUNNING, verdict=HEALTHY)
    text = Page(render_report(folder)).text
    assert "or killed since" in text
    assert "No verdict yet" in text
    folder.write_findings([VANISHING])
    assert "✖ Vanishing gradients" in Page(render_report(folder)).text


def test_failed_run_is_not_called_healthy(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.update_summary(status=states.FAILED, verdict=HEALTHY)
    assert "The run failed" in Page(render_report(folder)).text
    folder.write_findings([VANISHING])
    folder.update_summary(verdict="vanishing")
    assert "✖ Vanishing gradients" in Page(render_report(folder)).text


def test_nan_run_shows_the_step_at_which_it_broke(tmp_path: Path):
    folder = write_record(tmp_path, nan_run(3, 200))
    folder.update_summary(status=states.STOPPED, verdict="nonfinite", metrics={"val/loss": None})
    text = Page(render_report(folder)).text
    assert "Non-finite values" in text
    assert "Stopped by the stability policy" in text
    assert words.NO_NUMBER in text


def test_no_histograms_and_no_validation(tmp_path: Path):
    record = healthy(3, 20)
    record.histograms.clear()
    record.scalars = {k: v for k, v in record.scalars.items() if not k.startswith("val/")}
    page = Page(render_report(write_record(tmp_path, record)))
    assert len(images(page)) == 2
    assert not any(attributes.get("id") == "frames" for _, attributes in page.tags)


def test_everything_is_escaped(tmp_path: Path):
    record = healthy(2, 5)
    record.info = {
        **dict.fromkeys(("command", "git_commit", "experiment_name", "run_name", "started", "run_uid"), HOSTILE),
        "choices": {"model": HOSTILE, HOSTILE: HOSTILE},
        "parameters": {HOSTILE: HOSTILE},
        "versions": {HOSTILE: HOSTILE},
        "dataset": {"name": HOSTILE, "task": HOSTILE},
    }
    folder = write_record(tmp_path, record)
    folder.write_findings([Finding("vanishing", "critical", HOSTILE, 0, 1, {HOSTILE: HOSTILE}, HOSTILE, [HOSTILE])])
    folder.update_summary(
        status=HOSTILE,
        verdict=HOSTILE,
        metrics={HOSTILE: 1.0},
        mlflow_url="javascript:alert(3)",
        resumed_from=HOSTILE,
    )
    html = render_report(folder)
    assert_self_contained(html)
    assert "<script>alert" not in html
    assert "49" not in re.sub(r"base64,\S+", "", html).replace(HOSTILE, "")  # the template in the name was not run
    assert not any(a.get("href") for _, a in Page(html).tags)


def test_info_of_unexpected_shape(tmp_path: Path):
    record = healthy(2, 5)
    record.info = {"command": ["python", "x y"], "choices": None, "dataset": [], "versions": 3, "num_parameters": "?"}
    assert "x y" in render_report(write_record(tmp_path, record))


@pytest.mark.slow
def test_size_and_time_of_a_large_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    record = with_all_signals(vanishing(200, 1000, num_histograms=100))
    monkeypatch.setattr("stabletrain.report.page.load_bounded", lambda path: record)  # writing it takes too long
    folder = RunFolder(tmp_path)
    folder.write_findings([VANISHING] * 200)
    start = time.process_time()
    html = render_report(folder)
    assert time.process_time() - start < 30  # about 6 s on two cores
    assert len(html.encode()) < 3_000_000
    assert "192 more" in html


def test_every_asset_is_used_and_packaged():
    there = {path.name for path in template.ASSETS.iterdir() if path.is_file()}
    assert there == {*template.SCRIPTS, "page.html", "page.css", "compare.html", "compare.css"}
    settings = tomllib.loads((template.ASSETS.parents[2] / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["package-data"]["stabletrain.report"] == ["assets/*"]


def test_frames_hold_the_ends_and_the_first_nonfinite_step():
    record = nan_run(2, 200)
    histogram = next(iter(record.histograms.values()))[0]
    histograms = {"L0.w": dict.fromkeys(range(0, 200, 4), histogram)}
    steps = frame_steps(record, histograms, 6)
    assert len(steps) <= 7
    assert {0, 176, 180, 196} <= set(steps)
    assert frame_steps(record, histograms, 3)[-1] == 196
    assert frame_steps(Record(), {}, 6) == []


def test_every_verdict_and_status_has_words():
    for kind in (HEALTHY, *KINDS):
        heading, sentence = words.VERDICTS[kind]
        assert heading
        assert sentence.endswith(".")
    assert set(words.SEVERITY_SIGNS) == set(SEVERITIES)
    assert set(words.STATUSES) == {
        states.RUNNING,
        states.FINISHED,
        states.FAILED,
        states.STOPPED,
        states.TERMINATED,
    }
    assert words.verdict_words("never_heard_of") == ("Never heard of", "")


def test_numbers_in_words():
    assert [words.number(v) for v in (None, 3, 12345, 0.123456, 1e-9, float("nan"), "x", True)] == [
        "—",
        "3",
        "12,345",
        "0.1235",
        "1e-09",
        "not finite",
        "x",
        "True",
    ]
    assert [words.duration(v) for v in (0.5, 83, 7512, None, float("inf"))] == [
        "0.5 s",
        "1 min 23 s",
        "2 h 05 min",
        "—",
        "—",
    ]


@pytest.mark.parametrize(
    ("info", "override", "expected"),
    [
        (INFO, "model.depth=4", "model=mlp data=digits model.depth=4"),
        (INFO, "clip=norm", "model=mlp data=digits model.depth=20 clip=norm"),
        ({"command": "stabletrain init=normal init.std=0.3 initial=1"}, "init=he", "initial=1 init=he"),
        ({"command": "stabletrain model=rnn model.depth=3 +model.x=1"}, "model=lstm", "model.depth=3 model=lstm"),
        ({"command": "stabletrain train a=1 +b.c=2"}, "b.c=3", "train a=1 b.c=3"),
        ({"command": "stabletrain a=1 init=normal init.std=1"}, "b=2 init=he", "a=1 b=2 init=he"),
        ({"command": ["/x/stabletrain/__main__.py", "a=[1,2]"]}, "b=2", "'a=[1,2]' b=2"),
        ({"command": "python -m stabletrain run_name='my run' a='x y'"}, "b=2", "'a=x y' b=2"),
        ({"command": "stabletrain -m a=1,2", "choices": {"model": "lstm"}}, "init=he", "model=lstm init=he"),
        ({"choices": {"model": "lstm", "init": "normal"}}, "init=he", "model=lstm init=he"),
        ({"command": "stabletrain 'a=1"}, "b=2", "b=2"),
        ({}, "b=$(rm x)", "'b=$(rm x)'"),
    ],
)
def test_rerun_command(info: dict, override: str, expected: str):
    assert rerun_command(info, override) == f"python -m stabletrain {expected}"
