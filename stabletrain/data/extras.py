"""Optional packages that only some data sets need."""

from __future__ import annotations

import importlib
from typing import Any

from stabletrain.errors import RequestError


def require_package(module: str, extra: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: Its dotted name.
        extra: The extra of stabletrain that installs the package.

    Raises:
        RequestError: The package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise RequestError(
            f"This data set needs the package {package}, which cannot be imported: {error}.",
            key="data",
            found=f"no {package}",
            allowed=f"{package} installed (the extra `{extra}`), or a data set that needs no package, such as digits",
            command=f"python -m pip install 'stabletrain[{extra}]'",
        ) from error
