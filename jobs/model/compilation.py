"""Decorator that compiles a kernel with numba.

A kernel is compiled for this processor when it is first called with arguments of a type. The result is cached on disk
in the `__pycache__` next to the kernel's file, in NUMBA_CACHE_DIR if that is set, or in the user's cache where the
folder cannot be written. So one process on a machine compiles, and the others read.

numba notices a change of the kernel's own file, not of other files, this one included. So a kernel calls only kernels
of its own file, and constants of other files are copied (tests compare them). The one exception is the entry of
`serving.web.compiled_scorer`: a digest of the other files is in its closure, of which numba notices a change too.
"""

from collections.abc import Callable
from typing import TypeVar, cast

from numba import njit

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(*, fastmath: bool | set[str] = False) -> Callable[[Function], Function]:
    """Return a decorator that compiles a function and leaves its type as it is.

    Args:
        fastmath: LLVM's floating-point optimizations, all of them or some by name.
    """

    def compile_function(function: Function) -> Function:
        return cast(Function, njit(function, cache=True, nogil=True, error_model="numpy", fastmath=fastmath))

    return compile_function
