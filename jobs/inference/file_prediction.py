"""Prediction for files: the label of every text of a file, of standard input, or of a single text, without torch.

finetune-cnn predict runs/tickets new.csv --out labelled.csv
"""

import codecs
import csv
import itertools
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from cluster.console.logs import RESULT
from cluster.input_files import check_output_file, open_decompressed
from cluster.storage import is_uri, output_file
from jobs.config.abstention import Objective, require_rule
from jobs.config.formats import find_format
from jobs.config.settings import DELIMITERS, DataSettings
from jobs.datasets.chunks import SCANNED_FORMATS, Chunk, ColumnTypes, group_rows, iter_chunks, scan_columns
from jobs.datasets.formats.rows import DataError, ReadOptions, Record, SourceFile
from jobs.datasets.readers import choose_encoding, sum_sizes
from jobs.datasets.sources import has_matches, locate, resolve_source
from jobs.inference.classifier import Classifier
from jobs.inference.prediction_output import (
    OutputFormat,
    Write,
    choose_columns,
    make_text_writer,
    open_output,
    parse_output_format,
)
from jobs.inference.projection_table import DEFAULT_TABLE_BYTES
from jobs.inference.sharded_prediction import ProgressLog, ShardedPrediction, check_output_folder, is_folder_name
from jobs.inference.text_tokens import find_words
from jobs.inference.uncertain_rows import select_uncertain_rows
from jobs.model.checkpoint import Checkpoint, load_checkpoint

logger = logging.getLogger(__name__)

STANDARD_INPUT = "-"
# With fewer texts, the projection table of the whole vocabulary takes longer than the texts.
MIN_TEXTS_FOR_TABLE = 1000
# If there are at most as many chunks, the projection table has only the words that occur in them.
NUM_CHUNKS_TO_SCAN = 8


def predict_file(
    path: str,
    source: str,
    out: str | None,
    text_column: str | None,
    delimiter: str | None = None,
    *,
    file_format: str | None = None,
    num_scores: int = 0,
    abstain: Objective | None = None,
    uncertain: int | None = None,
    workers: int | None = None,
    restart: bool = False,
) -> None:
    """Write the rows of a file with their labels and the labels' probabilities, as csv, tsv, jsonl or parquet.

    The columns of the file stay. Where one is called `label` or `score`, the new one is called `predicted_label` or
    `predicted_score`. Csv of csv keeps the delimiter. Memory does not grow with the number of rows.

    Args:
        path: a checkpoint, a best.json, or a folder with one.
        source: texts at a path or URI, in any format that is read; "-" for standard input, a text on each line; or a
            text.
        out: path or URI of the output file, whose suffixes decide the format, or of a folder, with a slash at its end,
            for files of parts of the rows; None for jsonl on standard output.
        text_column: column of the texts; by default the one that training read.
        delimiter: character between the columns; by default detected, as `data.delimiter` describes.
        file_format: of the files in a folder; by default parquet.
        num_scores: number of the best classes that a column `scores` lists with their probabilities; 0: no column.
        abstain: a text whose score is below the checkpoint's threshold for this objective has no label; None: all have.
        uncertain: write only so many rows, those to label next; None: all.
        workers: processes that write into a folder; by default one for each processor.
        restart: replace a folder's files instead of completing them.

    Raises:
        ExperimentError: the delimiter is not a single character.
        CheckpointError, MissingThreshold: the checkpoint cannot be read, or has no threshold for the objective.
        DataError: the source cannot be read, or `out` is not of a supported format.
        StorageError: `out` cannot be written, or is the source.
    """
    is_file = _is_file(source)
    output = _choose_output(out, file_format, workers, is_file=is_file)
    if out is not None:
        inputs = resolve_source(source, DataSettings()) if is_file else []
        if is_folder_name(out):
            check_output_folder(out, inputs)
        else:
            check_output_file(out, *(file.path for file in inputs))
    checkpoint = load_checkpoint(path)
    texts = _open_input(source, checkpoint, text_column, delimiter, is_file=is_file)
    if output.suffix == ".csv":
        output = replace(output, delimiter=_choose_delimiter(texts))
    rule = require_rule(checkpoint.metrics, abstain) if abstain else None
    columns = choose_columns(checkpoint, texts.columns, num_scores, rule)
    if out is not None and is_folder_name(out):
        if uncertain is not None:
            raise DataError(f"{out}: is a folder; --uncertain writes a single file")
        sharded = ShardedPrediction(source, texts.files, texts.options, checkpoint, output, columns, out)
        sharded.run(lambda: build_classifier(checkpoint, MIN_TEXTS_FOR_TABLE), workers, restart=restart)
        return
    as_batches = output.suffix == ".parquet" and uncertain is None
    chunks = texts.iter_chunks(as_batches=as_batches, log_progress=out is not None)
    if uncertain is not None:
        classifier = build_classifier(checkpoint, MIN_TEXTS_FOR_TABLE)
        chunks = iter([select_uncertain_rows(checkpoint, classifier, chunks, uncertain)])
    if out is None:
        encoding = codecs.lookup(sys.stdout.encoding or "ascii").name
        output = replace(output, ascii_only=not encoding.startswith("utf"))
        _write_predictions(checkpoint, chunks, make_text_writer(sys.stdout, output, columns))
        return
    with output_file(out) as part, open_output(part, output, columns) as write:
        num_rows = _write_predictions(checkpoint, chunks, write)
    *names, last = columns.new
    logger.log(RESULT, f"wrote {out}: {num_rows:,} rows, with the columns {', '.join(names)} and {last} added")


