"""Compiled functions that Python calls by address: that takes a third of the time of numba's dispatcher.

They score a text, or a request's texts, whose compiled work takes not much longer than the call. After an error, such
as too little memory, they return 0: so 0 means that Python must do the work.
"""

import ctypes
from collections.abc import Callable
from typing import NamedTuple

from numba import cfunc, types
from numba.core.ccallback import CFunc

from jobs.compilation.cache import kernel_cache

CompiledFunction = Callable[[ctypes.c_void_p, int, int, ctypes.c_void_p], int]


class Entry(NamedTuple):
    """A compiled function, and how Python calls it: with bytes, their size, another number, and an address."""

    compiled: "CFunc[CompiledFunction]"  # keeps the machine code
    call: Callable[[bytes, int, int, int], int]


def compile_entry(function: CompiledFunction) -> Entry:
    """Compile a function, or read it from the cache."""
    with kernel_cache() as cached:
        signature = types.int64(types.voidptr, types.int64, types.int64, types.voidptr)
        compiled = cfunc(signature, cache=cached, error_model="numpy")(function)
    # PYFUNCTYPE keeps the interpreter lock: to release it takes longer than to score a short text.
    assert compiled.address is not None
    arguments = (ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    return Entry(compiled, ctypes.PYFUNCTYPE(ctypes.c_int64, *arguments)(compiled.address))
