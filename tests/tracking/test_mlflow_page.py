"""The saved view and the slider are not documented by MLflow, so they are tested on its pages in a browser."""

import shutil

import pytest
from mlflow_fakes import INFO, finished_run, layer_name
from servers import find_free_port, servers

from stabletrain.tracking import tags
from stabletrain.tracking.shipper import Shipper

NUM_LAYERS = 20

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shipped_run(template, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    shutil.copy(template, folder / "server.db")
    port = find_free_port()
    with servers(folder) as start:
        start(port)
        run = finished_run(folder / "deep-run", steps=range(61), num_layers=NUM_LAYERS)
        short = finished_run(folder / "short-run", steps=range(31), info=INFO | {"run_uid": "uid-2"})
        Shipper(short, f"http://127.0.0.1:{port}").ship()
        yield Shipper(run, f"http://127.0.0.1:{port}").ship()


def test_the_run_page_begins_with_the_verdict(shipped_run, page):
    page.goto(shipped_run.url)
    page.get_by_text("Verdict: ⚠️ vanishing").wait_for()
    page.get_by_text("init=orthogonal").first.wait_for(state="attached")
    page.get_by_text("model.depth").first.wait_for()
    for name in (tags.VERDICT, tags.COMMAND, tags.GIT_DIRTY):
        page.get_by_text(name).first.wait_for(state="attached")
    assert page.get_by_text("stabletrain.shipped").count() == 0
    assert page.get_by_text("stabletrain.uid").count() == 0


def test_the_saved_view_shows_every_layer_and_all_pictures(shipped_run, page):
    page.goto(shipped_run.view_url)
    page.get_by_text("Gradient health").first.wait_for()
    page.get_by_text("Gradient of every layer (RMS)").wait_for()
    title = page.get_by_text(f"gradient/rms/{layer_name(0)} vs").first.inner_text()
    assert title.split(" vs ") == [f"gradient/rms/{layer_name(i)}" for i in range(NUM_LAYERS)]
    page.get_by_text("Each run at its end").first.wait_for()
    for key in ("gradient/ridges", "gradient/heatmap", "gradient/ridges_at_end", "gradient/heatmap_at_end"):
        page.get_by_text(key, exact=True).first.wait_for()
    page.get_by_role("slider").first.wait_for()
    assert page.get_by_role("slider").count() == 3
    page.wait_for_function(LOADED, arg=4)
    assert page.get_by_text("No image logged at this step").count() == 0
    for key in ("train/loss", "gradient/norm/total", "gradient/nonfinite"):
        page.get_by_text(key).first.wait_for()


def test_runs_of_different_length_stand_side_by_side(shipped_run, page):
    page.goto(shipped_run.view_url)
    grid = page.get_by_role("row").filter(has_text="gradient/ridges_at_end")
    grid.first.wait_for()
    page.wait_for_function("document.querySelectorAll('[role=row] img').length >= 4")
    assert grid.first.get_by_role("img").count() == 2
    for name in ("deep-run", "short-run"):
        page.get_by_role("columnheader").filter(has_text=name).first.wait_for()


def test_the_layers_that_stand_out_are_a_table(shipped_run, page):
    page.goto(shipped_run.url.replace("?", "/artifacts?"))
    page.get_by_text("worst_layers.json").first.click()
    for text in ("rms / last layer's", "low gradient", layer_name(0), layer_name(NUM_LAYERS - 1)):
        page.get_by_text(text).first.wait_for()
    assert page.get_by_text("high gradient").count() == 5


def test_the_slider_moves_from_picture_to_picture(shipped_run, page):
    page.goto(shipped_run.url.replace("?", "/model-metrics?"))
    page.get_by_text("gradient/ridges_at_end", exact=True).wait_for()
    slider = page.get_by_role("slider").nth(2)  # after the heatmap and the heatmap at the end
    slider.wait_for()
    page.wait_for_function(LOADED, arg=2)
    before = pictures(page)
    slider.focus()
    slider.press("ArrowRight")
    page.wait_for_function(f"before => JSON.stringify({SOURCES}) !== JSON.stringify(before)", arg=before)
    page.wait_for_function(LOADED, arg=2)
    assert pictures(page) != before


SOURCES = "[...document.querySelectorAll('img')].filter(i => i.src.includes('images')).map(i => i.src)"
LOADED = "n => [...document.querySelectorAll('img')].filter(i => i.naturalWidth > 300).length >= n"


def pictures(page):
    return page.evaluate(SOURCES)
