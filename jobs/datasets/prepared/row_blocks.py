"""Blocks of rows of labelled texts, as flat arrays, from files of all formats.

Of rows with one label and no weight, usual rows of csv, tsv and fastText files are parsed in compiled code, and the
columns of parquet and Arrow files are read as they are, on several threads. Those of jsonl are parsed with jiter, which
holds Python's lock: one block at a time. The readers in `jobs.datasets.formats` read all others, and raise the errors.
"""

import codecs
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa

from cluster.input_files import READ_ERRORS
from cluster.machine import count_cpus
from cluster.storage import StorageError
from jobs.datasets.formats.columnar.arrow import open_arrow
from jobs.datasets.formats.columnar.parquet import open_parquet
from jobs.datasets.formats.columnar.record_batches import EncodedRows, encode_batches
from jobs.datasets.formats.labels import LabelParser
from jobs.datasets.formats.rows import DataError, Label, ReadOptions, Row, SourceFile
from jobs.datasets.prepared import row_kernel
from jobs.datasets.prepared.blocks import NotDivisibleError, RowParser, find_parser, is_encoded_in_utf8, iter_blocks
from jobs.datasets.prepared.equal_rows import hash_rows
from jobs.datasets.prepared.json_rows import parse_rows
from jobs.datasets.row_weights import parse_weight
from jobs.datasets.tokenization.code_points import encode_texts
from jobs.datasets.tokenization.word_index import WordIndex

MAX_ROWS = 1 << 14  # of a block, where a file is not divided into blocks of BLOCK_BYTES

ReadFile = Callable[[SourceFile, ReadOptions], Iterator[Row]]


@dataclass(frozen=True)
class RowBlock:
    """Rows of a file.

    content, offsets: texts, as in texts.py; hashes, lines, weights: as there. labels: the distinct ones; label_indices:
    `(rows,)` int32.
    """

    content: np.ndarray
    offsets: np.ndarray
    hashes: np.ndarray
    lines: np.ndarray
    labels: Sequence[Label]
    label_indices: np.ndarray
    weights: np.ndarray | None = None


def read_blocks(
    file: SourceFile, options: ReadOptions, read_file: ReadFile, weight_column: str | None
) -> Iterator[RowBlock]:
    """Yield the rows of a file in their order.

    Args:
        read_file: yields the rows of any file, or part of it.
        weight_column: column of weights, None without; with it, rows have records.

    Raises:
        DataError, StorageError: as of `read_file`.
    """
    num_rows = 0
    try:
        for block in _run_in_order(_plan_blocks(file, options, read_file)):
            yield block
            num_rows += len(block.lines)
        return
    except (NotDivisibleError, StorageError, *READ_ERRORS):
        pass  # the reader of the format continues, or reports what is wrong
    rows = itertools.islice(read_file(file, options), num_rows, None)
    while chunk := list(itertools.islice(rows, MAX_ROWS)):
        yield _collect(file, chunk, weight_column)


def _plan_blocks(file: SourceFile, options: ReadOptions, read_file: ReadFile) -> Iterator[Callable[[], RowBlock]]:
    """Yield functions that return the blocks of a file, or raise its errors or NotDivisibleError."""
    if options.with_records or not options.labelled or options.data.is_multi_label or file.part:
        raise NotDivisibleError
    if file.format in ("parquet", "arrow"):
        try:
            for convert in encode_batches(file, options, open_parquet if file.format == "parquet" else open_arrow):
                yield partial(_convert_slice, convert)
        except DataError as error:
            raise NotDivisibleError from error
        return
    if not is_encoded_in_utf8(options):
        raise NotDivisibleError
    if file.format == "jsonl":
        for part in iter_blocks(file):
            yield partial(_parse_json_block, replace(file, part=part), options, read_file)
        return
    parser, header = find_parser(file, options) or (None, None)
    if parser is None:
        raise NotDivisibleError
    for part in iter_blocks(file, header, parser.find_quoted_cut):
        yield partial(_parse_block, replace(file, part=part), options, read_file, parser)


