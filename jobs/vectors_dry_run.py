"""Plans of the commands of the group vectors: what they would read, start and write."""

import itertools
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cluster.console.plan import Plan, PlannedFile
from cluster.input_files import file_size
from cluster.machine import count_cpus
from cluster.storage import join, list_file_sizes, local_path
from jobs.config.experiment import Experiment
from jobs.datasets.sources import resolve_source
from jobs.dry_run import FLOAT_BYTES, MAX_TEXT_BYTES, describe_checkpoint, is_small
from jobs.embeddings.pretraining import choose_target, iter_tokenized, select_words
from jobs.embeddings.vector_files import GENSIM_PREFIX
from jobs.evaluation.drift import load_drift, write_drift
from jobs.evaluation.export import is_compressed, is_text, iter_original, prepare_export, select_word_vectors
from jobs.evaluation.reports.report_folder import choose_report_folder
from jobs.model.checkpoint import load_checkpoint

TEXT_NUMBER_BYTES = 13  # of nine digits with sign, point, exponent if there is one, and space


def plan_pretraining(files: Sequence[str], out: str, experiment: Experiment, threads: int | None) -> Plan:
    """Return the plan of `vectors train`; the words are counted if the files are small.

    Arguments and errors are those of `train_word2vec_on_files`.
    """
    settings, data = experiment.vectors, experiment.data
    target = choose_target(files, out, settings)
    sources = [source for file in files for source in resolve_source(file, data, any_lines=True)]
    reads = [PlannedFile(source.path, "texts", file_size(source.path)) for source in sources]
    starts: dict[str, object] = {
        "threads": threads or count_cpus(), "epochs": settings.epochs, "dimensions": settings.dimensions,
    }  # fmt: skip
    size = None
    if is_small(reads, MAX_TEXT_BYTES):
        counts = Counter(itertools.chain.from_iterable(iter_tokenized(files, experiment)))
        words = select_words(counts, settings.min_count)
        starts |= {"words": counts.total(), "vectors": len(words)}
        size = _measure_vectors(words, settings.dimensions)
    return Plan("vectors train", reads, starts, [PlannedFile(str(target), "vectors", size)])


def plan_vectors_export(path: str, out: str, original: str | None, merge: bool) -> Plan:
    """Return the plan of `vectors export`; arguments and errors as of `export_vectors`.

    The size is known of a file that is not gzipped, without the words of the original, which is not read whole.
    """
    checkpoint, _, settings = prepare_export(path, out, original, merge)
    reads, size, dimensions = [describe_checkpoint(checkpoint)], None, select_word_vectors(checkpoint).shape[1]
    if merge:
        name = str(settings.path)
        is_local = not name.startswith(GENSIM_PREFIX)  # others are downloaded
        if is_local:
            next(iter_original(settings, dimensions), None)  # raises its errors
        reads.append(PlannedFile(name, "original", file_size(name) if is_local else None))
    elif not is_compressed(out):
        size = _measure_vectors(checkpoint.words, dimensions, TEXT_NUMBER_BYTES if is_text(out) else FLOAT_BYTES)
    return Plan("vectors export", reads, {}, [PlannedFile(str(local_path(out) or out), "vectors", size)])


def plan_drift(path: str, words: Sequence[str], count: int, out: str | None) -> Plan:
    """Return the plan of `vectors drift`; arguments and errors as of `report_drift`."""
    checkpoint = load_checkpoint(path)
    target = choose_report_folder(out, path, checkpoint)
    drift = load_drift(checkpoint)
    drift.tables(words, count)
    with tempfile.TemporaryDirectory() as folder:
        write_drift(Path(folder), drift, checkpoint.experiment.name)
        sizes = list_file_sizes(folder)
    uses = {"drift.csv": "distance of each word", "drift.png": "plot"}
    writes = [PlannedFile(join(target, name), use, sizes[name]) for name, use in uses.items()]
    return Plan("vectors drift", [describe_checkpoint(checkpoint)], {}, writes)


def _measure_vectors(words: Sequence[str], dimensions: int, number_bytes: int = FLOAT_BYTES) -> int:
    """Return the bytes of a word2vec file, which of text are about as many."""
    header = f"{len(words)} {dimensions}\n"
    return len(header) + sum(len(word.encode()) + 1 for word in words) + len(words) * dimensions * number_bytes
