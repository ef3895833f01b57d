"""Functions for compiled kernels that numba lacks: prefetch, arrays that are passed by address, and views of bytes.

To pass twenty arrays through numba's dispatcher takes longer than to classify a text. So their addresses and sizes are
packed into one array, which is passed instead. Whoever packs them keeps the arrays alive.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array
from numpy.typing import NDArray

CACHE_LINE = 64  # bytes that a processor fetches together

Scalar = TypeVar("Scalar", bound=np.generic)


@intrinsic
def prefetch(typing_context: Any, array: Any, index: Any) -> tuple[Any, Callable[..., Any]]:
    """Make the processor fetch an array's element, given by an int64 index, into its second-level cache.

    Kernels prefetch more than the first-level cache holds. To prefetch into both takes a quarter more time.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        int32, byte = ir.IntType(32), ir.IntType(8).as_pointer()
        function_type = ir.FunctionType(ir.VoidType(), [byte, int32, int32, int32])
        # numba does not annotate get_or_insert_function.
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")  # type: ignore[no-untyped-call]
        address = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        read, second_level, data_not_code = int32(0), int32(2), int32(1)
        builder.call(function, [address, read, second_level, data_not_code])
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


def pack_addresses(arrays: Sequence[np.ndarray]) -> NDArray[np.int64]:
    """Return the address and the size of each array, one after the other; all must be contiguous."""
    assert all(array.flags.c_contiguous for array in arrays)
    return np.array([number for array in arrays for number in (array.ctypes.data, array.size)], np.int64)


def _make_view(context: Any, builder: Any, array: types.Array, data: Any, size: Any) -> Any:
    """Return an array of one dimension whose memory numba does not manage."""
    result = context.make_array(array)(context, builder)
    item_size = size.type(context.get_abi_sizeof(context.get_data_type(array.dtype)))
    # numba does not annotate populate_array.
    populate_array(result, data=data, shape=[size], strides=[item_size], itemsize=item_size, meminfo=None)  # type: ignore[no-untyped-call]
    return result._getvalue()


def _get_array(typing_context: Any, addresses: Any, index: Any, dtype: Any) -> tuple[Any, Callable[..., Any]] | None:
    """Return an array, as one dimension, of those whose addresses were packed; it is valid as long as they are."""
    if addresses.layout != "C":
        return None
    array = types.Array(dtype.dtype, 1, "C")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        numbers = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        first = builder.mul(arguments[1], arguments[1].type(2))
        address, size = (
            builder.load(builder.gep(numbers, [builder.add(first, first.type(offset))])) for offset in (0, 1)
        )
        data = builder.inttoptr(address, context.get_data_type(array.dtype).as_pointer())
        return _make_view(context, builder, array, data, size)

    return array(addresses, types.int64, dtype), generate


# Arguments: addresses, `(2 * arrays,)` int64; index of the array; its dtype. An intrinsic, since a kernel would be
# compiled once more for each dtype.
get_array = cast(
    "Callable[[NDArray[np.int64], int, type[Scalar] | np.dtype[Scalar]], NDArray[Scalar]]", intrinsic(_get_array)
)


def _view_bytes(array: types.Array) -> Any:
    """Return an intrinsic that views an array of bytes as one of another type, which differs only in whether it can be
    written: a kernel is compiled once for each type."""

    def view(typing_context: Any, content: Any) -> tuple[Any, Callable[..., Any]] | None:
        if content.layout != "C" or content.dtype != types.uint8:
            return None

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            source = context.make_array(signature.args[0])(context, builder, arguments[0])
            [size] = cgutils.unpack_tuple(builder, source.shape, 1)  # type: ignore[no-untyped-call]
            return _make_view(context, builder, array, source.data, size)

        return array(content), generate

    return intrinsic(view)


# Valid as long as their argument.
view_read_only = _view_bytes(types.Array(types.uint8, 1, "C", readonly=True))
view_writable = _view_bytes(types.Array(types.uint8, 1, "C"))
