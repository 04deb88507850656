"""A server of the live page in a thread of the test, and a browser tab that keeps what the browser complains about."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote


class Live:
    """A running server of the live page."""

    def __init__(self, root: Path, port: int) -> None:
        self.root, self.port = root, port
        self.address = f"http://127.0.0.1:{port}"

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
        """Send a request whose path is not normalized; return status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        found = answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode()
        connection.close()
        return found

    def run(self, name: str) -> dict[str, Any]:
        """Return the data of a run's page once its record has been read to the end."""
        while True:
            status, _, body = self.ask("/data/" + quote(name))
            assert status == 200
            if (found := json.loads(body))["isComplete"]:
                return found

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the rows of the list by name once all have been read."""
        while True:
            status, _, body = self.ask("/runs.json")
            assert status == 200
            if not (found := json.loads(body))["unread"]:
                return {row["name"]: row for row in found["rows"]}


class Tab:
    """A page in the browser."""

    def __init__(self, context: Any, live: Live) -> None:
        self.page, self.live = context.new_page(), live
        self.page.set_default_timeout(60_000)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def open(self, path: str = "/") -> Tab:
        self.page.goto(self.live.address + path)
        return self

    def open_run(self, name: str) -> Tab:
        self.open("/run/" + quote(name))
        self.page.locator("#verdict h1").wait_for()
        return self

    def wait_for_text(self, selector: str, text: str) -> None:
        self.page.locator(selector).filter(has_text=text).first.wait_for()

    def settle(self) -> None:
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
