"""Fine-tuned word vectors as a word2vec file that gensim opens, in the lengths of the file they came from.

python -m jobs vectors export runs/tickets vectors-tuned.bin --merge
"""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from cluster import storage
from jobs.config.settings import VectorSettings as Settings
from jobs.embeddings import vector_files as vectors
from jobs.embeddings import word2vec
from jobs.embeddings.progress import progress_bar
from jobs.embeddings.word2vec import Row, VectorsError
from jobs.model import checkpoint
from jobs.model.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

PROGRESS_INTERVAL = 10_000  # words


def export_vectors(path: str, out: str, original: str | None, merge: bool) -> None:
    """Write a checkpoint's word vectors as word2vec binary.

    Args:
        path: a checkpoint, a best.json, or a folder with one.
        out: the file to write.
        original: the file the vectors started from; by default the experiment's `vectors.path`.
        merge: add the words of the original that the checkpoint does not have, as they are there; those that it
            has but training left alone come from there too.

    Raises:
        VectorsError: `out` is the original, or the original cannot be merged.
    """
    loaded = checkpoint.load_checkpoint(path)
    settings = loaded.experiment.vectors
    if original is not None:
        settings = settings.model_copy(update={"path": original})
    target = storage.prepare_local_file(out)
    for name in (loaded.experiment.vectors.path, original):
        if name is not None and vectors.is_same_file(name, target):
            raise VectorsError(f"{out}: is the file that the vectors started from, which is never changed")
    if merge and loaded.experiment.model.embedding == "rand":
        raise VectorsError("with model.embedding=rand no vector came from a file; there is nothing to merge with")
    if merge and settings.path is None:
        raise VectorsError("the vectors did not come from a file; name one to merge with --original")
    initial = checkpoint.load_initial_vectors(path)
    if initial is None:
        raise VectorsError(f"{path}: an earlier version made it, which kept no lengths; train again")
    if "vectors" not in loaded.weights:
        logger.info("model.embedding=static: the vectors were not trained; these are the original ones")
    matrix = select_word_vectors(loaded)
    seen, dimensions = len(initial.vectors), matrix.shape[1]
    moved = (matrix[2:seen] != initial.vectors[2:]).any(axis=1)
    own = dict(zip(loaded.words, (matrix / initial.scale[:, None])[2:], strict=True))
    count, rows = len(own), iter(own.items())
    if merge:
        trained = {word for word, has_moved in zip(loaded.words, moved, strict=False) if has_moved}
        count, rows = _merged(settings, own, trained, dimensions)
    with (
        storage.atomic_write(target) as part,
        part.open("wb") as stream,
        progress_bar("writing", "words", count) as tell,
    ):
        word2vec.write_binary(stream, count, dimensions, _told(rows, tell))
    logger.info(f"wrote {target}: {count:,} words x {dimensions} dimensions, {moved.sum():,} of them fine-tuned")


def select_word_vectors(loaded: Checkpoint) -> np.ndarray:
    """Return the vectors that were trained, `(vocabulary, dimensions)`, or else the static ones."""
    return loaded.weights["vectors" if "vectors" in loaded.weights else "fixed_vectors"]


def _merged(
    settings: Settings, own: dict[str, np.ndarray], trained: set[str], dimensions: int
) -> tuple[int, Iterator[Row]]:
    """Return how many words there are with those of the original, and all of them: the original's first."""

    def original() -> Iterator[Row]:
        found = vectors.iter_vectors(str(settings.path), settings)
        return (row for row in found if word2vec.is_single_token(row[0]))

    found = 0
    missing = dict.fromkeys(own)
    with progress_bar(f"reading {settings.path}", "words", None) as tell:
        for word, vector in _told(original(), tell):
            found += 1
            if len(vector) != dimensions:
                raise VectorsError(f"{settings.path}: has {len(vector)} dimensions, the checkpoint {dimensions}")
            missing.pop(word, None)
    tuned = ((word, own[word] if word in trained else vector) for word, vector in original())
    return found + len(missing), itertools.chain(tuned, ((word, own[word]) for word in missing))


def _told(rows: Iterable[Row], tell: Callable[[int], None]) -> Iterator[Row]:
    for number, row in enumerate(rows, start=1):
        if number % PROGRESS_INTERVAL == 0:
            tell(number)
        yield row
