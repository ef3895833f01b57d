"""Prediction for files: the label of every text of a file, of standard input, or of a single text, without torch.

finetune-cnn predict runs/tickets new.csv --out labelled.csv
"""

import codecs
import itertools
import logging
import sys
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from unicodedata import normalize

import numpy as np

from cluster.console.logs import RESULT
from cluster.console.output import report_result
from cluster.console.plan import Plan, PlannedFile
from cluster.input_files import check_output_file, file_size
from cluster.machine import count_cpus
from cluster.storage import join, output_file
from jobs.config.abstention import Objective, require_rule
from jobs.config.settings import DataSettings, Source, describe_source
from jobs.datasets.chunks import Chunk
from jobs.datasets.formats.file_parts import is_divisible
from jobs.datasets.formats.rows import DataError, SourceFile
from jobs.datasets.readers import sum_sizes
from jobs.datasets.sources import resolve_source
from jobs.datasets.tokenization.characters import BUILT_IN
from jobs.datasets.tokenization.text_tokens import find_words
from jobs.inference.batch import processes
from jobs.inference.batch.input_rows import (
    STANDARD_INPUT,
    InputRows,
    choose_data_settings,
    choose_delimiter,
    is_file_name,
    open_input,
)
from jobs.inference.batch.invalid_rows import InvalidRows, RowCounts, report_path
from jobs.inference.batch.output_columns import OutputColumns, Write, choose_columns, score_chunk
from jobs.inference.batch.part_writer import PartResult, PartWriter
from jobs.inference.batch.uncertain_rows import select_uncertain_rows
from jobs.inference.classifier import Classifier
from jobs.inference.network_validation import validate_network
from jobs.inference.prediction_output import OutputFormat, make_text_writer, open_output, parse_output_format
from jobs.inference.projection_table import BATCH_TABLE_BYTES, TableDtype
from jobs.inference.sharded_prediction import ShardedPrediction, WriteParts, check_output_folder, is_folder_name
from jobs.model.checkpoint import Checkpoint, load_checkpoint
from jobs.model.linear.tensors import WEIGHT as LINEAR_WEIGHT
from jobs.model.linear.tensors import select_words as select_linear_words

logger = logging.getLogger(__name__)

# With fewer texts, the projection table of the whole vocabulary takes longer than the texts.
MIN_TEXTS_FOR_TABLE = 1000
LARGE_INPUT_BYTES = 100_000_000  # of parquet: ten seconds of a core, see docs/design/capacity.md
# If there are at most as many chunks, the projection table has only the words that occur in them.
NUM_CHUNKS_TO_SCAN = 8


def predict_file(
    path: str,
    source: Source,
    out: str | None,
    text_column: str | None,
    delimiter: str | None = None,
    *,
    file_format: str | None = None,
    num_scores: int = 0,
    abstain: Objective | None = None,
    uncertain: int | None = None,
    explain: bool = False,
    columns: Sequence[str] | None = None,
    min_scores: Mapping[str, float] | None = None,
    table_dtype: TableDtype | None = None,
    max_invalid: float | None = None,
    workers: int | None = None,
    restart: bool = False,
    on_cluster: bool = False,
    dry_run: bool = False,
) -> Plan | None:
    """Write the rows of a file with their labels and the labels' probabilities, as csv, tsv, jsonl or parquet.

    The columns of the file stay. Where one is called `label` or `score`, the new one is called `predicted_label` or
    `predicted_score`. Csv of csv keeps the delimiter. Memory does not grow with the number of rows.

    Args:
        path: a checkpoint, a best.json, or a folder with one.
        source: texts at a path or URI, or a list of these, in any format that is read; "-" for standard input, a text
            on each line; or a text.
        out: path or URI of the output file, whose suffixes decide the format, or of a folder, with a slash at its end,
            for files of parts of the rows; None for jsonl on standard output.
        text_column: column of the texts; by default the one that training read.
        delimiter: character between the columns; by default detected, as `data.delimiter` describes.
        file_format: of the files in a folder; by default parquet.
        num_scores: number of the best classes that a column `scores` lists with their probabilities; 0: no column.
        abstain: a text whose score is below the checkpoint's threshold for this objective has no label; None: all have.
        uncertain: write only so many rows, those to label next; None: all.
        explain: add a column `explanation`: the phrases that the score of the label consists of.
        columns: those of the input that the output has, in this order; by default all.
        min_scores: write only rows whose scores of these labels are at least these.
        table_dtype: of the classifier's table; by default int16 for a folder, which is faster, else float32.
        max_invalid: skip invalid rows, and list them in a file next to `out`, up to this share of all rows; by default
            an invalid row is an error.
        workers: processes that write into a folder; by default one for each processor.
        restart: replace a folder's files instead of completing them.
        on_cluster: the processes are those of the Ray cluster at `RAY_ADDRESS`.
        dry_run: write nothing, and return what would be written; otherwise None is returned.

    Raises:
        ExperimentError: the delimiter is not a single character.
        CheckpointError, MissingThreshold: the checkpoint cannot be read, or has no threshold for the objective.
        DataError: the source cannot be read, or `out` is not of a supported format.
        StorageError: `out` cannot be written, or is the source.
    """
    is_file = is_file_name(source)
    output = _choose_output(out, file_format, workers, is_file=is_file)
    if out is not None:
        _check_target(out, source, is_file=is_file)
    elif max_invalid is not None:
        raise DataError("the file of invalid rows is written next to the output; name one with --out")
    if columns is not None:
        columns = list(dict.fromkeys(normalize("NFC", name) for name in columns))
    checkpoint = load_checkpoint(path)
    data = choose_data_settings(checkpoint, text_column, delimiter)
    texts = open_input(source, data, is_file=is_file, skip_invalid=max_invalid is not None, selected=columns)
    if output.suffix == ".csv":
        output = replace(output, delimiter=choose_delimiter(texts))
    rule = require_rule(checkpoint.metrics, abstain) if abstain else None
    output_columns = choose_columns(
        checkpoint, texts.columns, num_scores, rule, explain=explain, selected=columns, min_scores=min_scores
    )
    if out is not None and is_folder_name(out):
        if uncertain is not None:
            raise DataError(f"{out}: is a folder; --uncertain writes a single file")
        writer = PartWriter(texts.options, output, output_columns, out)
        dtype = table_dtype or "int16"
        sharded = ShardedPrediction(describe_source(source), texts.files, writer, checkpoint, dtype, max_invalid or 0.0)
        if dry_run:
            return _plan(checkpoint, texts, out, output_columns, sharded.divide(), workers, on_cluster=on_cluster)
        sharded.run(_choose_processes(checkpoint, workers, dtype, on_cluster=on_cluster), restart=restart)
        return None
    if dry_run:
        return _plan(checkpoint, texts, out, output_columns)
    if out is not None and uncertain is None and _is_faster_into_folder(texts):
        logger.info(f"one process writes a single file; {count_cpus()} write into a folder, as with --out labelled/")
    _write_rows(checkpoint, texts, out, output, output_columns, table_dtype or "float32", max_invalid, uncertain)
    return None


