"""Parts of files: together they have the rows of the whole file, with the same numbers."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.config.settings import DataSettings
from jobs.datasets.chunks import divide_files
from jobs.datasets.formats.rows import DataError, ReadOptions, Row, SourceFile
from jobs.datasets.readers import iter_rows
from jobs.datasets.sources import resolve_source
from tests.support.text_formats import encode_rows, encode_table

ROWS = [(f"label {number % 3}", f"text {number}" + ', "quoted" and naïve' * (number % 2)) for number in range(60)]


def read(files: list[SourceFile], **data: str) -> Iterator[Row]:
    options = ReadOptions(DataSettings(**data), labelled=False, with_records=True)
    return (row for file in files for row in iter_rows(file, options))


def divide(files: list[SourceFile], part_bytes: int, **data: str) -> list[SourceFile]:
    return divide_files(files, ReadOptions(DataSettings(**data), labelled=False, with_records=True), part_bytes)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".txt", ".parquet", ".arrow", ".csv.gz"])
def test_parts_have_the_rows_of_the_file(tmp_path: Path, suffix: str) -> None:
    """Arrow and compressed files are one part."""
    content = encode_rows(ROWS, suffix.removesuffix(".gz"))
    (tmp_path / f"a{suffix}").write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    files = resolve_source(str(tmp_path), DataSettings())
    expected = list(read(files))
    parts = divide(files, 300)
    assert list(read(parts)) == expected
    assert len(expected) == len(ROWS)
    assert (len(parts) > 3) == (suffix not in (".arrow", ".csv.gz"))
    assert list(read(divide(files, 1 << 20))) == expected


VALID = st.sampled_from(["", "a", '"b"', '"a\nb"', '"\n\n""c"', "\x85ü", "\ufeff"])
FIELDS = VALID | st.sampled_from(['"', '"a\n', '"d\t""e""', "f\r"])
LINES = st.lists(st.tuples(VALID, VALID), max_size=12) | st.lists(st.tuples(FIELDS, FIELDS), max_size=6)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=LINES,
    header=st.sampled_from(["text{}x", '"text"{}"x"', "\n\ntext{}x", "\ufefftext{}x", '"text"{}"x\ny"']),
    suffix=st.sampled_from(["csv", "tsv"]),
    size=st.integers(1, 30),
)
def test_rows_of_several_lines_are_not_divided(
    tmp_path: Path, lines: list[tuple[str, str]], header: str, suffix: str, size: int
) -> None:
    """Whatever quotes, delimiters and line ends a file has; an invalid file is an error in both cases."""
    mark = "\t" if suffix == "tsv" else ","
    path = tmp_path / f"a.{suffix}"
    text = "".join(f"{line}\n" for line in [header.format(mark), *map(mark.join, lines)])
    path.write_text(text, encoding="utf-8", newline="")
    files = resolve_source(str(path), DataSettings())
    try:
        expected = list(read(files))
    except DataError:
        with pytest.raises(DataError):
            list(read(divide(files, size)))
        return
    assert list(read(divide(files, size))) == expected


@pytest.mark.parametrize(
    ("group_rows", "part_bytes", "expected"),
    [
        (10, 1000, [50] * 20),
        (300, 4000, [300, 300, 300, 100]),
        (1000, 5000, [333, 333, 334]),
        (1000, 1, [250] * 4),
        (10, 1 << 20, [1000]),
    ],
)
def test_parquet_is_divided_between_row_groups(
    tmp_path: Path, group_rows: int, part_bytes: int, expected: list[int]
) -> None:
    """So that no row is decoded for several parts, except in a large group, which has at most four parts."""
    path = str(tmp_path / "a.parquet")
    table = pyarrow.table({"text": [f"{number:08}" for number in range(1000)]})  # 12 bytes a row, and some of a group
    pyarrow.parquet.write_table(table, path, row_group_size=group_rows, use_dictionary=False, compression="none")
    files = divide(resolve_source(path, DataSettings()), part_bytes)
    assert [file.part.end - file.part.start for file in files if file.part] == expected
    assert [text for _, text, _, _ in read(files)] == table["text"].to_pylist()


def test_a_row_is_named_by_its_line_in_the_file(tmp_path: Path) -> None:
    """Also in a part."""
    (tmp_path / "a.csv").write_text("id,text\n" + "1,a\n" * 50 + "1\n")
    with pytest.raises(DataError, match=r"a\.csv, line 52: has 1 columns"):
        list(read(divide(resolve_source(str(tmp_path), DataSettings()), 20)))
    (tmp_path / "a.csv").unlink()
    table = pyarrow.table({"text": ["a"] * 119 + [None]})
    (tmp_path / "a.parquet").write_bytes(encode_table(table, ".parquet"))
    with pytest.raises(DataError, match=r"a\.parquet, row 120: the text in 'text' is null"):
        list(read(divide(resolve_source(str(tmp_path), DataSettings()), 200)))


@pytest.mark.parametrize(("encoding", "delimiter"), [("shift_jis", ","), ("utf-8", "§"), ("nothing", ",")])
def test_a_file_in_which_bytes_are_ambiguous_is_not_divided(tmp_path: Path, encoding: str, delimiter: str) -> None:
    """The second byte of a character may be that of a delimiter, and a delimiter may have two bytes."""
    (tmp_path / "a.csv").write_text(f"id{delimiter}text\n" + f"1{delimiter}a\n" * 50)
    files = resolve_source(str(tmp_path), DataSettings())
    assert divide(files, 20, encoding=encoding, delimiter=delimiter) == files


def test_a_file_without_rows_has_no_parts(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\n")
    (tmp_path / "b.csv").write_text("text\na\n")
    [part] = divide(resolve_source(str(tmp_path), DataSettings()), 20)
    assert part.path.endswith("b.csv")
