"""Processes that write the parts of a prediction: what they share with the command, and inputs in an object store."""

import os
import threading
import weakref
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster import UsageError
from cluster.storage import remove_file, write_text
from jobs.datasets.formats.rows import DataError, ReadOptions, SourceFile
from jobs.inference import scoring_kernel
from jobs.inference.batch import processes
from jobs.inference.batch.output_columns import choose_columns
from jobs.inference.batch.part_writer import PartResult, PartWriter
from jobs.inference.batch.processes import write_parts
from jobs.inference.batch.shared_classifier import share_classifier
from jobs.inference.classifier import Classifier
from jobs.inference.file_prediction import predict_file
from jobs.inference.prediction_output import OutputFormat
from jobs.model.checkpoint import load_checkpoint
from tests.s3_server import BUCKET, run_s3_server
from tests.support.checkpoints import checkpoint_of
from tests.support.commands import run_command
from tests.support.waiting import wait_for

NUM_FILES, FILE_ROWS = 6, 50
LOCK = threading.Lock()


@pytest.mark.slow
def test_parts_are_read_from_and_written_to_an_object_store(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the processes start, the command has used the client of the store, which has threads.

    The same command completes the folder.
    """
    with run_s3_server() as server:
        for key, value in server.environment.items():
            monkeypatch.setenv(key, value)
        source, out = f"s3://{BUCKET}/processes/texts", f"s3://{BUCKET}/processes/labelled/"
        for number in range(NUM_FILES):
            ids = range(number * FILE_ROWS, (number + 1) * FILE_ROWS)
            write_text(f"{source}/{number}.csv", "text,id\n" + "".join(f"word{id} word2,{id}\n" for id in ids))
        command = ("python", "-m", "jobs", "predict", saved, source, "--out", out, "--workers", "2")
        result = run_command(*command, env={**os.environ}, timeout=200)
        assert result.returncode == 0, result.stderr
        remove_file(f"{out}part-00001.parquet")
        result = run_command(*command, env={**os.environ}, timeout=200)
        assert "50 rows in 1 of 6 files" in result.stdout, result.stderr
        predict_file(saved, out, str(tmp_path / "copy.parquet"), None)
    copied = pq.read_table(tmp_path / "copy.parquet")["id"].to_pylist()
    assert [int(number) for number in copied] == [*range(NUM_FILES * FILE_ROWS)]


class LockingWriter(PartWriter):
    """A writer whose library has a lock, as clients of object stores have."""

    def write(self, name: str, part: SourceFile, classifier: Classifier) -> PartResult:
        if not LOCK.acquire(timeout=5):
            raise DataError("the lock is that of a thread which this process does not have")
        LOCK.release()
        return PartResult(name, len(classifier.predict([part.path])), 0)


class IdlePool(ProcessPoolExecutor):
    """A pool whose processes end before the shutdown, which waits for all if one is killed meanwhile."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        # A thread of the pool waits for them too, so either may be the first to know an exit code.
        ended = [*(self._processes or {}).values()]
        wait_for(lambda: all(process.exitcode is not None for process in ended), "the end of the processes", 30)
        super().shutdown(wait, cancel_futures=cancel_futures)


def test_a_process_inherits_no_lock(saved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that a thread of the command holds would never be released. When all parts are written, processes end."""
    monkeypatch.setattr(processes, "ProcessPoolExecutor", IdlePool)
    checkpoint = load_checkpoint(saved)
    options = ReadOptions(checkpoint.experiment.data)
    writer = LockingWriter(options, OutputFormat(".csv"), choose_columns(checkpoint, {}, 0), "out/")
    parts = {name: SourceFile(name, "csv") for name in ("a", "b", "c")}
    classifier = Classifier(checkpoint, share_table=False)
    reference, written = weakref.ref(classifier), write_parts(writer, parts, classifier, 2)
    del classifier
    with LOCK:
        results = [next(written)]
        assert reference() is None  # the processes map another one
        results += written
    assert sorted(result.name for result in results) == [*parts]


@pytest.mark.parametrize("max_edit_distance", [0, 1])
def test_a_shared_classifier_is_mapped(max_edit_distance: int) -> None:
    """Its arrays begin with cache lines and cannot be changed; logits are the same, of texts in any script.

    No process compiles the kernel again, as it would for arguments that cannot be written.
    """
    checkpoint = checkpoint_of("non-static", **{"text.max_edit_distance": max_edit_distance})
    classifier = Classifier(checkpoint, share_table=False)
    with share_classifier(classifier) as shared:
        mapped = shared.load()
    texts = ["word1 word2 wrd7", "naïve 東京 word3", "", "word4 " * 500]
    kernel: Any = scoring_kernel.score_texts
    logits, signatures = classifier.predict_logits(texts), kernel.signatures
    np.testing.assert_array_equal(mapped.predict_logits(texts), logits)
    assert kernel.signatures == signatures
    arrays = [array for array in mapped._arrays if array.size]
    assert all(array.ctypes.data % 64 == 0 and not array.flags.writeable for array in arrays)
    assert len(arrays) > 10


def test_a_full_disk_is_an_error_with_its_remedy(saved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = Classifier(load_checkpoint(saved), share_table=False)
    monkeypatch.setattr("tempfile.TemporaryFile", partial(open, "/dev/full", "wb"))
    with pytest.raises(UsageError, match="No space left on device; set TMPDIR"), share_classifier(classifier):
        pass
