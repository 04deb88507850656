"""The live page in a real browser, a test per claim. The records are written step by step by the real writer."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from live_fakes import WrittenRun
from live_server import Live, Tab
from PIL import Image

from stabletrain.vocabulary.statuses import FINISHED

ROOT = Path(__file__).parents[2]
HOSTILE = '<img src=x onerror="document.title=1">'
WRITE_AND_WAIT = """
import sys, time
from pathlib import Path
from live_fakes import WrittenRun
run = WrittenRun(Path(sys.argv[1])).steps(range(41))
print("written", flush=True)
time.sleep(600)
"""


def heatmap(tab: Tab) -> np.ndarray:
    """Return the cells of the heatmap as brightness, one row per pixel."""
    tab.settle()
    png = tab.page.locator("#heatmap").screenshot()
    image = np.asarray(Image.open(io.BytesIO(png)).convert("L")).astype(int)
    return image[24 : image.shape[0] - 88, 168 : image.shape[1] - 8]


def num_columns(tab: Tab) -> int:
    """Return how many steps the slider of the histograms has; in these records, all steps with statistics have some."""
    return int(tab.page.get_attribute("#step", "max") or 0) + 1


def test_the_list_shows_name_choices_status_verdict_progress_and_loss(live: Live, tab: Callable[..., Tab]):
    WrittenRun(live.root / "one", run_name="first try", num_steps=400).steps(range(100))
    WrittenRun(live.root / "sweep/0").steps(range(200)).end(status=FINISHED, verdict="vanishing")
    shown = tab().open()
    shown.wait_for_text("#count", "2 runs, 1 training")
    rows = shown.page.locator("#rows tr")
    ended, training = rows.nth(0), rows.nth(1)  # the newest first
    training.wait_for()
    assert rows.count() == 2
    assert training.locator("a").inner_text() == "first try"
    choices = training.locator(".run .faint").inner_text()
    assert choices == "one · model=mlp data=digits activation=sigmoid clip=norm optimizer=sgd"
    assert training.locator(".state").inner_text() == "training"
    assert training.locator(".verdict").inner_text() == "… No verdict yet"
    assert training.locator(".progress-cell").inner_text() == "100 of 400 steps"
    assert float(training.locator("progress").get_attribute("value") or 0) == 100
    heights = [float(p.split(",")[1]) for p in (training.locator("polyline").get_attribute("points") or "").split()]
    assert len(heights) > 30
    assert heights == sorted(heights)  # the loss falls, and the vertical axis of SVG points downwards
    assert ended.locator("a").inner_text() == "sweep/0"
    assert ended.locator(".state").inner_text() == FINISHED
    assert ended.locator(".verdict").inner_text() == "▲ Vanishing gradients"  # a sign, not the color alone
    shown.page.fill("#filter", "vanishing")
    assert [rows.nth(k).is_visible() for k in range(2)] == [True, False]
    shown.page.fill("#filter", "")
    training.locator("a").click()
    shown.page.locator("#verdict h1").wait_for()
    assert shown.page.url == f"{live.address}/run/one"
    assert shown.complaints == []
    assert all(url.startswith((live.address, "data:")) for url in shown.requests)


def test_an_empty_folder_says_how_to_start_and_fills_by_itself(live: Live, tab: Callable[..., Tab]):
    shown = tab().open()
    shown.wait_for_text("#empty", "python -m stabletrain model=rnn clip=norm")
    assert not shown.page.locator("#some").is_visible()
    WrittenRun(live.root / "one").steps(range(5))
    shown.wait_for_text("#rows", "one")
    assert not shown.page.locator("#empty").is_visible()


def test_the_heatmap_of_a_running_run_grows_and_the_selection_stays(live: Live, tab: Callable[..., Tab]):
    run = WrittenRun(live.root / "one").steps(range(21))
    shown = tab().open_run("one")
    shown.wait_for_text("#readout", "step 20")
    assert num_columns(shown) == 3
    assert shown.page.get_attribute("#bar", "value") == "21"
    run.steps(range(21, 51))
    shown.wait_for_text("#readout", "step 50")  # the cursor was on the last step, and follows
    assert num_columns(shown) == 6
    assert shown.page.inner_text("#steps") == "51 of 200 (26%) steps"
    shown.page.select_option("#layer", index=3)
    shown.page.focus("#step")
    shown.page.keyboard.press("Home")
    run.steps(range(51, 61))
    shown.page.locator("#step[max='6']").wait_for()
    assert shown.page.inner_text("#readout").startswith("L03.layers.3.weight · step 0 ")
    assert shown.page.evaluate("document.activeElement.id") == "step"
    assert shown.page.locator("#charts canvas").count() == 2
    assert shown.page.locator("#ratio-charts canvas").count() == 1
    assert not shown.page.locator("#time-charts").is_visible()  # nothing of it was recorded
    assert shown.complaints == []


def test_vanishing_is_visible_within_ten_steps_of_its_start(live: Live, tab: Callable[..., Tab]):
    """It starts with step 41; the default watch measures every tenth step, so first at step 50."""
    run = WrittenRun(live.root / "one").steps(range(41))
    shown = tab().open_run("one")
    shown.wait_for_text("#depth", "last layers: 1 at step 40")
    before = heatmap(shown)
    assert abs(before[6:28, -30:-4].mean() - before[-20:, -30:-4].mean()) < 3
    run.steps(range(41, 51), slope=1.0, loss=2.3)
    shown.wait_for_text("#depth", "▲ Gradient of the first layers ÷ last layers: 10⁻⁵ at step 50, vanishing")
    after = heatmap(shown)
    assert after[6:28, -12:-4].mean() < after[-20:, -12:-4].mean() - 60  # dark at the top, in the last column
    assert abs(after[6:28, 10:60].mean() - after[-20:, 10:60].mean()) < 3  # not in the first one


def test_a_finding_appears_while_the_run_trains(live: Live, tab: Callable[..., Tab]):
    run = WrittenRun(live.root / "one").steps(range(11), slope=1.2, loss=2.3)
    shown = tab().open_run("one")
    shown.wait_for_text("#verdict h1", "No verdict yet")  # two measurements are not enough
    shown.wait_for_text("#findings", "No problem found so far.")
    run.steps(range(11, 61), slope=1.2, loss=2.3)
    shown.wait_for_text("#findings h3", "✖ Vanishing gradients")
    shown.wait_for_text("#findings", "init=he")
    shown.wait_for_text("#verdict h1", "✖ Vanishing gradients")
    shown.page.locator("#marks button").first.click()
    assert shown.page.inner_text("#readout").startswith("L00.layers.0.weight · step ")
    shown.open().wait_for_text("#rows .verdict", "✖ Vanishing gradients")
    assert shown.complaints == []


def test_a_killed_run_is_called_killed_and_a_resumed_one_goes_on(live: Live, tab: Callable[..., Tab]):
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests/helpers")])
    command = [sys.executable, "-c", WRITE_AND_WAIT, str(live.root / "one")]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        shown = tab().open_run("one")
        shown.wait_for_text("#state", "training")
        process.send_signal(signal.SIGKILL)
        process.wait()
    shown.wait_for_text("#state", "killed")
    shown.wait_for_text("#verdict", "Killed: its process is gone")
    assert shown.page.inner_text("#readout").startswith("L00.layers.0.weight · step 40 ")
    WrittenRun(live.root / "one").steps(range(31, 61))  # in a new file, from the last checkpoint
    shown.wait_for_text("#state", "training")
    shown.wait_for_text("#readout", "step 60")
    assert shown.page.inner_text("#steps").startswith("61 of 200")
    assert num_columns(shown) == 7
    shown.open().wait_for_text("#rows .state", "training")
    assert shown.complaints == []


def test_a_deleted_run_disappears_and_its_page_says_so(live: Live, tab: Callable[..., Tab]):
    run = WrittenRun(live.root / "one").steps(range(41))
    WrittenRun(live.root / "two").steps(range(41))
    listed, shown = tab().open(), tab().open_run("one")
    listed.wait_for_text("#rows", "one")
    shutil.rmtree(live.root / "one")
    shown.wait_for_text("#notice", "This run is gone: its folder was deleted or renamed.")
    assert shown.page.inner_text("#readout").startswith("L00.layers.0.weight · step 40 ")  # what was read stays
    listed.wait_for_text("#count", "1 run, 1 training")
    assert listed.page.locator("#rows tr").count() == 1
    run.writer.close()
    assert [text for text in listed.complaints if "404" not in text] == []
    assert [text for text in shown.complaints if "404" not in text] == []  # the answer that the browser reports itself
    again = tab().open("/run/one")
    again.wait_for_text("#notice", "gone")
    WrittenRun(live.root / "one", run_name="new").steps(range(11))  # another run in its place
    shown.wait_for_text("#verdict", "new")
    shown.wait_for_text("#readout", "step 10")
    assert num_columns(shown) == 2


def test_names_are_text(live: Live, tab: Callable[..., Tab]):
    name = "a b & <i> ä ☃ %41 'q'"
    WrittenRun(live.root / name, run_name=HOSTILE, choices={"model": HOSTILE}).steps(range(21))
    shown = tab().open()
    shown.wait_for_text("#rows a", HOSTILE)
    shown.page.locator("#rows a").click()
    shown.wait_for_text("#verdict", HOSTILE)
    assert shown.page.inner_text("nav .faint") == name
    assert shown.page.title() == f"No verdict yet – {HOSTILE}"
    shown.wait_for_text("#readout", "step 20")
    assert shown.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_fits_the_window_in_light_and_dark(live: Live, tab: Callable[..., Tab], scheme: str, width: int):
    WrittenRun(live.root / ("long_name_" * 12)[:200], num_layers=20).steps(range(60), slope=1.0, loss=2.3)
    shown = tab(viewport={"width": width, "height": 800}, color_scheme=scheme).open()
    shown.page.locator("#rows tr").wait_for()
    widths = [shown.page.evaluate("document.documentElement.scrollWidth")]
    shown.page.locator("#rows a").click()
    shown.page.locator("#findings article").first.wait_for()
    shown.settle()
    widths.append(shown.page.evaluate("document.documentElement.scrollWidth"))
    assert max(widths) <= width
    background = shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(background.split("(")[1].split(",")[0]) > 128) == (scheme == "light")
    assert shown.complaints == []


def test_without_its_server_the_page_says_so(live: Live, tab: Callable[..., Tab]):
    WrittenRun(live.root / "one").steps(range(11))
    listed, shown = tab().open(), tab().open_run("one")
    for opened in (listed, shown):
        opened.page.route("**/*.json*", lambda route: route.abort())
        opened.page.route("**/data/*", lambda route: route.abort())
        opened.wait_for_text("#notice", "python -m stabletrain ui starts it again")
        opened.page.unroute_all()
        opened.page.locator("#notice").wait_for(state="hidden")


def test_a_hidden_page_asks_for_nothing(live: Live, tab: Callable[..., Tab]):
    run = WrittenRun(live.root / "one").steps(range(11))
    shown = tab().open_run("one")
    shown.page.evaluate("""() => {
        Object.defineProperty(document, "hidden", { get: () => window.away, configurable: true });
        window.away = true;
        document.dispatchEvent(new Event("visibilitychange"));
    }""")
    asked = len(shown.requests)
    run.steps(range(11, 31))
    shown.page.wait_for_timeout(2500)
    assert len(shown.requests) <= asked + 1  # one that was on its way
    shown.page.evaluate("() => { window.away = false; document.dispatchEvent(new Event('visibilitychange')); }")
    shown.wait_for_text("#readout", "step 30")