def build_classifier(checkpoint: Checkpoint, num_texts: int) -> Classifier:
    """Return the classifier for that many texts of a command, which shares no memory with other processes."""
    table_bytes = DEFAULT_TABLE_BYTES if num_texts >= MIN_TEXTS_FOR_TABLE else 0
    # In float32, so that scores do not depend on the number of texts; to round the table takes longer than it saves.
    return Classifier(checkpoint, table_bytes, table_dtype="float32", share_table=False)


def select_words(checkpoint: Checkpoint, texts: Sequence[str]) -> Checkpoint:
    """Return a checkpoint whose vocabulary has only words that occur in some texts; it classifies these equally."""
    occurring = find_words(texts, checkpoint.experiment.text.lowercase)
    selected = [index for index, word in enumerate(checkpoint.words) if word in occurring]
    rows = [0, 1, *(index + 2 for index in selected)]  # padding and the unknown word are the first
    names = {"vectors", "fixed_vectors"} & checkpoint.weights.keys()
    if any(len(checkpoint.weights[name]) != len(checkpoint.words) + 2 for name in names):
        return checkpoint  # the classifier reports it
    weights = checkpoint.weights | {name: checkpoint.weights[name][rows] for name in names}
    return replace(checkpoint, words=[checkpoint.words[index] for index in selected], weights=weights)


def _write_predictions(checkpoint: Checkpoint, chunks: Iterator[Chunk], write: Write) -> int:
    """Classify and write all chunks; return the number of rows."""
    first = list(itertools.islice(chunks, NUM_CHUNKS_TO_SCAN + 1))
    if len(first) <= NUM_CHUNKS_TO_SCAN:
        checkpoint = select_words(checkpoint, [text for chunk in first for text in chunk.texts])
    classifier = build_classifier(checkpoint, MIN_TEXTS_FOR_TABLE)
    num_rows = 0
    for chunk in itertools.chain(first, chunks):
        write(chunk, classifier.predict_proba(chunk.texts))
        num_rows += len(chunk.texts)
    return num_rows


