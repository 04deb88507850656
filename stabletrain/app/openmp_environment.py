"""How torch's threads wait for each other: asleep, so that other processes can use the cores meanwhile."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

WAIT_POLICY = "OMP_WAIT_POLICY"
OF_USER = (WAIT_POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # OpenMP's own; of GNU's library; of LLVM's and Intel's


def wait_asleep(environ: MutableMapping[str, str] = os.environ) -> None:
    """Let threads sleep while they wait, unless the user chose otherwise.

    It has an effect only before torch is imported: the OpenMP library reads its environment when it is loaded.
    """
    if not any(name in environ for name in OF_USER):
        environ[WAIT_POLICY] = "PASSIVE"
