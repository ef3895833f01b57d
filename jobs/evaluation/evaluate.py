"""Evaluation of a checkpoint on labelled texts that training did not see, with a report."""

import logging
import re
from dataclasses import dataclass, replace
from pathlib import PurePath

import numpy as np

from cluster.console.logs import RESULT
from cluster.console.tables import format_markdown_table, format_text_table
from cluster.input_files import check_output_file
from cluster.storage import join, output_folder
from jobs.config.experiment import Experiment, apply_overrides
from jobs.config.settings import Source
from jobs.datasets.dataset import load_dataset
from jobs.datasets.formats.labels import spell_label
from jobs.datasets.readers import DataError, Split, choose_encoding, read_rows
from jobs.datasets.tokenizer import Vocabulary, encode
from jobs.evaluation.drift import NoTrainedVectors, format_markdown_section, load_drift, write_drift
from jobs.evaluation.errors import ConfidentError, find_confident_errors, write_predictions
from jobs.evaluation.metrics import (
    accuracy,
    accuracy_interval,
    confusion,
    macro_f1,
    macro_f1_interval,
    per_class_metrics,
)
from jobs.evaluation.report import Evaluation, write_report
from jobs.evaluation.report_folder import choose_report_folder
from jobs.evaluation.seen_texts import find_seen_texts
from jobs.inference.file_prediction import build_classifier
from jobs.inference.text_tokens import tokenize_texts
from jobs.model.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    load_train_texts,
    read_published_test_part,
)

logger = logging.getLogger(__name__)

NUM_LOGGED_ERRORS = 5
MAX_LOGGED_CHARACTERS = 60
# Values of metrics.json that a report shows.
REQUIRED_METRICS = ("epoch", "rows", "accuracy", "versions")


@dataclass(frozen=True)
class MeasuredEvaluation(Evaluation):
    """An evaluation with 95 % confidence intervals.

    seen_texts: number of texts with the same words as a training text, None if the checkpoint does not have what this
    is compared with; unseen_accuracy: accuracy on the other rows, None without such rows.
    """

    accuracy_interval: tuple[float, float]
    macro_f1_interval: tuple[float, float]
    seen_texts: int | None
    unseen_accuracy: float | None

    def describe_intervals(self) -> str:
        """Return the confidence intervals as text."""
        return "95% confidence: accuracy {:.4f} to {:.4f}, macro F1 {:.4f} to {:.4f}".format(
            *self.accuracy_interval, *self.macro_f1_interval
        )

    def describe_seen_texts(self) -> str | None:
        """Return how many texts were trained on as text; None if there are none, or if it is not known."""
        if not self.seen_texts:
            return None
        text = f"{self.seen_texts:,} of {self.rows:,} texts have the same words as a training text"
        if self.unseen_accuracy is None:
            return f"{text}; the metrics show nothing about new texts"
        return f"{text}; accuracy on the other {self.rows - self.seen_texts:,}: {self.unseen_accuracy:.4f}"


def evaluate(
    path: str,
    settings: list[str],
    out: str | None,
    file: Source | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
) -> MeasuredEvaluation:
    """Evaluate a checkpoint, log the metrics and the most confident errors, and write a report.

    Args:
        path: a checkpoint, a best.json, or a folder with one.
        settings: changes to the experiment, such as `data.test=other.csv` or, for `file`, `data.delimiter=^`.
        out: the report's folder; by default that of `choose_report_folder` for its experiment's test part, and
            with `-NAME-KEY` after it for other rows.
        file: labelled texts to measure; by default the experiment's test part.
        text_column, label_column: of that file; by default as in training.

    Raises:
        DataError: the test part cannot be read, has other labels, or is not the one that training held out.
        StorageError: `out` is in a checkpoint.
    """
    checkpoint = load_checkpoint(path)
    missing = [name for name in REQUIRED_METRICS if name not in checkpoint.metrics]
    if missing:
        raise CheckpointError(f"{checkpoint.path}: metrics.json: lacks {', '.join(missing)}")
    columns = {"data.text_column": text_column, "data.label_column": label_column}
    experiment = apply_overrides(checkpoint.experiment, settings) if settings else checkpoint.experiment
    experiment = experiment.replace({key: name for key, name in columns.items() if name is not None})
    keys = {setting.partition("=")[0] for setting in settings}
    if file is not None:
        # Other files may have another delimiter and encoding than the training file.
        here = experiment.data.model_copy(update={"folder": "."})
        guessed = {"data.delimiter": None, "data.encoding": choose_encoding(file, here)}
        experiment = experiment.replace({key: value for key, value in guessed.items() if key not in keys})
    elif "data.test" not in keys:
        file = read_published_test_part(path)
    test = _load_test_part(experiment, checkpoint, file)
    target = choose_report_folder(out, path, checkpoint, _describe_rows(checkpoint, test))
    classifier = build_classifier(checkpoint, len(test))
    probabilities = classifier.predict_proba(test.texts)
    evaluation = _measure(checkpoint, test, probabilities.argmax(axis=1))
    logger.log(RESULT, evaluation.format_table())
    logger.log(RESULT, evaluation.describe_intervals())
    if evaluation.seen_texts is None:
        logger.info("whether these texts were trained on is not known: the checkpoint lacks their digests")
    elif warning := evaluation.describe_seen_texts():
        logger.warning(f"{test.path}: {warning}")
    errors = find_confident_errors(classifier, test, probabilities)
    if errors:
        rows = [error.to_row(MAX_LOGGED_CHARACTERS) for error in errors[:NUM_LOGGED_ERRORS]]
        logger.log(RESULT, f"\nmost confident errors\n\n{format_text_table(rows)}\n")
    with output_folder(target) as folder:
        check_output_file(join(target, "predictions.csv"), *(file.path for file in test.files))
        drift_section: list[str] = []
        try:
            drift = load_drift(checkpoint)
            write_drift(folder, drift, experiment.name)
            drift_section = format_markdown_section(drift)
        except NoTrainedVectors as error:
            logger.info(f"the report has no section on vector drift: {error}")
        write_predictions(folder / "predictions.csv", checkpoint.labels, test, probabilities)
        write_report(folder, evaluation, checkpoint, [*_format_sections(evaluation, errors), *drift_section])
    logger.log(RESULT, f"report: {join(target, 'report.md')}")
    return evaluation


