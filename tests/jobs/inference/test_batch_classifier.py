"""Classifier of batches, in a pipeline of Ray Data and without one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import UsageError
from jobs.inference.batch_classifier import BatchClassifier
from jobs.inference.file_prediction import predict_file
from jobs.model.checkpoint import save_checkpoint
from tests.support.checkpoints import checkpoint_of

TEXTS = ["word1 word2", "", "naïve word3", "word4 " * 50]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("checkpoint") / "checkpoint"
    save_checkpoint(folder, checkpoint_of("non-static", **{"data.text_column": "body"}))
    return str(folder)


@pytest.fixture(scope="module")
def classify(saved: str) -> BatchClassifier:
    return BatchClassifier(saved, num_scores=2)


def test_a_table_gets_the_columns_of_predict(classify: BatchClassifier, saved: str, tmp_path: Path) -> None:
    """With the same values; the columns of the table stay as they are."""
    table = pa.table({"label": pa.array([1, 2, 3, 4], pa.int8()), "body": TEXTS})
    result = classify(table)
    assert result.select(table.column_names).equals(table)
    pq.write_table(table, tmp_path / "in.parquet")
    predict_file(saved, str(tmp_path / "in.parquet"), str(tmp_path / "out.parquet"), None, num_scores=2)
    assert result.equals(pq.read_table(tmp_path / "out.parquet"))
    assert result.column_names == ["label", "body", "predicted_label", "score", "scores"]


def test_arrays_of_numpy_get_the_same_columns(classify: BatchClassifier) -> None:
    """They are what Ray Data passes unless `batch_format` is pyarrow. Columns of any shape stay."""
    images = np.zeros((4, 2, 2))
    result = classify({"body": np.array(TEXTS), "image": images})
    expected = classify(pa.table({"body": TEXTS}))
    assert result["image"] is images
    assert list(result["label"]) == expected["label"].to_pylist()
    assert result["score"].dtype == np.float32
    assert result["score"].tolist() == expected["score"].to_pylist()
    assert [list(row) for row in result["scores"]] == expected["scores"].to_pylist()


def test_a_text_with_a_low_score_has_the_label_null_on_request(tmp_path: Path) -> None:
    """As `predict` writes it."""
    checkpoint = checkpoint_of("non-static")
    scores = sorted(BatchClassifier(checkpoint)({"text": np.array(TEXTS)})["score"])
    metrics = {"abstention": {"thresholds": {"retention": float(scores[2]), "precision": None}, "rows": 5}}
    save_checkpoint(tmp_path / "checkpoint", replace(checkpoint, metrics=metrics))
    result = BatchClassifier(str(tmp_path / "checkpoint"), abstain="retention")(pa.table({"text": TEXTS}))
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "in.parquet")
    paths = [str(tmp_path / name) for name in ("checkpoint", "in.parquet", "out.parquet")]
    predict_file(*paths, None, abstain="retention")
    assert result.equals(pq.read_table(paths[2]))
    assert result["label"].null_count == 2
    with pytest.raises(UsageError, match="its 5 validation rows do not show"):
        BatchClassifier(str(tmp_path / "checkpoint"), abstain="precision")


def test_an_empty_batch_gets_empty_columns(classify: BatchClassifier) -> None:
    table = pa.table({"body": pa.array([], pa.string())})
    assert classify(table).schema == classify(pa.table({"body": TEXTS})).schema


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("boddy", TEXTS, r"there is no column 'body' \(text_column\); the batches have boddy; did you mean 'boddy'"),
        ("body", ["word1", None], "the column 'body' has None in row 1 of a batch"),
        ("body", [1, 2], "the column 'body' has 1 in row 0"),
    ],
)
def test_a_batch_without_texts_is_an_error(
    classify: BatchClassifier, column: str, values: list[object], message: str
) -> None:
    for batch in (pa.table({column: values}), {column: np.array(values, object)}):
        with pytest.raises(UsageError, match=message):
            classify(batch)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("embedded_ray")
def test_it_is_a_step_of_a_pipeline_of_ray_data(classify: BatchClassifier, saved: str) -> None:
    """In an autoscaling pool of actors, with the default format of batches and with tables."""
    import ray.data

    rows = [{"id": number, "body": TEXTS[number % 4]} for number in range(100)]
    expected = classify(pa.table({"body": TEXTS}))["label"].to_pylist()
    for options in ({}, {"batch_format": "pyarrow"}):
        dataset = ray.data.from_items(rows).map_batches(
            BatchClassifier,
            fn_constructor_args=[saved],
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=2),
            **options,
        )
        labels = {row["id"]: row["label"] for row in dataset.take_all()}
        assert labels == {number: expected[number % 4] for number in range(100)}
