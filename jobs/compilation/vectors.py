"""Functions for compiled kernels that sum rows of a table, in the processor's vector registers.

numba's own loops over so few values take twice as long. Rows are of int16, which is summed in int32, or of float32;
results are float32. Nothing is checked.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

BLOCK = 8  # values of a vector
# Blocks of a call of `max_windows`: with AVX2 there are 16 registers, and a block needs one for the sum and one for the
# maximum.
BLOCK_COUNTS = (7, 4, 2, 1)
_BLOCKS_OF_SUMS = 4  # at a time


class _Rows:
    """Code for blocks of rows.

    Args:
        table: numba's type of the array of the rows.
    """

    def __init__(self, context: Any, builder: Any, table: Any) -> None:
        self._builder = builder
        self._is_float = isinstance(table.dtype, types.Float)
        self._stored = ir.VectorType(context.get_data_type(table.dtype), BLOCK)
        self._result = ir.VectorType(ir.FloatType(), BLOCK)
        self._summed = self._result if self._is_float else ir.VectorType(ir.IntType(32), BLOCK)
        self._alignment = table.dtype.bitwidth // 8
        self.lowest = ir.Constant(self._summed, [-np.inf if self._is_float else -(1 << 31)] * BLOCK)
        self.zero = ir.Constant(self._summed, None)
        self.add = builder.fadd if self._is_float else builder.add
        self._compare = builder.fcmp_ordered if self._is_float else builder.icmp_signed

    def make_variables(self, initial: list[Any]) -> list[Any]:
        """Return variables for the values of blocks, which LLVM keeps in registers."""
        # numba does not annotate alloca_once.
        variables = [cgutils.alloca_once(self._builder, self._summed) for _ in initial]  # type: ignore[no-untyped-call]
        for variable, value in zip(variables, initial, strict=True):
            self._builder.store(value, variable)
        return variables

    def update(self, variables: list[Any], combine: Callable[[Any, Any], Any], values: list[Any]) -> None:
        """Replace each variable by what is combined of it and a value."""
        for variable, value in zip(variables, values, strict=True):
            self._builder.store(combine(self._builder.load(variable), value), variable)

    def find_larger(self, first: Any, second: Any) -> Any:
        return self._builder.select(self._compare(">", first, second), first, second)

    def load(self, data: Any, index: Any, size: int) -> list[Any]:
        """Return blocks that start at an index of the table."""
        pointers = self._find_blocks(data, index, size, self._stored)
        values = [self._builder.load(pointer, align=self._alignment) for pointer in pointers]
        return values if self._is_float else [self._builder.sext(value, self._summed) for value in values]

    def write(self, variables: list[Any], data: Any, index: Any) -> None:
        """Write variables to an array of float32, from an index on."""
        pointers = self._find_blocks(data, index, len(variables), self._result)
        for variable, pointer in zip(variables, pointers, strict=True):
            value = self._builder.load(variable)
            value = value if self._is_float else self._builder.sitofp(value, self._result)
            self._builder.store(value, pointer, align=4)

    def _find_blocks(self, data: Any, index: Any, size: int, block: ir.VectorType) -> list[Any]:
        indices = [self._builder.add(index, index.type(BLOCK * number)) for number in range(size)]
        return [self._builder.bitcast(self._builder.gep(data, [index]), block.as_pointer()) for index in indices]


def _find_data(context: Any, builder: Any, signature: Any, arguments: Any, count: int) -> list[Any]:
    """Return the addresses of the first arguments, which are arrays."""
    return [context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in range(count)]


def _max_windows(
    typing_context: Any, maxima: Any, table: Any, ids: Any, count: Any, num_columns: Any, column: Any, stride: Any,
    width: Any, blocks: Any,
) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
    """Write the maxima over a text's windows of some filters of one width: maxima[i] of filter i.

    A window is a sum of table[ids[start + position] * num_columns + column + position * stride + i] over the positions
    below width that are in the text. It may start before the text or end after it, but has a word of it.

    ids: int64. The numbers are int64: count of the text's words, at least one; blocks of filters, one of
    BLOCK_COUNTS.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        maxima_data, table_data, ids_data = _find_data(context, builder, signature, arguments, 3)
        _, _, _, count, num_columns, column, stride, width, blocks = arguments
        number, rows = count.type, _Rows(context, builder, table)

        def load_row(start: Any, position: Any, size: int) -> list[Any]:
            word = builder.load(builder.gep(ids_data, [builder.add(start, position)]))
            row = builder.add(builder.mul(word, num_columns), column)
            index = builder.add(row, builder.mul(position, stride))
            return rows.load(table_data, index, size)

        def write_maxima(size: int) -> None:
            maxima = rows.make_variables([rows.lowest] * size)
            with cgutils.for_range_slice(builder, builder.sub(number(1), width), count, number(1)) as (start, _):
                before, rest = builder.neg(start), builder.sub(count, start)
                first = builder.select(builder.icmp_signed(">", before, number(0)), before, number(0))
                end = builder.select(builder.icmp_signed("<", rest, width), rest, width)
                totals = rows.make_variables(load_row(start, first, size))
                with cgutils.for_range_slice(builder, builder.add(first, number(1)), end, number(1)) as (position, _):
                    rows.update(totals, rows.add, load_row(start, position, size))
                rows.update(maxima, rows.find_larger, [builder.load(total) for total in totals])
            rows.write(maxima, maxima_data, number(0))

        end = builder.append_basic_block("max_windows")
        switch = builder.switch(blocks, end)
        for size in BLOCK_COUNTS:
            case = builder.append_basic_block("max_windows")
            switch.add_case(number(size), case)
            builder.position_at_end(case)
            write_maxima(size)
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    int64 = types.int64
    return types.void(maxima, table, ids, *[int64] * 6), generate