@dataclass(frozen=True)
class _Input:
    """Rows to label: of files, or else of standard input or a single text."""

    source: str
    files: Sequence[SourceFile]
    options: ReadOptions
    columns: ColumnTypes

    def iter_chunks(self, *, as_batches: bool, log_progress: bool) -> Iterator[Chunk]:
        """Yield the rows."""
        if self.source == STANDARD_INPUT:
            yield from group_rows(_read_standard_input())
        elif not self.files:
            yield Chunk([self.source], [{"text": self.source}])
        else:
            num_read = 0

            def count_bytes(number: int) -> None:
                nonlocal num_read
                num_read += number

            num_bytes = sum_sizes(self.files)
            progress = ProgressLog()
            options = replace(self.options, on_bytes_read=count_bytes)
            for chunk in iter_chunks(self.files, options, as_batches=as_batches):
                yield chunk
                if log_progress:
                    progress.add(len(chunk.texts), min(1.0, num_read / num_bytes) if num_bytes else None)


def _is_file(source: str) -> bool:
    """Return whether the argument of a command names a file, which may not exist; else it is a text, or "-".

    A word with a slash or a dot, such as and/or, is a text unless a file has this name.
    """
    if source == STANDARD_INPUT:
        return False
    if os.path.exists(os.path.expanduser(source)) or find_format(source) is not None or has_matches(source):
        return True
    return is_uri(source) and len(source.split()) == 1


def _choose_output(out: str | None, file_format: str | None, workers: int | None, *, is_file: bool) -> OutputFormat:
    """Return the format of the output; DataError if the options contradict each other."""
    if out is not None and is_folder_name(out):
        if not is_file:
            raise DataError(f"{out}: is a folder, which holds the rows of files; name a file")
        return OutputFormat(f".{file_format or 'parquet'}")
    if workers is not None and workers > 1:
        raise DataError("several workers write into a folder: end --out with a slash, as in --out labelled/")
    output = OutputFormat(".jsonl") if out is None else parse_output_format(out)
    if file_format is not None and output.suffix != f".{file_format}":
        raise DataError(
            f"{out or 'standard output'}: is {output.suffix[1:]}, not {file_format}; change --format or --out"
        )
    return output


def _open_input(
    source: str, checkpoint: Checkpoint, text_column: str | None, delimiter: str | None, *, is_file: bool
) -> _Input:
    """Return the rows of a source, after its encoding and its columns are known."""
    # Other files may have another delimiter than the training file.
    data = checkpoint.experiment.replace({"data.delimiter": delimiter}).data
    data = data.model_copy(update={"folder": "."} | ({"text_column": text_column} if text_column else {}))
    if not is_file:
        return _Input(source, (), ReadOptions(data), {"text": {str}})
    files = resolve_source(source, data)
    # Files that are scanned from the start to the end are not read once more to find out whether they are UTF-8.
    is_scanned = files[0].format in SCANNED_FORMATS
    encoding = "utf-8" if is_scanned else choose_encoding(source, data)
    options = ReadOptions(data.model_copy(update={"encoding": encoding}), labelled=False, with_records=True)
    try:
        try:
            columns = scan_columns(files, options)
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
        raise DataError(f"{locate(source, data)}: has no rows")
    return _Input(source, files, options, columns)


def _read_standard_input() -> Iterator[tuple[str, Record]]:
    number = 0
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"standard input, line {number}: is not UTF-8: {error.reason}") from error
        yield text, {"text": text}
    if not number:
        raise DataError("standard input: has no lines; write a text on each line")


def _choose_delimiter(texts: _Input) -> str:
    """Return the delimiter of the only csv file that is read, which csv output has too; a comma for other sources."""
    files, delimiter = texts.files, texts.options.data.delimiter
    if delimiter is not None or [file.format for file in files] != ["csv"]:
        return delimiter or ","
    with open_decompressed(files[0].path) as stream:
        header = next(filter(bytes.strip, stream)).decode("utf-8-sig", errors="replace")  # delimiters are ASCII
    counts = {mark: len(next(csv.reader([header], delimiter=mark))) for mark in DELIMITERS}
    return next((mark for mark, count in counts.items() if count == len(texts.columns)), ",")
