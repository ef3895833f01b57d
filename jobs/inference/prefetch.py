"""Prefetch instruction of the processor, for compiled kernels.

numba does not notice a change here: kernels that use it, directly or through others, name this module in `calls`.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


@intrinsic
def prefetch(typing_context: Any, array: Any, index: Any) -> tuple[Any, Callable[..., Any]]:
    """Make the processor fetch an array's element, given by an int64 index, into its caches without waiting for it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        int32, byte = ir.IntType(32), ir.IntType(8).as_pointer()
        function_type = ir.FunctionType(ir.VoidType(), [byte, int32, int32, int32])
        # numba does not annotate get_or_insert_function.
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
        address = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        read, all_caches, data_not_code = int32(0), int32(3), int32(1)
        builder.call(function, [address, read, all_caches, data_not_code])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate
