"""Several labels per text, from the file to the service's scores."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs.config.conflicts import check_settings
from jobs.config.experiment import Experiment, ExperimentError, load_experiment
from jobs.datasets.dataset import load_dataset, load_folds
from jobs.datasets.label_sets import count_labels
from jobs.datasets.readers import DataError, read_rows
from jobs.evaluation.evaluate import evaluate
from jobs.evaluation.multi_label.evaluation import MultiLabelEvaluation
from jobs.inference.classifier import Classifier
from jobs.inference.file_prediction import predict_file
from jobs.model.checkpoint import load_checkpoint, save_checkpoint
from jobs.training.history import Progress
from jobs.training.loop import Loop
from serving.web.protocol import Limits
from serving.web.served_models import UserConfig, load_models
from tests.support.label_sets import make_label_set_rows, write_label_sets
from tests.support.loops import make_loop, train_checkpoint
from tests.support.torch_network import predict_proba
from tests.support.toy_data import read_jsonl


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    folder = tmp_path_factory.mktemp("rows")
    train = write_label_sets(folder / "train.jsonl", make_label_set_rows(240))
    return Experiment.model_validate(
        {
            "storage": str(folder / "runs"),
            "data": {"train": str(train), "multi_label": True},
            "model": {"embedding": "rand", "filter_widths": [1, 2], "feature_maps": 8},
            "vectors": {"dimensions": 12},
            "train": {"epochs": 8, "learning_rate": 0.02, "batch_size": 16},
        }
    )


@pytest.fixture(scope="module")
def trained(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Loop]:
    """Path of a checkpoint, and the loop that trained it."""
    path = tmp_path_factory.mktemp("run") / "checkpoint"
    return str(path), train_checkpoint(experiment, path)


def test_lists_separated_strings_and_fasttext_lines_are_the_same_rows(tmp_path: Path) -> None:
    rows = make_label_set_rows(12)
    files = {name: tmp_path / name for name in ("rows.jsonl", "rows.csv", "rows.txt")}
    write_label_sets(files["rows.jsonl"], rows)
    files["rows.csv"].write_text("label,text\n" + "".join(f"{' | '.join(own)},{text}\n" for own, text in rows))
    lines = ("".join(f"__label__{label} " for label in own) + text for own, text in rows)
    files["rows.txt"].write_text("\n".join(lines) + "\n")
    settings = ({"multi_label": True}, {"label_separator": "|"}, {"multi_label": True})
    for path, values in zip(files.values(), settings, strict=True):
        data = Experiment.model_validate({"data": values}).data
        assert read_rows(str(path), data).label_sets == [own for own, _ in rows], path


@pytest.mark.parametrize(
    ("settings", "content", "message"),
    [
        ({}, '{"text": "a", "label": ["x"]}', "is a list, .*data.multi_label=true"),
        ({"multi_label": True}, '{"text": "a", "label": "x|y"}', "set data.label_separator"),
        ({"multi_label": True}, '{"text": "a", "label": ["x", ""]}', "is empty"),
    ],
)
def test_a_label_of_the_other_kind_is_an_error_that_names_the_setting(
    settings: dict[str, bool], content: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content + "\n")
    with pytest.raises(DataError, match=message):
        read_rows(str(path), Experiment.model_validate({"data": settings}).data)


@pytest.mark.parametrize("load", [load_dataset, lambda experiment: load_folds(experiment, 3)])
def test_rows_without_any_label_are_an_error(tmp_path: Path, load: Callable[[Experiment], object]) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "a word", "label": []}\n' * 60)
    experiment = Experiment.model_validate(
        {"data": {"train": str(path), "multi_label": True}, "storage": str(tmp_path)}
    )
    with pytest.raises(DataError, match=r"in\.jsonl: no row has a label"):
        load(experiment)


def test_each_part_and_fold_has_the_same_share_of_each_label(experiment: Experiment) -> None:
    dataset = load_dataset(experiment)
    total = count_labels(make_label_set_rows_only())
    for part, share in ((dataset.test, 0.1), (dataset.validation, 0.09)):
        for label, count in count_labels(part.label_sets or []).items():
            assert count == pytest.approx(share * total[label], abs=2)
    folds = load_folds(experiment, 4)
    for label, count in total.items():
        for fold in folds:
            assert count_labels(fold.test.label_sets or [])[label] == pytest.approx(count / 4, abs=2)


def make_label_set_rows_only() -> list[tuple[str, ...]]:
    return [labels for labels, _ in make_label_set_rows(240)]


def test_the_network_learns_the_labels(trained: tuple[str, Loop]) -> None:
    epochs = trained[1].progress.epochs
    assert max(epoch.micro_f1 or 0 for epoch in epochs) > 0.9
    assert epochs[-1].mean_average_precision is not None
    assert epochs[-1].precision_at_1 is not None
    assert Progress.from_json(trained[1].progress.to_json()).epochs == epochs


def test_the_metric_of_a_file_without_one_is_micro_f1(experiment: Experiment) -> None:
    assert experiment.train.metric == "micro_f1"
    assert Experiment().train.metric == "accuracy"


def test_the_classifier_and_the_network_agree_and_predict_the_labels(trained: tuple[str, Loop]) -> None:
    checkpoint = load_checkpoint(trained[0])
    rows = make_label_set_rows(60, seed=1)
    texts = [text for _, text in rows] + ["", "unheard of"]
    classifier = Classifier(checkpoint, table_dtype="float32", share_table=False)
    probabilities = classifier.predict_proba(texts)
    assert np.abs(probabilities - predict_proba(checkpoint, texts)).max() < 1e-5
    assert len(checkpoint.label_thresholds) == 3
    assert checkpoint.temperature != 1
    correct = sum(
        tuple(sorted(own)) == labels for own, (labels, _) in zip(classifier.predict_labels(texts), rows, strict=False)
    )
    assert correct > 45


def test_predictions_list_the_labels_above_the_thresholds(trained: tuple[str, Loop], tmp_path: Path) -> None:
    import pyarrow.parquet

    source = write_label_sets(tmp_path / "new.jsonl", make_label_set_rows(20, seed=2))
    outputs = [str(tmp_path / f"out.{suffix}") for suffix in ("jsonl", "csv", "parquet")]
    for out in outputs:
        predict_file(trained[0], str(source), out, None)
    rows = read_jsonl(Path(outputs[0]))
    assert any(len(row["labels"]) == 2 for row in rows)
    assert any(not row["labels"] for row in rows)
    assert all([score["label"] for score in row["scores"]] == row["labels"] for row in rows)
    with open(outputs[1], newline="") as stream:
        assert [json.loads(row["labels"]) for row in csv.DictReader(stream)] == [row["labels"] for row in rows]
    table = pyarrow.parquet.read_table(outputs[2]).to_pylist()
    assert [row["labels"] for row in table] == [row["labels"] for row in rows]
    predict_file(trained[0], str(source), outputs[0], None, num_scores=3)
    assert all(len(row["scores"]) == 3 for row in read_jsonl(Path(outputs[0])))


@pytest.mark.parametrize(("separator", "is_list"), [(None, True), ("; ", False), ("o", True)])
def test_the_predictions_of_an_evaluation_list_the_labels_as_predict_does(
    trained: tuple[str, Loop], tmp_path: Path, separator: str | None, is_list: bool
) -> None:
    """With the separator of the data between them; as a list in JSON if there is none, or a label contains it."""
    checkpoint = load_checkpoint(trained[0])
    assert any("o" in label for label in checkpoint.labels)
    changed = checkpoint.experiment.replace({"data.label_separator": separator})
    save_checkpoint(tmp_path / "c", replace(checkpoint, experiment=changed))
    rows = make_label_set_rows(20, seed=2)
    source = write_label_sets(tmp_path / "new.jsonl", rows)
    evaluate(str(tmp_path / "c"), [], str(tmp_path / "report"), str(source), baseline=False)
    predict_file(str(tmp_path / "c"), str(source), str(tmp_path / "out.csv"), None)
    evaluated, predicted = (
        [*csv.DictReader(path.read_text().splitlines())]
        for path in (tmp_path / "report" / "predictions.csv", tmp_path / "out.csv")
    )
    assert [row["predicted"] for row in evaluated] == [row["labels"] for row in predicted]
    written = [json.loads(row["labels"]) if is_list else row["labels"].split("; ") for row in evaluated]
    assert [[*filter(None, labels)] for labels in written] == [[*own] for own, _ in rows]


def test_the_evaluation_compares_with_baselines(trained: tuple[str, Loop], tmp_path: Path, messages: list[str]) -> None:
    """A linear SVC for each label with a verdict, the network alone, and the same labels for every text."""
    evaluation = evaluate(trained[0], [], str(tmp_path / "report"))
    assert isinstance(evaluation, MultiLabelEvaluation)
    assert evaluation.metrics.micro_f1 > 0.8
    assert evaluation.linear_svc is not None
    assert evaluation.linear_svc.metrics.micro_f1 > 0.7
    report, page = ((tmp_path / "report" / name).read_text() for name in ("report.md", "report.html"))
    assert "P@1" in report
    assert "| sound" in report
    assert "One threshold for all labels" in page
    assert f"micro F1<b>{evaluation.metrics.micro_f1:.4f}</b>" in page
    assert evaluation.network_alone is not None
    assert evaluation.network_alone.micro_f1 > evaluation.frequent_labels.metrics.micro_f1
    always = evaluation.frequent_labels.describe()
    assert f"| metric | model | 95% confidence | network alone | TF-IDF, linear SVC | {always} |" in report
    verdict = evaluation.linear_svc.describe_difference()
    assert verdict in messages
    assert f"{verdict}." in report
    assert f"{verdict}." in page.replace("&#39;", "'")
    difference = evaluation.network_alone_difference
    assert difference is not None
    assert difference.value == pytest.approx(evaluation.metrics.micro_f1 - evaluation.network_alone.micro_f1)
    assert difference.describe_difference() in messages
    assert f"{difference.describe_difference()}." in report
    assert f"{difference.describe_difference()}." in page
    names = ", ".join(f"'{label}'" for label in evaluation.frequent_labels.labels)
    assert f"every text the same labels, those with the best micro F1: {names}." in report
    values = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert values["rows"] == evaluation.rows
    assert values["network_alone_difference"]["interval"] == [*difference.interval]
    assert values["linear_svc"]["training_rows"] == load_checkpoint(trained[0]).metrics["rows"]
    for metric in ("micro_f1", "macro_f1", "accuracy", "precision_at_1"):
        low, high = values[f"{metric}_interval"]
        value = values["metrics"].get(metric, values["metrics"]["precision_at"]["1"])
        assert low <= value <= high
        assert f"{low:.4f} to {high:.4f}" in report
    assert {item.by for item in evaluation.slices} == {"words", "unknown words"}
    assert "Reliability: 15 bins with equal sums of scores" in page
    assert "## Calibration" in report
    assert any(message.startswith("expected calibration error") for message in messages)


def test_slices_and_the_most_confident_errors_are_on_the_console(
    trained: tuple[str, Loop], tmp_path: Path, messages: list[str]
) -> None:
    """A slice has an interval, and a mark if it has few rows."""
    rows = [({"label": labels} | {"text": text, "part": "first" if number < 35 else "last"})
            for number, (labels, text) in enumerate(make_label_set_rows(40, seed=3))]  # fmt: skip
    rows.append({"label": ["price"], "text": "loud loud music", "part": "last"})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluation = evaluate(trained[0], [], str(tmp_path), str(tmp_path / "rows.jsonl"), by=["part"], baseline=False)
    assert isinstance(evaluation, MultiLabelEvaluation)
    first, last = [item for item in evaluation.slices if item.by == "part"]
    assert (first.rows, last.rows, last.to_row()["note"]) == (35, 6, "few rows")
    assert first.interval[0] <= first.micro_f1 <= first.interval[1]
    [table] = [message.splitlines() for message in messages if message.startswith("\npart ")]
    assert table[1].split() == ["part", "rows", "micro", "F1", "95%", "confidence", "note"]
    assert table[3].endswith("few rows")
    [errors] = [message for message in messages if message.startswith("\nmost confident errors")]
    assert "loud loud music" in errors
    assert "sound" in errors
    report = (tmp_path / "report.md").read_text()
    assert "| last | 6 |" in report
    assert "few rows |" in report
    assert ">few rows</td>" in (tmp_path / "report.html").read_text()


def test_values_of_a_column_are_grouped(trained: tuple[str, Loop], tmp_path: Path) -> None:
    """As with one label per text: many different numbers are ranges."""
    rows = make_label_set_rows(60, seed=3)
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(
        json.dumps({"text": text, "label": labels, "size": number}) + "\n" for number, (labels, text) in enumerate(rows)
    ))  # fmt: skip
    evaluation = evaluate(trained[0], [], str(tmp_path / "report"), str(source), by=["size"], baseline=False)
    assert isinstance(evaluation, MultiLabelEvaluation)
    slices = [item for item in evaluation.slices if item.by == "size"]
    assert 2 <= len(slices) <= 10
    assert sum(item.rows for item in slices) == 60
    assert slices[0].value.startswith("0 to ")
    assert "| size | rows | micro F1 |" in (tmp_path / "report" / "report.md").read_text()


def test_bfloat16_learns_the_labels(experiment: Experiment, tmp_path: Path) -> None:
    loop = train_checkpoint(experiment.replace({"train.precision": "bfloat16"}), tmp_path / "checkpoint")
    assert max(epoch.micro_f1 or 0 for epoch in loop.progress.epochs) > 0.9


def test_the_service_marks_the_labels_above_the_thresholds(trained: tuple[str, Loop]) -> None:
    from serving.web.protocol import encode_response, parse_request

    model = load_models(UserConfig(checkpoint=trained[0]), table_dtype="float32").primary
    texts = [text for _, text in make_label_set_rows(8)]
    request = parse_request(json.dumps({"inputs": texts}).encode(), Limits(), model.default_function)
    scores = model.score(request).scores
    assert scores == pytest.approx(model.classifier.predict_proba(texts).astype(float), abs=1e-5)
    arguments = (request, model.classifier.labels, scores, [])
    response = json.loads(encode_response(*arguments, flat=True, thresholds=model.thresholds))
    marked = [[score["label"] for score in row if score["above_threshold"]] for row in response]
    assert marked == model.classifier.predict_labels(texts)


def test_thresholds_may_be_set_and_balanced_labels_weigh_more(experiment: Experiment, tmp_path: Path) -> None:
    settings = {"train.thresholds": 0.3, "train.class_weights": "balanced", "train.epochs": 1}
    loop = train_checkpoint(experiment.replace(settings), tmp_path / "checkpoint")
    assert load_checkpoint(str(tmp_path / "checkpoint")).label_thresholds.tolist() == [0.3] * 3
    weights = loop.corpus.label_weights("balanced")
    rows = loop.corpus.train.labels.sum(axis=0)
    assert weights == pytest.approx((len(loop.corpus.train) - rows) / rows)
    plain = make_loop(experiment.replace({"train.epochs": 1}))
    next(plain.train_epochs())
    assert loop.progress.epochs[0].train_loss > plain.progress.epochs[0].train_loss


def test_fixed_thresholds_decide_the_metrics_of_an_epoch(experiment: Experiment) -> None:
    """In the first epoch no score reaches 0.95, whatever threshold would suit the scores."""
    settings = [{"train.thresholds": 0.95, "train.temperature": 1.0}, {}]
    fixed, chosen = (next(make_loop(experiment.replace(values)).train_epochs())[0] for values in settings)
    assert fixed.mean_average_precision == chosen.mean_average_precision
    assert (fixed.micro_f1, fixed.accuracy) == (0, pytest.approx(0.25, abs=0.1))
    assert (chosen.micro_f1 or 0) > 0


@pytest.mark.parametrize(
    "settings",
    [
        ["train.metric=micro_f1"],
        ["tune.metric=precision_at_1"],
        ["train.thresholds=0.3"],
        ["train.threshold_objective=0.9"],
        ["data.multi_label=true"],
        ["data.train=a.jsonl", "data.multi_label=true", "train.metric=balanced_accuracy"],
        ["data.train=a.jsonl", "data.multi_label=true", "tune.metric=matthews_correlation"],
        ["data.train=a.csv", "data.label_separator=,", "train.thresholds=0.2", "train.threshold_objective=macro_f1"],
    ],
)
def test_settings_that_contradict_each_other_are_rejected(settings: list[str]) -> None:
    with pytest.raises(ExperimentError, match=r"multi_label|several labels|metric of one label|train\.thresholds"):
        check_settings(load_experiment(None, settings), {"non-static"})
