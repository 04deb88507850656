"""Where the MLflow store is, whether it answers, and how to open it without waiting for minutes."""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from filelock import FileLock

from stabletrain.errors import RequestError
from stabletrain.record.sweep_folder import folder_above

if TYPE_CHECKING:
    from mlflow import MlflowClient

EMBEDDED_URL = "http://127.0.0.1:5000"  # where `stabletrain ui` serves the embedded store
DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"
_SQLITE = "sqlite:///"

# Out of the box a request to a dead server is retried for 246 s. The shipper comes back by itself, so it need not wait;
# and a retried `create run` could make two runs.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class Unreachable(ConnectionError):
    """The tracking server does not answer; nothing is lost, the record is on disk."""


def resolve_tracking_uri(explicit: str | None, run_dir: Path | str) -> str:
    """Return where to ship to: the explicit setting, else MLFLOW_TRACKING_URI, else the store beside the runs.

    The children of a sweep share the store that lies beside the sweep.

    Raises:
        RequestError: The URI is of a kind that MLflow no longer writes to (a plain folder).
    """
    uri = explicit or os.environ.get("MLFLOW_TRACKING_URI") or embedded_uri(folder_above(run_dir))
    if uri.startswith(_SQLITE):
        return _embeddable(_SQLITE + str(database_of(uri)))
    if uri != "databricks" and ("://" not in uri or uri.startswith("file:")):
        raise RequestError(
            "MLflow no longer keeps runs in plain folders.",
            key="tracking_uri",
            found=uri,
            allowed="http://HOST:PORT, https://HOST, sqlite:////ABSOLUTE/PATH/mlflow.db",
            command=f"export MLFLOW_TRACKING_URI={_SQLITE}{Path(uri.removeprefix('file:')).absolute() / DATABASE}",
        )
    return uri


def _embeddable(uri: str) -> str:
    if "?" in uri or "%" in uri:
        raise RequestError(
            "A sqlite store cannot lie below a folder with a question mark or a percent sign in its name.",
            key="tracking_uri",
            found=uri,
            allowed="a path without ? and %, or logger=tensorboard",
            command="python -m stabletrain logger=tensorboard",
        )
    return uri


def embedded_uri(folder: Path | str) -> str:
    """Return the URI of the store that lies in `folder`, the folder above the runs."""
    return f"{_SQLITE}{Path(folder).absolute() / DATABASE}"


def database_of(uri: str) -> Path:
    """Return the database file of a sqlite URI, absolute."""
    return Path(uri.removeprefix(_SQLITE)).absolute()


def artifact_root(uri: str) -> Path | None:
    """Return the folder of a sqlite store's artifacts; None for a server, which has its own."""
    return database_of(uri).parent / ARTIFACTS if uri.startswith(_SQLITE) else None


def is_reachable(uri: str, timeout_s: float = 1.0) -> str | None:
    """Return None if a TCP connection to the server is accepted (or the store needs none), else why not."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), timeout=timeout_s).close()
    except (OSError, ValueError) as error:
        return f"{public_uri(uri)} does not answer: {error}"
    return None


def open_client(uri: str) -> MlflowClient:
    """Return a client whose requests end within seconds; a sqlite store is set up first if it is new.

    Of several processes that set up one new database at once only the first survives, so they take turns.

    Raises:
        Unreachable: The server does not answer.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if reason := is_reachable(uri):
        raise Unreachable(reason)
    with quiet():
        from mlflow import MlflowClient

        root = artifact_root(uri)
        if root is None:
            return MlflowClient(uri, registry_uri=uri)
        root.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{database_of(uri)}.lock"), _default_artifacts(root):
            if not database_of(uri).exists():
                _set_up(database_of(uri))
            client = MlflowClient(uri, registry_uri=uri)
            client.search_experiments(max_results=1)
        return client


def _set_up(database: Path) -> None:
    """Make a store beside its place and move it there: one whose making was cut short would be of no use to any run."""
    from mlflow import MlflowClient

    unfinished = database.with_name(f".{database.name}.{os.getpid()}")
    try:
        uri = f"{_SQLITE}{unfinished}"
        MlflowClient(uri, registry_uri=uri).search_experiments(max_results=1)
        unfinished.replace(database)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def _default_artifacts(root: Path) -> Iterator[None]:
    """Keep the store from taking `./mlruns` for the experiment `Default`, which it makes by itself."""
    name = "_MLFLOW_SERVER_ARTIFACT_ROOT"
    before = os.environ.get(name)
    os.environ[name] = root.as_uri()
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the chatter of MLflow and of its libraries off the screen; errors still raise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow  # noqa: F401 (sets its own levels when it is imported)
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic", "sqlalchemy", "urllib3", "huggingface_hub")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def public_uri(uri: str) -> str:
    """Return the URI without a user name and password, fit to be printed and stored."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def page_url(uri: str) -> str:
    """Return the address of the pages: the server's own, or where `stabletrain ui` serves the embedded store."""
    return public_uri(uri).rstrip("/") if urlsplit(uri).scheme in ("http", "https") else EMBEDDED_URL


def run_url(uri: str, experiment_id: str, run_id: str) -> str:
    """Return the link to a run's page, in the mode that shows training runs."""
    return f"{page_url(uri)}/#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"


def view_url(uri: str, experiment_id: str, view_id: str) -> str:
    """Return the link to a saved view of an experiment."""
    query = f"workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey={view_id}"
    return f"{page_url(uri)}/#/experiments/{experiment_id}/runs?{query}"
