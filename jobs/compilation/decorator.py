"""Decorator that compiles a kernel with numba.

A kernel is compiled for this processor when it is first called with arguments of a type. The result is cached on disk
in the `__pycache__` next to the kernel's file, in NUMBA_CACHE_DIR if that is set, or in the user's cache where the
folder cannot be written. So one process on a machine compiles, and the others read.

numba notices a change of the kernel's own file, not of other files, this one included. So constants of other files are
copied (tests compare them), and a kernel that calls kernels of another file names it. `serving.web.compiled_scorer`
does this in its own way: a digest of the other files is in its closure, of which numba notices a change too.
"""

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any, TypeVar, cast

from numba import njit
from numba.core.types import Type, unliteral

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(*, fastmath: bool | set[str] = False, calls: Iterable[ModuleType] = ()) -> Callable[[Function], Function]:
    """Return a decorator that compiles a function and leaves its type as it is.

    No kernel may depend on the value of a literal that another one calls it with: it receives variables.

    Args:
        fastmath: LLVM's floating-point optimizations, all of them or some by name.
        calls: other modules whose kernels the function calls; it is compiled again when their files change.
    """

    def compile_function(function: Function) -> Function:
        kernel = njit(function, cache=True, nogil=True, error_model="numpy", fastmath=fastmath)
        # numba has no public options for these.
        kernel.get_call_template = partial(_get_call_template, kernel.get_call_template)
        if calls:
            cache_file = kernel._cache._cache_file
            cache_file._source_stamp = (cache_file._source_stamp, *map(_digest_source, calls))
        return cast(Function, kernel)

    return compile_function


def _get_call_template(get: Callable[..., Any], types: Sequence[Type], keywords: Mapping[str, Type]) -> Any:
    """Prepare a call by another kernel; a literal has the type of a variable.

    numba would compile the called kernel once more for each literal.
    """
    # numba does not annotate unliteral.
    return get(
        [unliteral(kind) for kind in types],  # type: ignore[no-untyped-call]
        {name: unliteral(kind) for name, kind in keywords.items()},  # type: ignore[no-untyped-call]
    )


def _digest_source(module: ModuleType) -> str:
    return hashlib.sha256(inspect.getsource(module).encode()).hexdigest()
