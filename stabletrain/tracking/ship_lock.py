"""A lock that lets one shipper at a time work on a run."""

from __future__ import annotations

import getpass
import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from stabletrain.tracking.store import Unreachable

LOCK_TIMEOUT_S = 300.0


@contextmanager
def ship_lock(run_dir: Path) -> Iterator[None]:
    """Hold the lock of a run; two shippers at once would do no harm, but all work twice.

    Raises:
        Unreachable: Another process has held it for five minutes.
    """
    name = hashlib.sha256(f"{getpass.getuser()} {run_dir}".encode()).hexdigest()[:16]
    # In the system's temporary folder, since the run's own folder may be read-only.
    path = Path(tempfile.gettempdir(), f"stabletrain-{name}.lock")
    try:
        with FileLock(path, timeout=LOCK_TIMEOUT_S):
            yield
            path.unlink(missing_ok=True)  # waiting processes keep their handle; a new one creates the file again
    except Timeout as error:
        raise Unreachable(f"another process has been shipping {run_dir} for {LOCK_TIMEOUT_S:g} s") from error
