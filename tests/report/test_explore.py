"""The report in a real browser: the drawings and the texts of its script."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from report_fakes import SPARSE, exploding, healthy, nan_run, vanishing, with_all_signals

from stabletrain.record.reader import Record, Series
from stabletrain.record.run_folder import RunFolder
from stabletrain.report.page import write_report
from stabletrain.report.pictures.drawing import text_picture
from stabletrain.vocabulary.finding import Finding

HOSTILE = '</script><img src=x onerror="document.title=1">'


ONE_PIXEL = text_picture(1, 1, "")


class Opened:
    """A report in a browser, with the messages and the requests of the browser."""

    def __init__(self, context: Any, path: Path, scripted: bool) -> None:
        self.page = context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        if scripted:
            self.settle()

    def settle(self) -> None:
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def readout(self) -> str:
        self.settle()
        return self.page.inner_text("#readout")

    def canvas(self, name: str) -> np.ndarray:
        self.settle()
        png = self.page.locator(f"#{name}").screenshot()
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)

    def hover(self, row: float, column: float) -> None:
        """Move the pointer over the heatmap, to a place given as fractions of its height and width."""
        box = self.page.locator("#heatmap").bounding_box()
        left, top, right, bottom = 168, 24, box["width"] - 8, box["height"] - 88
        self.page.mouse.move(box["x"] + left + column * (right - left), box["y"] + top + row * (bottom - top))


@pytest.fixture
def open_report(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    contexts = []

    def open_it(
        record: Record, findings: tuple[Finding, ...] = (), *, pictures: bool = False, **options: Any
    ) -> Opened:
        for name in () if pictures else ("curves", "heatmap", "ridges", "time_surface", "update_ratios", "clipping"):
            monkeypatch.setattr(
                f"stabletrain.report.static_images.draw_{name}", lambda *_, **__: ONE_PIXEL
            )  # drawing is slow
        monkeypatch.setattr("stabletrain.report.page.load_bounded", lambda path: record)
        folder = RunFolder(tmp_path)
        folder.write_findings(list(findings))
        folder.update_summary(status="finished", verdict=findings[0].kind if findings else "healthy")
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 1600}, **options}))
        return Opened(contexts[-1], write_report(folder), options.get("java_script_enabled", True))

    yield open_it
    for context in contexts:
        context.close()


def test_hover_says_layer_step_and_rms_and_leaving_returns(open_report: Callable[..., Opened]):
    record = vanishing(10, 50)
    report = open_report(record)
    assert report.readout().startswith(f"{record.layers[0]} · step 49 · rms of g ")
    report.hover(3.5 / 10, 20.5 / 50)
    said = report.readout()
    assert said.startswith(f"{record.layers[3]} · step 20 · rms of g ")
    mantissa, _, exponent = said.split("rms of g ")[1].split(" · ")[0].partition("·10")
    value = float(mantissa) * 10.0 ** int(exponent.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")))
    assert value == pytest.approx(record.scalars[f"gradient/rms/{record.layers[3]}"].values[20], rel=0.01)
    assert "300 elements" in said
    assert "4% zero" in said
    report.page.mouse.move(2, 2)
    assert report.readout().startswith(f"{record.layers[0]} · step 49 ·")
    assert report.complaints == []
    assert all(url.startswith(("file:", "data:")) for url in report.requests)


def test_click_and_arrow_keys_choose_for_good(open_report: Callable[..., Opened]):
    record = vanishing(10, 50)
    report = open_report(record)
    report.hover(3.5 / 10, 20.5 / 50)
    report.page.mouse.down()
    report.page.mouse.up()
    report.page.mouse.move(2, 2)
    assert report.readout().startswith(f"{record.layers[3]} · step 20 ·")
    assert report.page.eval_on_selector("#layer", "e => e.selectedOptions[0].textContent") == record.layers[3]
    report.page.focus("#heatmap")
    for key in ("ArrowDown", "ArrowLeft", "ArrowLeft"):
        report.page.keyboard.press(key)
    assert report.readout().startswith(f"{record.layers[4]} · step 18 ·")
    report.page.keyboard.press("Home")
    assert "step 0 ·" in report.readout()
    assert "step 0 ·" in report.page.get_attribute("#heatmap", "aria-label")


def test_slider_moves_hills_and_distribution(open_report: Callable[..., Opened]):
    record = exploding(6, 90)  # gradients grow by five orders of magnitude
    report = open_report(record)
    places = []
    for key, step in (("Home", 0), ("End", 89)):
        report.page.focus("#step")
        report.page.keyboard.press(key)
        assert f"· step {step} ·" in report.readout()
        assert report.page.inner_text("#shown") == f"step {step}"
        bars = report.canvas("distribution")[20:150]
        places.append(np.flatnonzero((bars[..., 2] - bars[..., 0] > 120).any(axis=0)).mean())
    assert places[1] > places[0] + 200
    last = report.canvas("ridges")
    report.page.focus("#step")
    report.page.keyboard.press("ArrowLeft")
    assert (report.canvas("ridges") != last).any(axis=2).mean() > 0.005
    report.page.select_option("#layer", index=4)
    assert report.readout().startswith(record.layers[4])


def test_play_runs_to_the_end(open_report: Callable[..., Opened]):
    report = open_report(healthy(3, 30))
    seen = report.page.evaluate("""() => new Promise(done => {
        const shown = document.querySelector("#shown"), seen = [];
        const note = () => { if (seen.push(shown.textContent) > 1 && shown.textContent === "step 29") done(seen); };
        new MutationObserver(note).observe(shown, {childList: true, characterData: true, subtree: true});
        document.querySelector("#play").click();
    })""")  # every text that it showed, however briefly
    assert "step 4" in seen  # at the end, it starts again from the beginning
    report.page.locator("#play", has_text="Play").wait_for()
    assert report.page.inner_text("#shown") == "step 29"


def test_other_signals_and_sections(open_report: Callable[..., Opened]):
    report = open_report(with_all_signals(healthy(4, 40)))
    page = report.page
    assert page.locator("#signal option").count() == 8
    page.select_option("#signal", label="activation")
    assert "rms of a" in report.readout()
    assert report.readout().startswith("L000.layers.0.part")
    page.select_option("#signal", label="update ratio ‖ΔW‖/‖W‖")
    assert "‖ΔW‖/‖W‖" in report.readout()
    for section in ("#time-charts", "#ratio-charts", "#clip-charts", "#charts"):
        assert page.locator(f"{section} canvas").count() >= 1
        assert page.locator(section).is_visible()
    page.locator("#time-charts canvas").first.focus()
    page.keyboard.press("ArrowDown")
    report.settle()
    assert page.locator("#time-charts .readout").first.inner_text().startswith("t = 1 · step")
    assert report.complaints == []


def top_and_bottom(report: Opened) -> tuple[float, float]:
    image = report.canvas("heatmap")
    cells = image[24 : image.shape[0] - 88, 230 : image.shape[1] - 40] @ [0.299, 0.587, 0.114]
    return cells[30:70].mean(), cells[-70:-30].mean()


def test_three_runs_are_told_apart(open_report: Callable[..., Opened]):
    good, gone, big = (top_and_bottom(open_report(make(20, 60))) for make in (healthy, vanishing, exploding))
    assert abs(good[0] - good[1]) < 30
    assert gone[0] < gone[1] - 60  # dark at the top
    assert gone[0] < good[0] - 30
    assert big[0] > good[0] + 40  # brighter than any healthy one


def test_nonfinite_cells_are_red_and_hatched(open_report: Callable[..., Opened]):
    report = open_report(nan_run(5, 200))
    image = report.canvas("heatmap")
    right = image[40 : image.shape[0] - 100, -60:-20]
    red = (right[..., 0] > 150) & (right[..., 1] < 120)
    assert 0.6 < red.mean() < 0.98
    report.hover(0.5, 0.95)
    assert "no finite value recorded · ✖ Inf/NaN" in report.readout()


def test_a_finding_is_a_button_that_goes_there(open_report: Callable[..., Opened]):
    record = vanishing(10, 50)
    report = open_report(record, (Finding("vanishing", "critical", record.layers[6], 30, 49, {}, "Do."),))
    report.page.click("#marks button")
    assert report.readout().startswith(f"{record.layers[6]} · step 30 ·")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_fits_the_window(open_report: Callable[..., Opened], scheme: str, width: int):
    record = with_all_signals(vanishing(6, 40))
    report = open_report(record, viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert report.page.evaluate("document.documentElement.scrollWidth") <= width
    assert report.complaints == []
    background = report.canvas("heatmap")[2, 2].mean()
    assert (background > 200) == (scheme == "light")


def test_pictures_without_the_script_and_on_paper(open_report: Callable[..., Opened]):
    record = with_all_signals(healthy(4, 40))
    bare = open_report(record, pictures=True, java_script_enabled=False)
    num_pictures = bare.page.locator(".still img").count()
    assert num_pictures == 8
    assert all(bare.page.locator(".still img").nth(k).is_visible() for k in range(num_pictures))
    assert not bare.page.locator("#heatmap").is_visible()
    report = open_report(record)
    assert not report.page.locator(".still img").first.is_visible()
    report.page.emulate_media(media="print")
    assert report.page.locator(".still img").first.is_visible()
    assert not report.page.locator("#heatmap").is_visible()


@pytest.mark.parametrize(
    "record",
    [
        *SPARSE.values(),
        Record(scalars={"train/loss": Series([3], [1.0])}),
        Record(vectors={"time/norm/a": {0: np.full(4, math.nan)}}),
        Record(scalars={f"gradient/rms/{HOSTILE}": Series([0, 1], [1.0, 2.0])}),
    ],
    ids=[*SPARSE, "only loss", "time of NaN", "hostile"],
)
def test_corners_are_shown_without_a_complaint(open_report: Callable[..., Opened], record: Record):
    report = open_report(record)
    if record.layers:
        report.hover(0.5, 0.5)
        report.page.focus("#heatmap")
        report.page.keyboard.press("ArrowRight")
        assert record.layers[0] in report.readout()
    assert report.complaints == []
    assert report.page.title() != "1"
