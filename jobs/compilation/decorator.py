"""Decorator that compiles a kernel with numba.

A kernel is compiled for this processor when it is first called with arguments of a type, and kept on disk
(`jobs.compilation.cache`). It is compiled again when its file changes, or one with kernels that this file imports.
Constants of other files are copied, and tests compare them.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from numba import njit
from numba.core.types import Type, unliteral

from jobs.compilation.cache import kernel_cache

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(*, fastmath: bool | set[str] = False) -> Callable[[Function], Function]:
    """Return a decorator that compiles a function and leaves its type as it is.

    No kernel may depend on the value of a literal that another one calls it with: it receives variables.

    Args:
        fastmath: LLVM's floating-point optimizations, all of them or some by name.
    """

    def compile_function(function: Function) -> Function:
        with kernel_cache() as cache:
            kernel = njit(function, cache=cache, nogil=True, error_model="numpy", fastmath=fastmath)
        # numba has no public option for this.
        kernel.get_call_template = partial(_get_call_template, kernel.get_call_template)
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
