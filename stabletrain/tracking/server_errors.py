"""Errors of the tracking server in the user's words: it does not answer, or it refuses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stabletrain.errors import RequestError
from stabletrain.tracking.store import Unreachable, is_reachable, public_uri

_HTTP_STATUS = re.compile(r"failed with error code (\d{3})")
_TRY_AGAIN = (408, 429)  # HTTP: request timeout, too many requests


@contextmanager
def plain_errors(tracking_uri: str, run_dir: Path) -> Iterator[None]:
    """Turn MLflow's exceptions into one of two.

    Args:
        tracking_uri: The server.
        run_dir: The run that is being shipped, for the command that ships it again.

    Raises:
        Unreachable: The server does not answer, or asks to come back later.
        RequestError: The server answers and refuses.
    """
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException

    try:
        yield
    except (MlflowException, RequestException) as error:
        match = _HTTP_STATUS.search(str(error))
        code = int(match[1]) if match else getattr(getattr(error, "response", None), "status_code", None)
        if code is not None and 400 <= code < 500 and code not in _TRY_AGAIN:
            raise _refused(error, tracking_uri, run_dir) from error
        passing = getattr(error, "error_code", "") == "TEMPORARILY_UNAVAILABLE" or "API request to" in str(error)
        if passing or isinstance(error, RequestException) or is_reachable(tracking_uri):
            raise Unreachable(f"{public_uri(tracking_uri)} does not answer: {_first_line(error)}") from error
        raise _refused(error, tracking_uri, run_dir) from error


def _refused(error: Exception, tracking_uri: str, run_dir: Path) -> RequestError:
    is_host = "Invalid Host" in str(error)
    return RequestError(
        f"The tracking server refuses: {_first_line(error)}",
        key="tracking_uri",
        found=public_uri(tracking_uri),
        allowed="a host that the server's MLFLOW_SERVER_ALLOWED_HOSTS names" if is_host else None,
        command=f"stabletrain sync {run_dir}",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:500]
