"""Texts of a column of Arrow, in UTF-8 as the column has them: compiled code reads them without objects of Python."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np

if TYPE_CHECKING:
    from pyarrow import Array


@dataclass(frozen=True)
class EncodedTexts(Sequence[str]):
    """Texts, which are decoded when they are read.

    content: all texts in UTF-8, one after the other; offsets: `(texts + 1,)` int64, text i has the bytes from
    offsets[i] to offsets[i + 1].
    """

    content: bytes
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Return a text, or a list of texts."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.content[self.offsets[index] : self.offsets[index + 1]].decode("utf-8")


def encode_column(column: "Array") -> EncodedTexts:
    """Return the texts of a column of strings without nulls; `pyarrow.ArrowInvalid` if one is not UTF-8."""
    import pyarrow as pa  # the classifier, which needs only the class, does without it

    if pa.types.is_dictionary(column.type):
        column = column.dictionary.cast(pa.large_string()).take(column.indices)
    elif not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        column = column.cast(pa.large_string())
    column.validate(full=True)
    _, offsets, content = column.buffers()
    if not len(column) or content is None:
        return EncodedTexts(b"", np.zeros(len(column) + 1, np.int64))
    dtype = np.int64 if pa.types.is_large_string(column.type) else np.int32
    bounds = np.frombuffer(offsets, dtype)[column.offset : column.offset + len(column) + 1].astype(np.int64)
    start = int(bounds[0])
    return EncodedTexts(content.slice(start, int(bounds[-1]) - start).to_pybytes(), bounds - start)
