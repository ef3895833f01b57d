"""Classifier in an unnamed file that processes of this machine map, so that they share its memory.

The processes need not be forks. The file has no name, so nothing is left of it after a `kill -9`.
"""

import mmap
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.reduction import DupFd
from typing import Any

from cluster.storage import StorageError
from jobs.compilation.intrinsics import CACHE_LINE
from jobs.inference.classifier import Classifier


class SharedClassifier:
    """Handle of the file, which may be an argument of a new process of `multiprocessing`, whatever its start method.

    file: its descriptor; slices: the bytes of the pickled classifier, and those of its arrays.
    """

    def __init__(self, file: int, slices: Sequence[slice]) -> None:
        self._file, self._slices = file, slices

    def __getstate__(self) -> tuple[Any, Sequence[slice]]:
        return DupFd(self._file), self._slices

    def __setstate__(self, state: tuple[Any, Sequence[slice]]) -> None:
        file, self._slices = state
        self._file = file.detach()

    def load(self) -> Classifier:
        """Return the classifier, whose arrays are mapped read-only."""
        memory = memoryview(mmap.mmap(self._file, 0, access=mmap.ACCESS_READ))
        content, *buffers = (memory[part] for part in self._slices)
        classifier: Classifier = pickle.loads(content, buffers=buffers)
        return classifier


@contextmanager
def share_classifier(classifier: Classifier) -> Iterator[SharedClassifier]:
    """Yield the handle of a file with a classifier.

    Raises:
        StorageError: the file cannot be written.
    """
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(classifier, protocol=5, buffer_callback=buffers.append)
    with ExitStack() as stack:
        slices = []
        try:
            stream = stack.enter_context(tempfile.TemporaryFile())
            for part in (memoryview(content), *(buffer.raw() for buffer in buffers)):
                start = stream.seek(-(-stream.tell() // CACHE_LINE) * CACHE_LINE)  # as of `make_array`
                stream.write(part)
                slices.append(slice(start, stream.tell()))
            stream.flush()
        except OSError as error:
            raise StorageError(f"the temporary folder cannot be written: {error}; set TMPDIR to another one") from error
        del classifier, content, buffers, part  # the processes need the file alone
        yield SharedClassifier(stream.fileno(), slices)
