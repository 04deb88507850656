"""What every test needs: one thread, a fixed seed, no clock, no tracking server but its own, a store that is set up."""

from __future__ import annotations

import shutil

import hypothesis
import pytest
import torch
from servers import CHROMIUM, CHROMIUM_ARGUMENTS, find_free_port, servers

from stabletrain.tracking.store import ENVIRONMENT, embedded_uri, open_client

hypothesis.settings.register_profile("untimed", deadline=None)  # machines are shared, and first calls compile
hypothesis.settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _reproducible():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """Undo what `open_client` sets for its process."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """An initialised database: MLflow needs seconds to make one."""
    folder = tmp_path_factory.mktemp("template")
    open_client(embedded_uri(folder))
    return folder / "mlflow.db"


@pytest.fixture
def runs(tmp_path, template):
    """A folder of runs with an embedded store that is set up already."""
    shutil.copy(template, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def uri(runs):
    return embedded_uri(runs)


@pytest.fixture
def server(tmp_path, template):
    """A function that starts a real server on a port; all are stopped at the end."""
    shutil.copy(template, tmp_path / "server.db")
    with servers(tmp_path) as start:
        yield start


@pytest.fixture
def free_port():
    return find_free_port()


@pytest.fixture(scope="session")
def browser():
    if not CHROMIUM.is_file():
        pytest.skip(f"{CHROMIUM} is not installed")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=str(CHROMIUM), args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    context = browser.new_context(viewport={"width": 1600, "height": 2400})
    page = context.new_page()
    page.set_default_timeout(150_000)
    yield page
    context.close()
