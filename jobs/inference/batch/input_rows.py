"""Rows to label: of files, of standard input, or a single text."""

import csv
import difflib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import PurePath

from cluster.input_files import open_decompressed
from cluster.storage import is_uri
from jobs.config.formats import SUFFIXES, find_format
from jobs.config.settings import DELIMITERS, DataSettings, Source, describe_source
from jobs.datasets.chunks import SCANNED_FORMATS, Chunk, ColumnTypes, group_rows, iter_chunks, scan_columns
from jobs.datasets.formats.rows import DataError, ReadOptions, Record, SourceFile
from jobs.datasets.readers import choose_encoding, sum_sizes
from jobs.datasets.sources import has_matches, locate, resolve_source
from jobs.inference.batch.invalid_rows import ignore_invalid_row
from jobs.inference.batch.progress_log import ProgressLog
from jobs.model.checkpoint import Checkpoint

MIN_SIMILARITY = 0.85  # of a mistyped suffix of a file; .csvv and .csv have 0.89
STANDARD_INPUT = "-"


@dataclass(frozen=True)
class InputRows:
    """Rows to label: of files, or else of standard input or a single text.

    source: its name in messages, or the text.
    """

    source: str
    files: Sequence[SourceFile]
    options: ReadOptions
    columns: ColumnTypes

    def iter_chunks(self, *, as_batches: bool, log_progress: bool) -> Iterator[Chunk]:
        """Yield the rows."""
        if self.source == STANDARD_INPUT:
            yield from group_rows(_read_standard_input(self.options))
        elif not self.files:
            yield Chunk([self.source], [{"text": self.source}])
        else:
            num_read = 0

            def count_bytes(number: int) -> None:
                nonlocal num_read
                num_read += number

            num_bytes = sum_sizes(self.files)
            options = replace(self.options, on_bytes_read=count_bytes)
            with ProgressLog() if log_progress else nullcontext() as progress:
                for chunk in iter_chunks(self.files, options, as_batches=as_batches):
                    yield chunk
                    if progress is not None:
                        progress.add(len(chunk.texts), min(1.0, num_read / num_bytes) if num_bytes else None)


def is_file_name(source: Source) -> bool:
    """Return whether the argument of a command names a file, which may not exist; else it is a text, or "-".

    A word with a slash or a dot, such as and/or, is a text unless a file has this name. A list has only names of files.

    Raises:
        DataError: a name of a list is none of a file, or a word can only be the name of a file that does not exist.
    """
    if not isinstance(source, str):
        for name in source:
            if not is_file_name(name):
                raise DataError(f"{name}: there is no such file; several texts are read from a file")
        return True
    if source == STANDARD_INPUT:
        return False
    if os.path.exists(os.path.expanduser(source)) or find_format(source) is not None or has_matches(source):
        return True
    if len(source.split()) != 1:
        return False
    if is_uri(source):
        return True
    if _resembles_path(source):
        raise DataError(f"{source}: there is no such file")
    return False


def _resembles_path(word: str) -> bool:
    """Return whether a word can only be meant as a path: its first or last characters, or nearly a known suffix."""
    suffix = PurePath(word).suffix.lower()
    is_mistyped = any(sorted(suffix) == sorted(known) for known in SUFFIXES)
    is_mistyped = is_mistyped or bool(difflib.get_close_matches(suffix, SUFFIXES, 1, MIN_SIMILARITY))
    return word.startswith(("/", "./", "../", "~/")) or word.endswith("/") or is_mistyped


def choose_data_settings(checkpoint: Checkpoint, text_column: str | None, delimiter: str | None) -> DataSettings:
    """Return the settings of the input; other files may have another delimiter than the training file."""
    data = checkpoint.experiment.replace({"data.delimiter": delimiter}).data
    return data.model_copy(update={"folder": "."} | ({"text_column": text_column} if text_column else {}))


def open_input(
    source: Source, data: DataSettings, *, is_file: bool, skip_invalid: bool, selected: Sequence[str] | None
) -> InputRows:
    """Return the rows of a source, after its encoding and its columns are known; selected: columns of its records."""
    name = describe_source(source)
    if not is_file:
        return InputRows(name, (), ReadOptions(data), {"text": {str}})
    files = resolve_source(source, data)
    # Files that are scanned from the start to the end are not read once more to find out whether they are UTF-8, unless
    # bytes that are not are no error.
    is_scanned = all(file.format in SCANNED_FORMATS for file in files) and not skip_invalid
    is_known = is_scanned or data.encoding == "utf-8"
    encoding = "utf-8" if is_known else choose_encoding(source, data)
    strict = ReadOptions(data.model_copy(update={"encoding": encoding}), labelled=False, with_records=True)
    options = replace(strict, on_invalid_row=ignore_invalid_row) if skip_invalid else strict
    try:
        try:
            # Without a single valid row, the error of the first row is raised.
            columns = scan_columns(files, options) or scan_columns(files, strict)
        except DataError as error:
            if not (is_scanned and isinstance(error.__cause__, UnicodeDecodeError)):
                raise
            options = replace(options, data=data)
            columns = scan_columns(files, options)
    except DataError as error:
        if "(data.text_column)" not in str(error):
            raise
        raise DataError(f"{error}; name it with --text-column") from error
    if not columns:
        raise DataError(f"{locate(name, data)}: has no rows")
    options = replace(options, selected=None if selected is None else tuple(selected))
    return InputRows(name, files, options, columns)


def _read_standard_input(options: ReadOptions) -> Iterator[tuple[str, Record]]:
    number = 0
    file = SourceFile("standard input", None)
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            options.reject(file, number, DataError(f"{file.describe_position(number)}: is not UTF-8: {error.reason}"))
            continue
        yield text, {"text": text}
    if not number:
        raise DataError("standard input: has no lines; write a text on each line")


def choose_delimiter(texts: InputRows) -> str:
    """Return the delimiter of the only csv file that is read, which csv output has too; a comma for other sources."""
    files, delimiter = texts.files, texts.options.data.delimiter
    if delimiter is not None or [file.format for file in files] != ["csv"]:
        return delimiter or ","
    with open_decompressed(files[0].path) as stream:
        header = next(filter(bytes.strip, stream)).decode("utf-8-sig", errors="replace")  # delimiters are ASCII
    counts = {mark: len(next(csv.reader([header], delimiter=mark))) for mark in DELIMITERS}
    return next((mark for mark, count in counts.items() if count == len(texts.columns)), ",")