def _check_target(out: str, source: Source, *, is_file: bool) -> None:
    """Raise a StorageError if the output cannot be written, or is the input."""
    inputs = resolve_source(source, DataSettings()) if is_file else []
    if is_folder_name(out):
        check_output_folder(out, inputs)
    else:
        check_output_file(out, *(file.path for file in inputs))


def _write_rows(
    checkpoint: Checkpoint,
    texts: InputRows,
    out: str | None,
    output: OutputFormat,
    columns: OutputColumns,
    table_dtype: TableDtype,
    max_invalid: float | None,
    uncertain: int | None,
) -> None:
    """Write a single file, or standard output; arguments as of `predict_file`."""
    counts, report = RowCounts(1.0 if out is None else max_invalid or 0.0), report_path(out or "")
    with InvalidRows() as invalid:
        if max_invalid is not None:
            texts = replace(texts, options=replace(texts.options, on_invalid_row=invalid.add))
        chunks = texts.iter_chunks(as_batches=output.suffix == ".parquet", log_progress=out is not None)
        chunks = _count_rows(chunks, invalid, counts)
        if uncertain is not None:
            classifier = build_classifier(checkpoint, table_dtype=table_dtype)
            chunks = iter([select_uncertain_rows(checkpoint, classifier, chunks, uncertain)])
        if out is None:
            encoding = codecs.lookup(sys.stdout.encoding or "ascii").name
            output = replace(output, ascii_only=not encoding.startswith("utf"))
            write = make_text_writer(sys.stdout, output, columns)
            _write_predictions(checkpoint, table_dtype, chunks, columns, write)
            return
        with output_file(out) as part:
            with open_output(part, output, columns) as write:
                num_written, num_rows = _write_predictions(checkpoint, table_dtype, chunks, columns, write)
            if max_invalid is not None:
                invalid.write_or_remove(report)
            counts.check(report)
    *names, last = columns.new
    added = f"with the columns {', '.join(names)} and {last} added"
    logger.log(RESULT, f"wrote {out}: {columns.describe_rows(num_written, num_rows)}, {added}{counts.describe(report)}")
    report_result({"path": out, "rows": num_written, "invalid": counts.num_invalid, "table_dtype": table_dtype})


def _plan(
    checkpoint: Checkpoint,
    texts: InputRows,
    out: str | None,
    columns: OutputColumns,
    parts: Collection[str] = (),
    workers: int | None = None,
    *,
    on_cluster: bool = False,
) -> Plan:
    """Return the plan of a prediction; parts: names of the files in the folder `out`."""
    reads = [PlannedFile(checkpoint.path, "checkpoint")]
    reads += [PlannedFile(file.path, "texts", file_size(file.path)) for file in texts.files] or [
        PlannedFile(texts.source, "standard input" if texts.source == STANDARD_INPUT else "text")
    ]
    added = f"columns {', '.join(columns.new)} added"
    writes = [PlannedFile(join(out, name), added) for name in parts] if out and parts else []
    writes = writes or [PlannedFile(out or "standard output", added)]
    starts: dict[str, object] = {"ray": None, "processes": _count_processes(workers, parts)}
    if on_cluster:
        from cluster.connection import resolve_address  # imports Ray

        starts = {"ray": resolve_address(), "processes": workers}
    return Plan("predict", reads, starts, writes)


