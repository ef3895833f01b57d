"""Pipelines of Ray Data: one labels a user's dataset, the other writes the parts of a prediction on a cluster.

Both have a pool of actors that grows and shrinks. The rows of the second are names of parts: an actor reads the part,
labels it and writes its file, so texts pass neither through the driver nor through Ray's object store. Ray repeats the
parts of lost actors and nodes.
"""

import json
import logging
import socket
import time
from collections.abc import Generator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster import UsageError, first_line
from cluster.console.logs import limit_logs
from cluster.storage import exists, join
from jobs.datasets.formats.rows import DataError, SourceFile
from jobs.inference.batch.part_writer import MANIFEST, PartResult, PartWriter
from jobs.inference.batch_classifier import BatchClassifier
from jobs.inference.classifier import Classifier
from jobs.inference.projection_table import BATCH_TABLE_BYTES, TableDtype
from jobs.model.checkpoint import Checkpoint

if TYPE_CHECKING:
    from ray import ObjectRef

logger = logging.getLogger(__name__)

WAIT_NOTICE_S = 10.0
POLL_S = 0.5


class PartLabeller:
    """Callable class of the actors.

    inputs: reference to the writer, the parts by name, and the checkpoint; table_dtype: of the classifier's table.
    """

    def __init__(
        self,
        inputs: "list[ObjectRef[tuple[PartWriter, Mapping[str, SourceFile], Checkpoint]]]",
        table_dtype: TableDtype,
    ) -> None:
        import ray

        self._writer, self._parts, checkpoint = ray.get(inputs[0])
        # As `build_classifier` of one process; those of a machine share the table.
        self._classifier = Classifier(checkpoint, BATCH_TABLE_BYTES, table_dtype=table_dtype)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the results of parts as JSON, or their errors: one that is raised here Ray would repeat."""
        return {"result": np.array([self._label(name) for name in batch["name"].tolist()], object)}

    def _label(self, name: str) -> str:
        try:
            if not exists(join(self._writer.out, MANIFEST)):
                raise DataError(
                    f"{self._writer.out}: the host {socket.gethostname()} does not see the folder; name one that every "
                    "node sees, or a URI"
                )
            return json.dumps(asdict(self._writer.write(name, self._parts[name], self._classifier)))
        except UsageError as error:
            return json.dumps({"error": str(error)})


def write_parts(
    writer: PartWriter,
    parts: Mapping[str, SourceFile],
    checkpoint: Checkpoint,
    table_dtype: TableDtype,
    workers: int | None,
) -> Generator[PartResult, None, None]:
    """Write the files of parts on the cluster at `RAY_ADDRESS`, and yield the result of each when it is complete.

    Args:
        table_dtype: of the classifier's table.
        workers: largest number of actors, which have a CPU each; by default one for each CPU of the cluster, or on a
            cluster that autoscales, as many as it can have.

    Raises:
        DataError: a row is invalid, or the pipeline ended with an error.
        ResourceError: the cluster has no CPUs.
        StorageError: a file cannot be written.
    """
    from cluster.connection import connect
    from cluster.resources import is_autoscaling, total_cpus

    with connect():
        import ray
        import ray.data
        from ray.exceptions import RayError

        _wait_for_cpu()
        limit = workers or (len(parts) if is_autoscaling() else total_cpus())
        size = max(1, min(limit, len(parts)))
        initial_size = min(size, max(1, total_cpus()))
        with limit_logs("ray.data", logging.ERROR):  # it would print a line per option
            dataset = ray.data.from_items([{"name": name} for name in parts], override_num_blocks=len(parts))
            dataset.context.enable_progress_bars = False
            inputs = ray.put((writer, dict(parts), checkpoint))
            results = dataset.map_batches(
                PartLabeller,
                batch_size=None,
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=size, initial_size=initial_size),
                num_cpus=1,
                fn_constructor_args=[[inputs], table_dtype],
            )
            logger.info(f"writing {len(parts):,} files with up to {size:,} processes of the cluster")
            try:
                for batch in results.iter_batches(batch_size=None, prefetch_batches=0):
                    for line in batch["result"].tolist():
                        yield _parse_result(line)
            except RayError as error:
                advice = "repeat the command to write the missing files"
                raise DataError(f"{writer.out}: the pipeline ended: {first_line(error)}; {advice}") from error


def label_dataset(dataset: Any, checkpoint: Checkpoint) -> Any:
    """Return a `ray.data.Dataset` with the columns that `BatchClassifier` adds."""
    import ray.data

    return dataset.map_batches(
        BatchClassifier,
        fn_constructor_args=[checkpoint],
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1),
    )


def _parse_result(line: str) -> PartResult:
    """Return the result of a part; DataError if it is an error."""
    values: dict[str, Any] = json.loads(line)
    if "error" in values:
        raise DataError(values["error"])
    return PartResult(**values)


def _wait_for_cpu() -> None:
    """Wait until a CPU of the cluster is free, and log it; one that autoscales grows on demand."""
    import ray

    from cluster.resources import ResourceError, describe_free_resources, is_autoscaling, total_cpus

    if is_autoscaling():
        return
    if not total_cpus():
        raise ResourceError("the cluster has no CPUs, and it does not autoscale; add a node")
    last = -WAIT_NOTICE_S
    while ray.available_resources().get("CPU", 0) < 1:  # type: ignore[no-untyped-call]  # Ray has no types here
        if time.monotonic() - last >= WAIT_NOTICE_S:
            last = time.monotonic()
            logger.info(f"waiting for a free CPU: {describe_free_resources()}")
        time.sleep(POLL_S)