def choose_blocks(num_blocks: int) -> int:
    """Return the blocks of each call of `max_windows` for a number of blocks.

    Every call is assumed to take as long as one more block.
    """
    counts = [count for count in BLOCK_COUNTS if count <= num_blocks]
    return min(counts, key=lambda count: math.ceil(num_blocks / count) * (count + 1))


def _sum_rows(typing_context: Any, sums: Any, rows: Any, offsets: Any, count: Any) -> tuple[Any, Callable[..., Any]]:
    """Write the sums of rows: sums[i] of rows[offsets[j] + i] over j from 0 to count - 1.

    offsets: int64. The number of sums is a multiple of BLOCK.
    """
    table = rows

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums_data, rows_data, offsets_data = _find_data(context, builder, signature, arguments, 3)
        count = arguments[3]
        number, rows = count.type, _Rows(context, builder, table)
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        [size] = cgutils.unpack_tuple(builder, array.shape, 1)  # type: ignore[no-untyped-call]

        def write_sums(begin: Any, end: Any, blocks: int) -> None:
            with cgutils.for_range_slice(builder, begin, end, number(BLOCK * blocks)) as (index, _):
                totals = rows.make_variables([rows.zero] * blocks)
                with cgutils.for_range_slice(builder, number(0), count, number(1)) as (row, _):
                    offset = builder.load(builder.gep(offsets_data, [row]))
                    rows.update(totals, rows.add, rows.load(rows_data, builder.add(offset, index), blocks))
                rows.write(totals, sums_data, index)

        middle = builder.sub(size, builder.srem(size, number(BLOCK * _BLOCKS_OF_SUMS)))
        write_sums(number(0), middle, _BLOCKS_OF_SUMS)
        write_sums(middle, size, 1)
        return context.get_dummy_value()

    return types.void(sums, rows, offsets, types.int64), generate


max_windows = cast(
    "Callable[[NDArray[Any], NDArray[Any], NDArray[Any], int, int, int, int, int, int], None]", intrinsic(_max_windows)
)
sum_rows = cast("Callable[[NDArray[Any], NDArray[Any], NDArray[Any], int], None]", intrinsic(_sum_rows))
