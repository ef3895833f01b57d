"""Blocks of rows: those of the readers of the formats, or their errors."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.config.formats import FormatName
from jobs.config.settings import DataSettings
from jobs.datasets.formats.delimited import MAX_RECORD_LINES
from jobs.datasets.formats.fasttext_lines import LABEL_PREFIX
from jobs.datasets.formats.rows import ReadOptions, SourceFile
from jobs.datasets.prepared import blocks, row_blocks, row_kernel
from jobs.datasets.readers import iter_rows
from tests.support.row_blocks import check_blocks, count_fast_rows, iter_blocks

pytestmark = pytest.mark.usefixtures("small_blocks")

BLOCK_BYTES = 12
# Usual rows, what occurs in them, and what is invalid somewhere.
PIECES = [
    b"x,a b\n",
    b"x\ta b\r\n", b"__label__x a b\n", b"y,\"a \"\"b\"\"\n c\"\n", b"y\t\"a\nb\"\n", b"z\t\"a\"\n", b"x,\n",
    b"a", b",", b"\t", b"\n", b"\r\n", b"\r", b'"', b'""', b" ", b"\0", "é".encode(), "\u3000".encode(),
    "\x85".encode(), "\U00020000".encode(), b"\xff", b"\xed\xa0\x80", b"__label__", b"1.0", b"true",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "header"), [("csv", b"label,text\n"), ("tsv", b"label\ttext\n"), ("fasttext", b"")])
@settings(deadline=None, max_examples=250)  # the first call compiles
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=24), is_bom=st.booleans())
def test_rows_and_errors_are_those_of_the_reader(
    path: Path, kind: FormatName, header: bytes, pieces: list[bytes], is_bom: bool
) -> None:
    """Whatever a file contains: quotes, line ends, blank lines, invalid UTF-8."""
    path.write_bytes((b"\xef\xbb\xbf" if is_bom else b"") + header + b"".join(pieces))
    check_blocks(path, kind, DataSettings())


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("tsv", {"delimiter": ","}), ("csv", {"delimiter": ";"}), ("csv", {"text_column": "label"}),
     ("csv", {"encoding": "latin-1"}), ("csv", {"encoding": "ascii"}), ("csv", {"encoding": "utf-8-sig"})],
)  # fmt: skip
def test_settings_of_the_data_are_followed(path: Path, kind: FormatName, settings: dict[str, str]) -> None:
    delimiter = settings.get("delimiter", ",")
    path.write_bytes("\n\nid,label,text\n1,x,é\n2,y,b c\n3,x,d,\n".replace(",", delimiter).encode())
    assert (
        "line 6: has 4 columns" in check_blocks(path, kind, DataSettings(**settings)) or settings["encoding"] == "ascii"
    )


def test_a_quoted_row_of_many_lines_is_not_divided(path: Path) -> None:
    """In tsv it is recognized by its end, up to as many lines later."""
    for num_lines in (MAX_RECORD_LINES - 1, MAX_RECORD_LINES, MAX_RECORD_LINES + 1):
        text = "\n".join(["a"] * num_lines)
        path.write_text("label\ttext\n" + f'x\t"{text}"\nx\tb "c" d\n' + "x\te\n" * 300)
        check_blocks(path, "tsv", DataSettings())
        path.write_text("label,text\n" + f'x,"{text}"\nx,b "c" d\n' + "x,e\n" * 300)
        assert check_blocks(path, "csv", DataSettings()) == ""


def test_rows_without_a_block_end_are_read_one_after_the_other(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those before are not repeated."""
    monkeypatch.setattr(blocks, "MAX_BLOCK_BYTES", 64)
    path.write_text("label\ttext\n" + "x\ta\n" * 300 + 'x\t"b\n' * 200)
    file, options = SourceFile(str(path), "tsv"), ReadOptions(DataSettings())
    assert list(iter_blocks(file, options)) == [row[:3] for row in iter_rows(file, options)]


@pytest.mark.parametrize("cut", [0, 8])
def test_compressed_files_are_read_and_damage_is_reported(path: Path, cut: int) -> None:
    content = gzip.compress(b"label,text\n" + b"".join(b"x,%d\n" % number for number in range(1000)))
    path.write_bytes(content[: len(content) - cut])
    assert ("damaged or incomplete" in check_blocks(path, "csv", DataSettings())) == (cut > 0)


def test_rows_are_parsed_in_compiled_code(path: Path) -> None:
    """The reader in Python is not called for usual rows."""
    path.write_text("label,text\n" + 'x,"a ""b"""\ny,é\n' * 10)
    assert count_fast_rows(path, "csv") == 20


@settings(deadline=None, max_examples=500)
@given(content=st.binary(max_size=6).map(lambda part: b"a" * 61 + part) | st.text().map(str.encode))
def test_invalid_utf8_is_recognized(content: bytes) -> None:
    try:
        content.decode()
        is_valid = True
    except UnicodeDecodeError:
        is_valid = False
    assert row_blocks.is_utf8(np.frombuffer(content, np.uint8)) == is_valid


def test_constants_are_those_of_the_readers() -> None:
    """numba does not notice changes in other files, so they are copied."""
    assert row_kernel.LABEL_PREFIX.tobytes() == LABEL_PREFIX.encode()
    assert row_kernel.MAX_RECORD_LINES == MAX_RECORD_LINES