def _is_faster_into_folder(texts: InputRows) -> bool:
    """Return whether the input is large, and several processes can divide it."""
    files = texts.files
    if count_cpus() == 1 or (sum_sizes(files) or 0) < LARGE_INPUT_BYTES:
        return False
    return len(files) > 1 or is_divisible(files[0], texts.options)


def _count_processes(workers: int | None, parts: Collection[str]) -> int:
    return min(workers or count_cpus(), len(parts)) or 1


def _choose_processes(
    checkpoint: Checkpoint, workers: int | None, table_dtype: TableDtype, *, on_cluster: bool
) -> WriteParts:
    """Return the function that writes the parts of a folder."""
    if on_cluster:
        from jobs.inference.batch import cluster_pipeline

        return partial(cluster_pipeline.write_parts, checkpoint=checkpoint, table_dtype=table_dtype, workers=workers)

    def write(writer: PartWriter, parts: Mapping[str, SourceFile]) -> Generator[PartResult, None, None]:
        classifier = build_classifier(checkpoint, table_dtype=table_dtype)
        return processes.write_parts(writer, parts, classifier, _count_processes(workers, parts))

    return write


def build_classifier(
    checkpoint: Checkpoint, num_texts: int = MIN_TEXTS_FOR_TABLE, table_dtype: TableDtype = "float32"
) -> Classifier:
    """Return the classifier for that many texts of a command, which shares no memory with other processes."""
    table_bytes = BATCH_TABLE_BYTES if num_texts >= MIN_TEXTS_FOR_TABLE else 0
    # In float32 scores do not depend on the number of texts, and few texts take less time than to round the table.
    return Classifier(checkpoint, table_bytes, table_dtype=table_dtype, share_table=False)


def select_words(checkpoint: Checkpoint, texts: Sequence[str]) -> Checkpoint:
    """Return a checkpoint whose vocabulary has only words that occur in some texts; it classifies these equally."""
    if LINEAR_WEIGHT in checkpoint.weights:
        validate_network(checkpoint)
    occurring = find_words(texts, checkpoint.experiment.text)
    if checkpoint.experiment.text.max_edit_distance:  # unknown words are read as words that may not occur
        occurring = {checkpoint.words[index - 2] for index in checkpoint.vocabulary.encode([*occurring]) if index >= 2}
    selected = [index for index, word in enumerate(checkpoint.words) if word in occurring]
    rows = [0, 1, *(index + 2 for index in selected)]  # padding and the unknown word are the first
    names = {"vectors", "fixed_vectors"} & checkpoint.weights.keys()
    if any(len(checkpoint.weights[name]) != len(checkpoint.words) + 2 for name in names):
        return checkpoint  # the classifier reports it
    weights = checkpoint.weights | {name: checkpoint.weights[name][rows] for name in names}
    weights |= select_linear_words(weights, np.array(rows))
    return replace(checkpoint, words=[checkpoint.words[index] for index in selected], weights=weights)


def _count_rows(chunks: Iterator[Chunk], invalid: InvalidRows, counts: RowCounts) -> Iterator[Chunk]:
    """Yield chunks, and count their rows, unless too many of them are invalid."""
    for chunk in chunks:
        counts.add(len(chunk.texts), invalid.num_rows - counts.num_invalid, invalid.first)
        if counts.is_hopeless:
            return
        yield chunk
    counts.add(0, invalid.num_rows - counts.num_invalid, invalid.first)


def _write_predictions(
    checkpoint: Checkpoint, table_dtype: TableDtype, chunks: Iterator[Chunk], columns: OutputColumns, write: Write
) -> tuple[int, int]:
    """Classify and write all chunks; return the numbers of written and of all rows."""
    first = list(itertools.islice(chunks, NUM_CHUNKS_TO_SCAN + 1))
    # Tokenizers of packages take longer than a table of all words.
    is_fast = checkpoint.experiment.text.tokenizer in BUILT_IN
    if len(first) <= NUM_CHUNKS_TO_SCAN and (is_fast or sum(len(chunk.texts) for chunk in first) < MIN_TEXTS_FOR_TABLE):
        checkpoint = select_words(checkpoint, [text for chunk in first for text in chunk.texts])
    classifier = build_classifier(checkpoint, table_dtype=table_dtype)
    num_rows = num_written = 0
    for chunk in itertools.chain(first, chunks):
        selected, probabilities, explanations = score_chunk(classifier, chunk, columns)
        write(selected, probabilities, explanations)
        num_rows += len(chunk.texts)
        num_written += len(probabilities)
    return num_written, num_rows


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
