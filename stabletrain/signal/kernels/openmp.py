"""Running compiled functions on torch's own OpenMP threads, so that no second thread pool competes for the cores.

After a backward pass, torch's OpenMP threads spin while they wait for work. A separate thread would share a core with
one of them, and was no faster than a single thread; torch's own start within microseconds (figures in docs/LOG.md).
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def _claim(context, address):
    signature = types.int64(types.int64)

    def generate(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", pointer, ir.IntType(64)(1), "monotonic")

    return signature, generate


def _run_together(context, start, work, job, num):
    signature = types.void(types.int64, types.int64, types.int64, types.int64)

    def generate(context, builder, signature, arguments):
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, byte, flag, flag])
        function = builder.inttoptr(arguments[0], kind.as_pointer())
        work, job = (builder.inttoptr(x, byte) for x in arguments[1:3])
        builder.call(function, [work, job, builder.trunc(arguments[3], flag), flag(0)])
        return context.get_dummy_value()

    return signature, generate


claim: Any = intrinsic(_claim)
"""`claim(address)` atomically increments the int64 at an address and returns its old value."""
run_together: Any = intrinsic(_run_together)
"""`run_together(find_team(), work, job, num)` runs the function at address `work` as `work(job)` on `num` threads."""


@functools.cache
def find_team() -> int:
    """Return the address of `GOMP_parallel` in the OpenMP library that torch loads; 0 (run single-threaded) if missing.

    GNU's library defines it, and those of LLVM and Intel do for compatibility. Checked on torch 2.13.0 for Linux, where
    `libtorch_global_deps.so` links against the OpenMP library.
    """
    if "backend: OpenMP" not in torch.__config__.parallel_info():
        return 0
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_global_deps.so"))
        return ctypes.cast(library.GOMP_parallel, ctypes.c_void_p).value or 0
    except (OSError, AttributeError):
        return 0
