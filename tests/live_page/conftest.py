"""The live page, served from a thread of the test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from live_server import Live, Tab
from servers import find_free_port

from stabletrain.live_page.server import make_app


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Live]]:
    monkeypatch.setattr("stabletrain.live_page.run_list.PERIOD_S", 0.0)  # no pauses: tests ask when they know
    monkeypatch.setattr("stabletrain.live_page.run_view.PAUSE_FACTOR", 0.0)
    started: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(root: Path, only: str | None = None) -> Live:
        port = find_free_port()
        config = uvicorn.Config(make_app(root, only), host="127.0.0.1", port=port, log_level="error", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        started.append((server, thread))
        while not server.started:
            time.sleep(0.01)
        return Live(root, port)

    yield start
    for server, thread in started:
        server.should_exit = server.force_exit = True
        thread.join(10)


@pytest.fixture
def live(tmp_path: Path, serve: Callable[..., Live]) -> Live:
    """A server of an empty folder."""
    root = tmp_path / "runs"
    root.mkdir()
    return serve(root)


@pytest.fixture
def tab(browser: Any, live: Live) -> Iterator[Callable[..., Tab]]:
    contexts = []

    def open_it(**options: Any) -> Tab:
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 1200}, **options}))
        return Tab(contexts[-1], live)

    yield open_it
    for context in contexts:
        context.close()
