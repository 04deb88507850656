"""The MLflow store: where it is, whether it answers, and a client that does not wait for minutes."""

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

# By default, a request to a server that is down is retried for 246 s. The shipper tries again by itself, so it need not
# wait, and a retried `create run` could create two runs.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class Unreachable(ConnectionError):
    """The tracking server does not answer. Nothing is lost: the record is on disk."""


def resolve_tracking_uri(explicit: str | None, run_dir: Path | str) -> str:
    """Return the URI to ship to: the explicit setting, else `MLFLOW_TRACKING_URI`, else the store beside the runs.

    The children of a sweep share the store beside the sweep's folder.

    Args:
        explicit: The setting `tracking_uri`, if given.
        run_dir: The run's folder.

    Raises:
        RequestError: The URI is a plain folder, to which MLflow no longer writes.
    """
    uri = explicit or os.environ.get("MLFLOW_TRACKING_URI") or embedded_uri(folder_above(run_dir))
    if uri.startswith(_SQLITE):
        return _embeddable(_SQLITE + str(database_of(uri)))
    if uri != "databricks" and ("://" not in uri or uri.startswith("file:")):
        raise RequestError(
            "MLflow no longer stores runs in plain folders.",
            key="tracking_uri",
            found=uri,
            allowed="http://HOST:PORT, https://HOST, sqlite:////ABSOLUTE/PATH/mlflow.db",
            command=f"export MLFLOW_TRACKING_URI={_SQLITE}{Path(uri.removeprefix('file:')).absolute() / DATABASE}",
        )
    return uri


def _embeddable(uri: str) -> str:
    if "?" in uri or "%" in uri:
        raise RequestError(
            "The path of a SQLite store cannot contain a question mark or a percent sign.",
            key="tracking_uri",
            found=uri,
            allowed="a path without ? and %, or logger=tensorboard",
            command="python -m stabletrain logger=tensorboard",
        )
    return uri


def embedded_uri(folder: Path | str) -> str:
    """Return the URI of the store in `folder`, the folder that contains the runs."""
    return f"{_SQLITE}{Path(folder).absolute() / DATABASE}"


def database_of(uri: str) -> Path:
    """Return the absolute path of the database file of a SQLite URI."""
    return Path(uri.removeprefix(_SQLITE)).absolute()


def artifact_root(uri: str) -> Path | None:
    """Return the artifact folder of a SQLite store; None for a server, which has its own."""
    return database_of(uri).parent / ARTIFACTS if uri.startswith(_SQLITE) else None


def is_reachable(uri: str, timeout_s: float = 1.0) -> str | None:
    """Return None if the server accepts a TCP connection, or the store needs none; else the reason why not."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), timeout=timeout_s).close()
    except (OSError, ValueError) as error:
        return f"{public_uri(uri)} does not answer: {error}"
    return None


def import_client() -> None:
    """Import what `open_client` needs. It takes seconds of CPU time, so that a process may do it beforehand."""
    set_environment()
    with quiet():
        from mlflow import MlflowClient  # noqa: F401

        if os.environ.get("MLFLOW_TRACKING_URI", _SQLITE).startswith(_SQLITE):
            import mlflow.store.tracking.sqlalchemy_store  # noqa: F401


def set_environment() -> None:
    """Set MLflow's environment variables, unless the user has set them."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def open_client(uri: str) -> MlflowClient:
    """Return a client whose requests end within seconds; a new SQLite store is set up first.

    If several processes set up one database at the same time, all but the first fail; hence the lock.

    Raises:
        Unreachable: The server does not answer.
    """
    set_environment()
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
    """Create a database under a temporary name, then rename it: one that is created only in part would be unusable."""
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
    """Keep the store from placing the artifacts of the experiment `Default`, which it creates, in `./mlruns`."""
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
    """Silence the log messages and warnings of MLflow and its libraries; errors are still raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow  # noqa: F401 (it sets logging levels when it is imported)
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
    """Return the URI without user name and password, which may be printed and stored."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def page_url(uri: str) -> str:
    """Return the base URL of the pages: of the server, or of `stabletrain ui` for the embedded store."""
    return public_uri(uri).rstrip("/") if urlsplit(uri).scheme in ("http", "https") else EMBEDDED_URL


def run_url(uri: str, experiment_id: str, run_id: str) -> str:
    """Return the link to a run's page, in MLflow's mode for training runs."""
    return f"{page_url(uri)}/#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"


def view_url(uri: str, experiment_id: str, view_id: str) -> str:
    """Return the link to a saved view of an experiment."""
    query = f"workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey={view_id}"
    return f"{page_url(uri)}/#/experiments/{experiment_id}/runs?{query}"
