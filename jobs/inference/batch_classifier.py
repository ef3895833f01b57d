"""Classifier of batches of rows: a callable class for pipelines of Ray Data, or for batches without Ray.

import finetune_cnn, ray

texts = ray.data.read_parquet("s3://bucket/texts")
texts.map_batches(
    finetune_cnn.BatchClassifier,
    fn_constructor_args=["s3://bucket/runs/tickets"],
    batch_format="pyarrow",
    batch_size=16_384,
    compute=ray.data.ActorPoolStrategy(min_size=1, max_size=64),
).write_parquet("s3://bucket/labelled")
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from jobs.config.abstention import Objective, require_rule
from jobs.datasets.chunks import ColumnTypes
from jobs.datasets.formats.columnar.encoded_texts import encode_column
from jobs.datasets.formats.rows import DataError, describe_names
from jobs.inference.batch.arrow_output import build_columns
from jobs.inference.batch.output_columns import choose_columns, score_texts
from jobs.inference.classifier import Classifier
from jobs.inference.projection_table import BATCH_TABLE_BYTES, TableDtype
from jobs.model.checkpoint import Checkpoint, load_checkpoint

if TYPE_CHECKING:
    from pyarrow import Table

Batch = TypeVar("Batch", "Table", dict[str, np.ndarray])


class BatchClassifier:
    """Adds labels and scores to batches of rows.

    >>> import finetune_cnn, numpy, pyarrow
    >>> classify = finetune_cnn.BatchClassifier("model")
    >>> classify(pyarrow.table({"text": ["a good film", "a bad film"]})).column_names
    ['text', 'label', 'score']
    >>> classify({"text": numpy.array(["a good film"])})["label"]
    array(['good'], dtype=object)

    Each process has its own classifier; those of a machine share the projection table. All columns of a batch stay;
    the new ones are those of `finetune-cnn predict`: `label`, `score` (float32), and `scores` and `explanation` on
    request. If a column has such a name, the new one is called `predicted_label`, and so on.

    Args:
        checkpoint: path or URI of a checkpoint, of a best.json, or of a folder with either; or a loaded checkpoint.
        text_column: name of the column of texts; by default the one that training read.
        num_scores: number of the best classes that the column `scores` lists with their probabilities; 0: no column.
        explain: add the column `explanation`: the phrases that the score of the label consists of.
        abstain: objective of a threshold of the checkpoint, as of `Classifier.predict`; a text whose score is below it
            has the label null.
        table_dtype: of the table of the words' products with the filters. With float32 scores are those of training to
            1e-5, and those of `predict` into a file; with int16, which is faster, those of `predict` into a folder.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        MissingThreshold: it has no threshold for the objective.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str] | Checkpoint,
        *,
        text_column: str | None = None,
        num_scores: int = 0,
        explain: bool = False,
        abstain: Objective | None = None,
        table_dtype: TableDtype = "float32",
    ) -> None:
        loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load_checkpoint(os.fspath(checkpoint))
        self.text_column = text_column or loaded.experiment.data.text_column
        self.num_scores, self.explain = num_scores, explain
        self._abstention = require_rule(loaded.metrics, abstain) if abstain is not None else None
        self._checkpoint = replace(loaded, words=[], weights={})  # labels and settings of the columns
        self.classifier = Classifier(loaded, BATCH_TABLE_BYTES, table_dtype=table_dtype)

    def __call__(self, batch: Batch) -> Batch:
        """Return a batch with the new columns: a table of pyarrow, or a dict of numpy arrays, as the argument is.

        Raises:
            DataError: there is no column of texts, or one of its values is no string.
        """
        names = [*batch] if isinstance(batch, dict) else batch.column_names
        if self.text_column not in names:
            hint = describe_names(names, self.text_column)
            raise DataError(f"there is no column '{self.text_column}' (text_column); the batches have {hint}")
        texts = self._list_texts(batch)
        types: ColumnTypes = {name: set() for name in names}
        columns = choose_columns(self._checkpoint, types, self.num_scores, self._abstention, explain=self.explain)
        arrays = build_columns(*score_texts(self.classifier, texts, columns), columns)
        new = dict(zip(columns.new, arrays, strict=True))
        if isinstance(batch, dict):
            return batch | {name: column.to_numpy(zero_copy_only=False) for name, column in new.items()}
        for name, column in new.items():
            batch = batch.append_column(name, column)
        return batch

    def _list_texts(self, batch: "Table | dict[str, np.ndarray]") -> Sequence[str]:
        """Return the texts of a batch; DataError if a value is no string."""
        texts: list[str]
        if isinstance(batch, dict):
            texts = batch[self.text_column].tolist()
        else:
            import pyarrow as pa

            column = batch[self.text_column]
            if (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)) and not column.null_count:
                return encode_column(column.cast(pa.large_string()).combine_chunks())
            texts = column.to_pylist()
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise DataError(
                    f"the column '{self.text_column}' has {text!r} in row {number} of a batch; texts are strings: "
                    "filter such rows first"
                )
        return texts
