"""Functions for compiled kernels that numba lacks: prefetch, sums of vectors, and arrays that are passed by address.

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
BLOCK = 16  # values of a vector
BLOCKS_AT_A_TIME = 3
LANES = 8  # values that `sum_rows` adds at once
LANE_BLOCKS_AT_A_TIME = 4

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


@intrinsic
def update_maxima(
    typing_context: Any, maxima: Any, begin: Any, end: Any, table: Any, offsets: Any, first: Any, stop: Any
) -> tuple[Any, Callable[..., Any]]:
    """Replace maxima[i] by the sum of table[offsets[p] + i] over p from first to stop - 1, where that is larger.

    For each i from begin to end, a multiple of BLOCK. numba's own loops over so few values take twice as long. The
    table is int16 and the maxima are int32, or both are float32; the numbers are int64. Nothing is checked.
    """
    is_float = isinstance(table.dtype, types.Float)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        maxima_data, table_data, offsets_data = (
            context.make_array(signature.args[number])(context, builder, arguments[number]).data for number in (0, 3, 4)
        )
        _, begin, end, _, _, first, stop = arguments
        number = first.type
        stored, vector = (ir.VectorType(context.get_data_type(array.dtype), BLOCK) for array in (table, maxima))
        add = builder.fadd if is_float else builder.add
        compare = builder.fcmp_ordered if is_float else builder.icmp_signed

        def find_blocks(data: Any, index: Any, count: int, block: Any) -> list[Any]:
            indices = [builder.add(index, number(BLOCK * offset)) for offset in range(count)]
            return [builder.bitcast(builder.gep(data, [index]), block.as_pointer()) for index in indices]

        def load_row(position: Any, index: Any, count: int) -> list[Any]:
            index = builder.add(builder.load(builder.gep(offsets_data, [position])), index)
            pointers = find_blocks(table_data, index, count, stored)
            values = [builder.load(pointer, align=table.dtype.bitwidth // 8) for pointer in pointers]
            return values if is_float else [builder.sext(value, vector) for value in values]

        def update(begin: Any, end: Any, count: int) -> None:
            """Update `count` blocks at a time, whose sums are in registers."""
            with cgutils.for_range_slice(builder, begin, end, number(BLOCK * count)) as (index, _):
                # numba does not annotate alloca_once_value.
                totals = [cgutils.alloca_once_value(builder, value) for value in load_row(first, index, count)]  # type: ignore[no-untyped-call]
                with cgutils.for_range_slice(builder, builder.add(first, number(1)), stop, number(1)) as (position, _):
                    for total, value in zip(totals, load_row(position, index, count), strict=True):
                        builder.store(add(builder.load(total), value), total)
                for total, target in zip(totals, find_blocks(maxima_data, index, count, vector), strict=True):
                    value, maximum = builder.load(total), builder.load(target, align=4)
                    larger = builder.select(compare(">", value, maximum), value, maximum)
                    builder.store(larger, target, align=4)

        rest = builder.srem(builder.sub(end, begin), number(BLOCK * BLOCKS_AT_A_TIME))
        middle = builder.sub(end, rest)
        update(begin, middle, BLOCKS_AT_A_TIME)
        update(middle, end, 1)
        return context.get_dummy_value()

    int64 = types.int64
    return types.void(maxima, int64, int64, table, offsets, int64, int64), generate


def _sum_rows(typing_context: Any, sums: Any, rows: Any, offsets: Any, count: Any) -> tuple[Any, Callable[..., Any]]:
    """Replace sums[i] by the sum of rows[offsets[j] + i] over j from 0 to count - 1.

    The rows are int16 and the sums are int32, or both are float32; the numbers are int64, and the number of sums is a
    multiple of LANES. The sums are in registers, a part of them at a time. Nothing is checked.
    """
    is_float = isinstance(rows.dtype, types.Float)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        arrays = [
            context.make_array(signature.args[number])(context, builder, arguments[number]) for number in range(3)
        ]
        sums_data, rows_data, offsets_data = (array.data for array in arrays)
        count = arguments[3]
        number = count.type
        stored, vector = (ir.VectorType(context.get_data_type(array.dtype), LANES) for array in (rows, sums))
        add = builder.fadd if is_float else builder.add
        size = cgutils.unpack_tuple(builder, arrays[0].shape, 1)[0]  # type: ignore[no-untyped-call]

        def find_blocks(data: Any, index: Any, blocks: int, block: Any) -> list[Any]:
            indices = [builder.add(index, number(LANES * offset)) for offset in range(blocks)]
            return [builder.bitcast(builder.gep(data, [index]), block.as_pointer()) for index in indices]

        def update(begin: Any, end: Any, blocks: int) -> None:
            with cgutils.for_range_slice(builder, begin, end, number(LANES * blocks)) as (index, _):
                totals = [cgutils.alloca_once_value(builder, ir.Constant(vector, None)) for _ in range(blocks)]  # type: ignore[no-untyped-call]
                for total in totals:
                    builder.store(ir.Constant(vector, None), total)
                with cgutils.for_range_slice(builder, number(0), count, number(1)) as (row, _):
                    start = builder.add(builder.load(builder.gep(offsets_data, [row])), index)
                    for total, pointer in zip(totals, find_blocks(rows_data, start, blocks, stored), strict=True):
                        value = builder.load(pointer, align=rows.dtype.bitwidth // 8)
                        builder.store(
                            add(builder.load(total), value if is_float else builder.sext(value, vector)), total
                        )
                for total, target in zip(totals, find_blocks(sums_data, index, blocks, vector), strict=True):
                    builder.store(builder.load(total), target, align=4)

        middle = builder.sub(size, builder.srem(size, number(LANES * LANE_BLOCKS_AT_A_TIME)))
        update(number(0), middle, LANE_BLOCKS_AT_A_TIME)
        update(middle, size, 1)
        return context.get_dummy_value()

    return types.void(sums, rows, offsets, types.int64), generate


sum_rows = cast("Callable[[NDArray[Any], NDArray[Any], NDArray[Any], int], None]", intrinsic(_sum_rows))


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


def _view_bytes(typing_context: Any, content: Any) -> tuple[Any, Callable[..., Any]] | None:
    """Return a bytes object, or an array of bytes, as an array of the same type as that of `get_array`.

    It must not be changed, and is valid as long as the content.
    """
    if content.layout != "C" or content.dtype != types.uint8:
        return None
    array = types.Array(types.uint8, 1, "C")

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source = context.make_array(signature.args[0])(context, builder, arguments[0])
        [size] = cgutils.unpack_tuple(builder, source.shape, 1)  # type: ignore[no-untyped-call]
        return _make_view(context, builder, array, source.data, size)

    return array(content), generate


view_bytes = cast("Callable[[bytes | NDArray[np.uint8]], NDArray[np.uint8]]", intrinsic(_view_bytes))
