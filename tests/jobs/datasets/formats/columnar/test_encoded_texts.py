"""Texts of a column of Arrow in UTF-8, of every type of strings."""

import numpy as np
import pyarrow as pa
import pytest

from jobs.datasets.formats.columnar.encoded_texts import encode_column

TEXTS = ["a", "b\u00e9", "", "\U0001f642", "a"]
WORDS = pa.array(TEXTS[:4])
COLUMNS = [
    pa.array(TEXTS),
    pa.array(TEXTS, pa.large_string()),
    pa.array(TEXTS).cast(pa.string_view()),
    pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 3, 0], pa.int8()), WORDS),
    pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 3, 0]), WORDS.cast(pa.string_view())),
]


@pytest.mark.parametrize("column", COLUMNS, ids=[str(column.type).split(",")[0] for column in COLUMNS])
def test_the_texts_are_those_of_the_column(column: pa.Array) -> None:
    """Also of a slice; only its bytes are copied."""
    assert list(encode_column(column)) == TEXTS
    for start, count in ((1, 3), (2, 1), (3, 0)):
        encoded = encode_column(column.slice(start, count))
        assert list(encoded) == encoded[:] == TEXTS[start : start + count]
        assert len(encoded.content) == encoded.offsets[-1] == len("".join(encoded).encode())
    assert encode_column(column)[3] == TEXTS[3]
    assert list(encode_column(column.slice(0, 0))) == []


def test_bytes_that_are_not_utf8_are_an_error() -> None:
    """A compiled tokenizer would read beyond the text."""
    offsets = pa.py_buffer(np.array([0, 1, 2], np.int32))
    column = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"a\xc3")])
    with pytest.raises(pa.ArrowInvalid, match="Invalid UTF8"):
        encode_column(column)
    assert list(encode_column(column.slice(0, 1))) == ["a"]