def _load_test_part(experiment: Experiment, checkpoint: Checkpoint, file: Source | None) -> Split:
    """Return the labelled texts of a file, or of the experiment's test part; DataError if they cannot be measured."""
    data = experiment.data
    if file is not None:
        test = _respell(read_rows(file, data.model_copy(update={"folder": "."})), checkpoint.labels)
    elif data.test is not None:
        test = _respell(read_rows(data.test, data), checkpoint.labels)
    else:
        test = _respell(load_dataset(experiment).test, checkpoint.labels)
        if test.digest() != checkpoint.metrics.get("held_out"):
            raise DataError(
                f"{test.path}: the rows drawn from it now are not those that training left out: the file or a setting "
                "has changed since. Some of them may have been trained on; name a file of unseen texts: "
                "finetune-cnn evaluate CHECKPOINT FILE"
            )
    known = set(checkpoint.labels)
    unknown = [index for index, label in enumerate(test.labels) if label not in known]
    if unknown:
        position, label = test.describe_position(unknown[0]), test.labels[unknown[0]]
        raise DataError(
            f"{position}: the checkpoint has no label '{label}'; its labels are {', '.join(checkpoint.labels)}"
        )
    return test


def _respell(rows: Split, labels: list[str]) -> Split:
    """Return rows with the labels as a checkpoint of an earlier version spells them, such as 1.0 in csv."""
    spellings = {spell_label(label): label for label in labels if spell_label(label) not in labels}
    return replace(rows, labels=[spellings.get(label, label) for label in rows.labels]) if spellings else rows


def _measure(checkpoint: Checkpoint, test: Split, predicted: np.ndarray) -> MeasuredEvaluation:
    indices = {label: index for index, label in enumerate(checkpoint.labels)}
    labels = np.array([indices[label] for label in test.labels])
    digests = load_train_texts(checkpoint.path)
    seen = None
    if digests is not None:
        text = checkpoint.experiment.text
        tokenized = tokenize_texts(test.texts, text.lowercase)
        seen = find_seen_texts(encode(tokenized, Vocabulary(checkpoint.words), text.max_tokens), digests)
    has_unseen = seen is not None and seen.any() and not seen.all()
    num_classes = len(checkpoint.labels)
    return MeasuredEvaluation(
        checkpoint=checkpoint.path,
        source=test.path,
        rows=len(test),
        accuracy=accuracy(labels, predicted),
        macro_f1=macro_f1(labels, predicted),
        labels=checkpoint.labels,
        per_class=per_class_metrics(labels, predicted, num_classes),
        confusion=confusion(labels, predicted, num_classes),
        accuracy_interval=accuracy_interval(labels, predicted),
        macro_f1_interval=macro_f1_interval(labels, predicted),
        seen_texts=None if seen is None else int(seen.sum()),
        unseen_accuracy=accuracy(labels[~seen], predicted[~seen]) if has_unseen and seen is not None else None,
    )


def _describe_rows(checkpoint: Checkpoint, test: Split) -> str:
    """Return the end of the name of the report's folder, which differs from those of other rows."""
    digest = test.digest()
    if digest == checkpoint.metrics.get("held_out", digest):
        return ""
    stem = PurePath(test.path.partition("?")[0]).name.partition(".")[0]
    return f"-{re.sub(r'[^A-Za-z0-9_-]+', '-', stem)}-{digest}"


def _format_sections(evaluation: MeasuredEvaluation, errors: list[ConfidentError]) -> list[str]:
    """Return the sections of report.md that follow the metrics, as lines of Markdown."""
    lines = ["## Confidence", "", f"{evaluation.describe_intervals()}. The interval of the accuracy is Wilson's, that"]
    lines += ["of macro F1 a bootstrap of the rows.", ""]
    if evaluation.seen_texts == 0:
        lines += ["No text has the same words as a training text.", ""]
    elif note := evaluation.describe_seen_texts():
        lines += [f"**{note}.**", ""]
    lines += ["## Most confident errors", ""]
    lines += format_markdown_table([error.to_row() for error in errors]) if errors else ["None."]
    return [*lines, "", "Every row: [predictions.csv](predictions.csv).", ""]
