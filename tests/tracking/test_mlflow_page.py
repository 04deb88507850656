"""The saved view and the slider are not documented by MLflow: whether they work only its page can tell."""

from pathlib import Path

import pytest
from conftest import servers
from mlflow_fakes import layer_name

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
ARGUMENTS += ["--disable-sync", "--no-first-run"]
NUM_LAYERS = 20
TIMEOUT_MS = 30_000

pytestmark = [
    pytest.mark.skipif(not CHROMIUM.is_file(), reason=f"{CHROMIUM} is not installed"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def shipped_run(template, tmp_path_factory):
    import shutil
    import socket

    from mlflow_fakes import finished_run

    from stabletrain.tracking.shipper import Shipper

    folder = tmp_path_factory.mktemp("page")
    shutil.copy(template, folder / "server.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with servers(folder) as start:
        start(port)
        run = finished_run(folder / "deep-run", steps=range(61), num_layers=NUM_LAYERS)
        yield Shipper(run, f"http://127.0.0.1:{port}").ship()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    context = browser.new_context(viewport={"width": 1600, "height": 2400})
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    yield page
    context.close()


def test_the_run_page_begins_with_the_verdict(shipped_run, page):
    page.goto(shipped_run.url)
    page.get_by_text("Verdict: ⚠️ vanishing").wait_for()
    page.get_by_text("init=orthogonal").first.wait_for(state="attached")
    page.get_by_text("model.depth").first.wait_for()


def test_the_saved_view_shows_every_layer_and_both_pictures(shipped_run, page):
    page.goto(shipped_run.view_url)
    page.get_by_text("Gradient health").first.wait_for()
    page.get_by_text("Gradient of every layer (RMS)").wait_for()
    title = page.get_by_text(f"gradient/rms/{layer_name(0)} vs").first.inner_text()
    assert title.split(" vs ") == [f"gradient/rms/{layer_name(i)}" for i in range(NUM_LAYERS)]
    for key in ("gradient/ridges", "gradient/heatmap"):
        page.get_by_text(key, exact=True).first.wait_for()
    page.get_by_role("slider").first.wait_for()
    assert page.get_by_role("slider").count() == 2
    page.wait_for_function(LOADED)
    assert page.get_by_text("No image logged at this step").count() == 0
    for key in ("train/loss", "gradient/norm/total", "gradient/nonfinite"):
        page.get_by_text(key).first.wait_for()


def test_the_slider_moves_from_picture_to_picture(shipped_run, page):
    page.goto(shipped_run.url.replace("?", "/model-metrics?"))
    slider = page.get_by_role("slider").last
    slider.wait_for()
    page.wait_for_function(LOADED)
    before = pictures(page)
    slider.focus()
    slider.press("ArrowRight")
    page.wait_for_function(f"before => JSON.stringify({SOURCES}) !== JSON.stringify(before)", arg=before)
    page.wait_for_function(LOADED)


SOURCES = "[...document.querySelectorAll('img')].filter(i => i.src.includes('images')).map(i => i.src)"
LOADED = "[...document.querySelectorAll('img')].filter(i => i.naturalWidth > 300 && i.naturalHeight > 300).length >= 2"


def pictures(page):
    return page.evaluate(SOURCES)
