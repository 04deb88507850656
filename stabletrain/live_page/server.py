"""The server: GET only, for hosts named 127.0.0.1 or localhost only, and nothing outside of the folder of runs."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stabletrain.live_page.run_list import RunList
from stabletrain.live_page.run_view import ASSETS, environment
from stabletrain.report import template
from stabletrain.report.page_data import to_json

HOSTS = ["127.0.0.1", "localhost"]  # of no other name: a page of another site could point its own name here
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
SECTIONS = ("heatmap", "curves", "time_surface", "update_ratios", "clipping")  # of the report's template


def make_app(root: Path, only: str | None = None) -> Starlette:
    """Return the application.

    Args:
        root: The folder of runs.
        only: Name of the one run to show; None for all.
    """
    server = _Server(RunList(root, only))
    routes = [
        Route("/", server.list_page),
        Route("/runs.json", server.list_data),
        Route("/run/{name:path}", server.run_page),
        Route("/data/{name:path}", server.run_data),
        Route("/assets/{name}", server.asset),
    ]
    return Starlette(
        routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)]
    )


class _Server:
    def __init__(self, runs: RunList) -> None:
        self._runs = runs
        self._lock = threading.Lock()  # one request works at a time: the rest of the machine is for training
        self._instance = f"{time.time_ns():x}"
        self._templates = environment()
        live = (ASSETS / "run.js").read_text(encoding="utf-8")
        self._assets = {
            "page.css": ("text/css", template.style()),
            "live.css": ("text/css", (ASSETS / "live.css").read_text(encoding="utf-8")),
            "list.js": ("text/javascript", (ASSETS / "list.js").read_text(encoding="utf-8")),
            "run.js": ("text/javascript", template.join_scripts([*map(template.read, template.DRAWINGS), live])),
        }

    def list_page(self, request: Request) -> Response:
        text = self._templates.get_template("list.html").render(folder=str(self._runs.root))
        return _respond(request, text, "text/html")

    def list_data(self, request: Request) -> Response:
        known, _, since = request.query_params.get("since", "").partition(".")
        with self._lock:
            changes = self._runs.changes(int(since) if known == self._instance and since.isdecimal() else 0)
        return _respond(
            request, to_json(changes | {"since": f"{self._instance}.{changes['version']}"}), "application/json"
        )

    def run_page(self, request: Request) -> Response:
        name = request.path_params["name"]
        with self._lock:
            is_there = self._runs.has(name)
        absent = {section: {"source": None} for section in SECTIONS}
        text = self._templates.get_template("run.html").render(
            run=name, data_path="/data/" + quote(name), is_there=is_there, frames=[], **absent
        )
        return _respond(request, text, "text/html", status=200 if is_there else 404)

    def run_data(self, request: Request) -> Response:
        with self._lock:
            view = self._runs.view(request.path_params["name"])
            version, text = (view.version, view.json) if view else ("", "")
        if view is None:
            return _respond(request, "{}", "application/json", status=404)
        return _respond(request, text, "application/json", version=version)

    def asset(self, request: Request) -> Response:
        kind, text = self._assets.get(request.path_params["name"], ("", ""))
        return _respond(request, text, kind) if kind else _respond(request, "", "text/plain", status=404)


def _respond(request: Request, text: str, kind: str, *, status: int = 200, version: str = "") -> Response:
    """Return a response; an empty one (304) if the browser has this version already."""
    version = version or f'"{hashlib.sha256(text.encode()).hexdigest()[:16]}"'
    headers = HEADERS | {"ETag": version}
    if status == 200 and request.headers.get("if-none-match") == version:
        return Response(status_code=304, headers=headers)
    return Response(text, status_code=status, headers=headers, media_type=kind)
