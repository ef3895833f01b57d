"""Export of fine-tuned word vectors to a word2vec file that gensim opens, scaled back to their original norms.

The name of the file decides its form: `.txt` and `.vec` are text, `.bin` and names without a suffix binary, all gzipped
if `.gz` follows.

    finetune-cnn vectors export runs/tickets vectors-tuned.bin --merge
"""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePath
from typing import BinaryIO

import numpy as np

from cluster.console.logs import RESULT
from cluster.console.output import report_result
from cluster.console.progress import progress_bar
from cluster.input_files import check_output_file, create_file
from cluster.storage import absolute_path, local_path, output_file, parent, split_query
from jobs.config.settings import VectorSettings
from jobs.embeddings.vector_files import is_same_file, iter_vectors
from jobs.embeddings.word2vec import Row, VectorsError, is_single_token, write_binary
from jobs.evaluation.reports.report_folder import check_outside_checkpoint
from jobs.model.checkpoint import Checkpoint, CheckpointError, InitialVectors, load_checkpoint, load_initial_vectors

logger = logging.getLogger(__name__)

PROGRESS_INTERVAL = 10_000  # words
TEXT_SUFFIXES = (".txt", ".vec")
SUFFIXES = (*TEXT_SUFFIXES, ".bin", "")


def export_vectors(path: str, out: str, original: str | None, merge: bool) -> None:
    """Write a checkpoint's word vectors as word2vec binary or text.

    Args:
        path: a checkpoint, a best.json, or a folder with one.
        out: path or URI of the file to write.
        original: the file of the initial vectors; by default the experiment's `vectors.path`.
        merge: add the words of the original that the checkpoint does not have, unchanged. Words of the checkpoint
            whose vectors training did not change are copied from the original too.

    Raises:
        VectorsError: `out` is the original or has another suffix, or the original cannot be merged.
        StorageError: `out` cannot be written, or is in a checkpoint.
    """
    checkpoint, initial, settings = prepare_export(path, out, original, merge)
    if "vectors" not in checkpoint.weights:
        logger.info("model.embedding=static: the vectors were not trained; the initial ones are exported")
    matrix = select_word_vectors(checkpoint)
    num_train_words, dimensions = len(initial.vectors), matrix.shape[1]
    changed = (matrix[2:num_train_words] != initial.vectors[2:]).any(axis=1)
    own = dict(zip(checkpoint.words, (matrix / initial.scale[:, None])[2:], strict=True))
    count, rows = len(own), iter(own.items())
    if merge:
        trained = {word for word, has_changed in zip(checkpoint.words, changed, strict=False) if has_changed}
        count, rows = _merge(settings, own, trained, dimensions)
    write_rows = _write_text if is_text(out) else write_binary
    with (
        output_file(out) as part,
        create_file(part, compress=is_compressed(out)) as stream,
        progress_bar("writing", "words", count, logger) as report,
    ):
        write_rows(stream, count, dimensions, _report_progress(rows, report))
    target, num_changed = str(local_path(out) or out), int(changed.sum())
    logger.log(RESULT, f"wrote {target}: {count:,} words x {dimensions} dimensions, {num_changed:,} of them fine-tuned")
    words = {"words": count, "dimensions": dimensions, "fine_tuned": num_changed}
    report_result({"path": target, **words})


def prepare_export(
    path: str, out: str, original: str | None, merge: bool
) -> tuple[Checkpoint, InitialVectors, VectorSettings]:
    """Return the checkpoint, its initial vectors, and the settings with which the original is read.

    Arguments and errors are those of `export_vectors`. Nothing is written.
    """
    checkpoint = load_checkpoint(path)
    experiment = checkpoint.experiment
    settings = experiment.vectors
    if original is not None:
        settings = settings.model_copy(update={"path": original})
    target = local_path(out)
    for name in (experiment.vectors.path, original):
        if name is not None and (name == out if target is None else is_same_file(name, target)):
            raise VectorsError(f"{out}: is the file of the initial vectors, which is never changed; name another file")
    check_output_file(out)
    check_outside_checkpoint(parent(absolute_path(out)), checkpoint)
    if PurePath(_plain_name(out)).suffix not in SUFFIXES:
        raise VectorsError(f"{out}: is written as word2vec; the name must end in .bin, .txt or .vec, or these and .gz")
    if merge and experiment.model.embedding == "rand":
        raise VectorsError("with model.embedding=rand no vector came from a file, so there is nothing to merge with")
    if merge and settings.path is None:
        raise VectorsError("the vectors did not come from a file; name one to merge with --original")
    initial = load_initial_vectors(checkpoint.path)
    if initial is None:
        raise VectorsError(
            f"{path}: an earlier version made it, without the vectors' original norms, or `quantize` or `push` left "
            "them out; export those of the checkpoint that training wrote, or train again"
        )
    return checkpoint, initial, settings


def is_compressed(out: str) -> bool:
    """Return whether a file of this name is gzipped."""
    return split_query(out)[0].lower().endswith(".gz")


def is_text(out: str) -> bool:
    """Return whether a file of this name is text."""
    return PurePath(_plain_name(out)).suffix in TEXT_SUFFIXES


def _plain_name(out: str) -> str:
    """Return the name of a file in lower case, without query and .gz."""
    return split_query(out)[0].lower().removesuffix(".gz")


def select_word_vectors(checkpoint: Checkpoint) -> np.ndarray:
    """Return the trained vectors, `(vocabulary, dimensions)`, or the static ones if none were trained.

    Raises:
        CheckpointError: there are none, or not one for each word.
    """
    vectors = checkpoint.weights.get("vectors", checkpoint.weights.get("fixed_vectors"))
    if vectors is None or vectors.ndim != 2 or len(vectors) != len(checkpoint.words) + 2:
        raise CheckpointError(f"{checkpoint.path}: weights.safetensors: does not have a vector for each word")
    return vectors


def _write_text(stream: BinaryIO, count: int, dimensions: int, rows: Iterable[Row]) -> None:
    """Write word2vec text; nine digits are the numbers bit for bit."""
    stream.write(f"{count} {dimensions}\n".encode())
    row_format = f"%s{' %.9g' * dimensions}\n"
    for word, vector in rows:
        stream.write((row_format % (word, *vector.tolist())).encode())


def _merge(
    settings: VectorSettings, own: dict[str, np.ndarray], trained: set[str], dimensions: int
) -> tuple[int, Iterator[Row]]:
    """Return the number of words after merging with the original, and their rows, in the original's order."""
    count = 0
    missing = dict.fromkeys(own)
    with progress_bar(f"reading {settings.path}", "words", None, logger) as report:
        for word, _ in _report_progress(iter_original(settings, dimensions), report):
            count += 1
            missing.pop(word, None)
    rows = iter_original(settings, dimensions)
    merged = ((word, own[word] if word in trained else vector) for word, vector in rows)
    return count + len(missing), itertools.chain(merged, ((word, own[word]) for word in missing))


def iter_original(settings: VectorSettings, dimensions: int) -> Iterator[Row]:
    """Yield the rows of the original; VectorsError if it cannot be merged."""
    path = str(settings.path)
    for word, vector in iter_vectors(path, settings):
        if len(vector) != dimensions:
            raise VectorsError(f"{path}: has {len(vector)} dimensions, the checkpoint {dimensions}")
        if is_single_token(word):
            yield word, vector


def _report_progress(rows: Iterable[Row], report: Callable[[int], None]) -> Iterator[Row]:
    for number, row in enumerate(rows, start=1):
        if number % PROGRESS_INTERVAL == 0:
            report(number)
        yield row
