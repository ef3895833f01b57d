"""Export of fine-tuned word vectors to a word2vec file that gensim opens, scaled back to their original norms.

finetune-cnn vectors export runs/tickets vectors-tuned.bin --merge
"""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from cluster.logs import RESULT
from cluster.storage import atomic_write, prepare_local_file
from jobs.config.settings import VectorSettings
from jobs.embeddings.progress import progress_bar
from jobs.embeddings.vector_files import is_same_file, iter_vectors
from jobs.embeddings.word2vec import Row, VectorsError, is_single_token, write_binary
from jobs.model.checkpoint import Checkpoint, load_checkpoint, load_initial_vectors

logger = logging.getLogger(__name__)

PROGRESS_INTERVAL = 10_000  # words


def export_vectors(path: str, out: str, original: str | None, merge: bool) -> None:
    """Write a checkpoint's word vectors as word2vec binary.

    Args:
        path: a checkpoint, a best.json, or a folder with one.
        out: the file to write.
        original: the file of the initial vectors; by default the experiment's `vectors.path`.
        merge: add the words of the original that the checkpoint does not have, unchanged. Words of the checkpoint
            whose vectors training did not change are copied from the original too.

    Raises:
        VectorsError: `out` is the original, or the original cannot be merged.
    """
    checkpoint = load_checkpoint(path)
    experiment = checkpoint.experiment
    settings = experiment.vectors
    if original is not None:
        settings = settings.model_copy(update={"path": original})
    target = prepare_local_file(out)
    for name in (experiment.vectors.path, original):
        if name is not None and is_same_file(name, target):
            raise VectorsError(f"{out}: is the file of the initial vectors, which is never changed; name another file")
    if merge and experiment.model.embedding == "rand":
        raise VectorsError("with model.embedding=rand no vector came from a file, so there is nothing to merge with")
    if merge and settings.path is None:
        raise VectorsError("the vectors did not come from a file; name one to merge with --original")
    initial = load_initial_vectors(checkpoint.path)
    if initial is None:
        raise VectorsError(f"{path}: an earlier version made it, without the vectors' original norms; train again")
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
    with (
        atomic_write(target) as part,
        part.open("wb") as stream,
        progress_bar("writing", "words", count) as report,
    ):
        write_binary(stream, count, dimensions, _report_progress(rows, report))
    logger.log(
        RESULT, f"wrote {target}: {count:,} words x {dimensions} dimensions, {changed.sum():,} of them fine-tuned"
    )


def select_word_vectors(checkpoint: Checkpoint) -> np.ndarray:
    """Return the trained vectors, `(vocabulary, dimensions)`, or the static ones if none were trained."""
    return checkpoint.weights["vectors" if "vectors" in checkpoint.weights else "fixed_vectors"]


def _merge(
    settings: VectorSettings, own: dict[str, np.ndarray], trained: set[str], dimensions: int
) -> tuple[int, Iterator[Row]]:
    """Return the number of words after merging with the original, and their rows, in the original's order."""
    path = str(settings.path)

    def original_rows() -> Iterator[Row]:
        return (row for row in iter_vectors(path, settings) if is_single_token(row[0]))

    count = 0
    missing = dict.fromkeys(own)
    with progress_bar(f"reading {path}", "words", None) as report:
        for word, vector in _report_progress(original_rows(), report):
            count += 1
            if len(vector) != dimensions:
                raise VectorsError(f"{path}: has {len(vector)} dimensions, the checkpoint {dimensions}")
            missing.pop(word, None)
    merged = ((word, own[word] if word in trained else vector) for word, vector in original_rows())
    return count + len(missing), itertools.chain(merged, ((word, own[word]) for word in missing))


def _report_progress(rows: Iterable[Row], report: Callable[[int], None]) -> Iterator[Row]:
    for number, row in enumerate(rows, start=1):
        if number % PROGRESS_INTERVAL == 0:
            report(number)
        yield row