def _run_in_order(tasks: Iterator[Callable[[], RowBlock]]) -> Iterator[RowBlock]:
    """Yield the results of functions, which several threads call; an error follows the results before it."""
    num_threads = count_cpus()
    running: deque[Future[RowBlock]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for task in _defer_error(tasks):
                running.append(pool.submit(task))
                if len(running) > num_threads:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _defer_error(tasks: Iterator[Callable[[], RowBlock]]) -> Iterator[Callable[[], RowBlock]]:
    """Yield functions, and, instead of an error that ends them, one that raises it."""
    try:
        yield from tasks
    except (DataError, NotDivisibleError, StorageError, *READ_ERRORS) as error:
        yield partial(_fail, error)


def _fail(error: Exception) -> RowBlock:
    raise error


def _convert_slice(convert: Callable[[], EncodedRows]) -> RowBlock:
    """Return the rows of a slice of a parquet or Arrow file; NotDivisibleError if one is invalid."""
    try:
        rows = convert()
    except (DataError, pa.ArrowException, UnicodeDecodeError) as error:
        raise NotDivisibleError from error
    content, offsets = np.frombuffer(rows.texts.content, np.uint8), rows.texts.offsets
    lines = np.arange(rows.first, rows.first + len(rows.texts))
    return RowBlock(content, offsets, hash_rows(content, offsets), lines, rows.labels, rows.label_indices)


def _parse_block(file: SourceFile, options: ReadOptions, read_file: ReadFile, parser: RowParser) -> RowBlock:
    """Return the rows of a block, which is the part of `file`."""
    assert file.part is not None
    assert file.part.content is not None
    content = np.frombuffer(file.part.content, np.uint8)
    if file.part.num_before == 0 and file.part.content.startswith(codecs.BOM_UTF8):
        content = content[len(codecs.BOM_UTF8) :]
    max_rows = file.part.content.count(b"\n") + 1
    texts, labels = np.empty((2, len(content)), np.uint8)
    text_offsets, label_offsets = np.zeros((2, max_rows + 1), np.int64)
    lines = np.empty(max_rows, np.int64)
    count = row_kernel.UNUSUAL
    if is_utf8(content):
        count = parser.read(content, parser.columns, (texts, text_offsets[1:], labels, label_offsets[1:], lines))
    names = None
    if count != row_kernel.UNUSUAL:
        text_offsets, label_offsets = text_offsets[: count + 1], label_offsets[: count + 1]
        index = WordIndex()
        label_indices = index.add_encoded(_freeze(labels[: label_offsets[-1]]), label_offsets)
        names = _spell_labels(file, options, index.list_words())
    if names is None:
        return _collect(file, list(read_file(file, options)), None)
    texts = _freeze(texts[: text_offsets[-1]])
    lines = lines[:count] + file.part.num_before
    return RowBlock(texts, text_offsets, hash_rows(texts, text_offsets), lines, names, label_indices)


def _parse_json_block(file: SourceFile, options: ReadOptions, read_file: ReadFile) -> RowBlock:
    """Return the rows of a block of jsonl, which is the part of `file`."""
    assert file.part is not None
    assert file.part.content is not None
    rows = parse_rows(file, file.part.content, options)
    names = _spell_labels(file, options, rows.labels) if rows else None
    if rows is None or names is None:
        return _collect(file, list(read_file(file, options)), None)
    content, offsets = encode_texts(rows.texts)
    lines = np.array(rows.lines, np.int64)
    return RowBlock(content, offsets, hash_rows(content, offsets), lines, names, rows.label_indices)


def is_utf8(content: np.ndarray) -> bool:
    """Return whether bytes are valid UTF-8 as Python decodes it, without surrogates."""
    buffers = [None, pa.py_buffer(np.array([0, len(content)])), pa.py_buffer(content)]
    try:
        pa.Array.from_buffers(pa.large_string(), 1, buffers).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _freeze(array: np.ndarray) -> np.ndarray:
    """Return a read-only copy, as compiled code gets all texts."""
    return np.frombuffer(array.tobytes(), np.uint8)


def _spell_labels(file: SourceFile, options: ReadOptions, values: Iterable[object]) -> list[Label] | None:
    """Return the labels of values, None if one is invalid."""
    parser = LabelParser(file, options.data.label_column, options.data)
    try:
        return [parser.parse(0, value) for value in values]
    except DataError:
        return None


def _collect(file: SourceFile, rows: Sequence[Row], weight_column: str | None) -> RowBlock:
    content, offsets = encode_texts([text for _, text, _, _ in rows])
    names: dict[Label, int] = {}
    label_indices = np.array([names.setdefault(label, len(names)) for _, _, label, _ in rows], np.int32)
    weights = None
    if weight_column is not None:
        weights = np.array(
            [parse_weight(file, number, record or {}, weight_column) for number, _, _, record in rows], np.float64
        )
    lines = np.array([number for number, _, _, _ in rows], np.int64)
    return RowBlock(content, offsets, hash_rows(content, offsets), lines, list(names), label_indices, weights)
