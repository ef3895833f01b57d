"""Report of an evaluation with several labels per text: report.md, evaluation.json and predictions.csv."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cluster.console.csv_output import create_csv_writer
from cluster.console.tables import format_markdown_table
from cluster.storage import write_json
from jobs.datasets.formats.label_names import choose_separator, join_labels
from jobs.datasets.readers import Split
from jobs.evaluation.multi_label.evaluation import INTERVALS_NOTE, MultiLabelEvaluation
from jobs.evaluation.reports.errors import NUM_ERRORS, ConfidentError, list_phrases
from jobs.evaluation.slices import format_slices
from jobs.inference.classifier import Classifier, select_labels
from jobs.model.checkpoint import Checkpoint


def find_wrong_labels(
    classifier: Classifier, test: Split, labels: np.ndarray, probabilities: np.ndarray, count: int = NUM_ERRORS
) -> list[ConfidentError]:
    """Return the labels that texts get with the highest scores and do not have, the most confident error first.

    Args:
        labels: of the rows, `(rows, labels)` of 0 and 1.
    """
    is_wrong = (probabilities >= classifier.label_thresholds) & ~labels.astype(bool)
    wrong = np.where(is_wrong, probabilities, -1.0)
    errors = []
    for position in np.argsort(-wrong, axis=None, kind="stable")[: min(count, int(is_wrong.sum()))]:
        row, label = np.unravel_index(position, wrong.shape)
        text, score = test.texts[row], float(wrong[row, label])
        phrases = list_phrases(classifier, text, int(label))
        errors.append(ConfidentError(text, test.labels[row], classifier.labels[label], score, phrases))
    return errors


def write_report(
    folder: Path,
    evaluation: MultiLabelEvaluation,
    checkpoint: Checkpoint,
    test: Split,
    probabilities: np.ndarray,
    sections: Sequence[str],
    errors: Sequence[ConfidentError],
) -> None:
    """Write report.md, evaluation.json and predictions.csv into an existing folder.

    Args:
        sections: lines of Markdown that follow the metrics. errors: as of `find_wrong_labels`.
    """
    write_json(str(folder / "evaluation.json"), evaluation.to_json())
    _write_predictions(folder / "predictions.csv", checkpoint, test, probabilities)
    lines = _format_markdown(evaluation, checkpoint, sections, errors)
    (folder / "report.md").write_text("\n".join(lines), encoding="utf-8")


def _write_predictions(path: Path, checkpoint: Checkpoint, test: Split, probabilities: np.ndarray) -> None:
    """Write a csv with every row, its labels, those that it gets, and their probabilities.

    Labels have the separator of the data between them, or are a list in JSON.
    """
    lines: Sequence[int | str] = test.line_numbers or [""] * len(test)
    files = [[test.files[index].path] for index in test.file_indices] if test.file_indices else [[]] * len(test)
    label_sets: Sequence[Sequence[str]] = test.label_sets or [()] * len(test)
    known = {*checkpoint.labels, *itertools.chain.from_iterable(label_sets)}
    separator = choose_separator(checkpoint.experiment.data.label_separator, sorted(known))
    selected = select_labels(probabilities, checkpoint.label_thresholds)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = create_csv_writer(stream)
        writer.writerow([*(["file"] if test.file_indices else []), "line", "text", "labels", "predicted", "scores"])
        columns = zip(files, lines, test.texts, label_sets, selected, probabilities, strict=True)
        for file, line, text, labels, own, row in columns:
            predicted = join_labels([checkpoint.labels[index] for index in own], separator)
            scores = ", ".join(f"{row[index]:.6f}" for index in own)
            writer.writerow([*file, line, text, join_labels(labels, separator), predicted, scores])


def _format_markdown(
    evaluation: MultiLabelEvaluation,
    checkpoint: Checkpoint,
    sections: Sequence[str],
    errors: Sequence[ConfidentError],
) -> list[str]:
    metrics, thresholds = checkpoint.metrics, checkpoint.metrics.get("label_thresholds", {})
    values = sorted(set(checkpoint.label_thresholds.tolist()))
    chosen = f"{values[0]:.2f}" if len(values) == 1 else f"{values[0]:.2f} to {values[-1]:.2f}, one for each label"
    objective = thresholds.get("objective")
    lines = [
        f"# {checkpoint.experiment.name}: {checkpoint.experiment.model.embedding}, several labels per text",
        "",
        f"Test micro F1 **{evaluation.metrics.micro_f1:.4f}**, macro F1 **{evaluation.metrics.macro_f1:.4f}**, on "
        f"{evaluation.rows:,} rows of `{evaluation.source}`.",
        "",
        f"Checkpoint `{evaluation.checkpoint}`, epoch {metrics.get('epoch')}, trained on {metrics.get('rows'):,} rows. "
        f"Threshold of scores: {chosen}" + (f", chosen on validation rows for {objective}." if objective else "."),
        "",
        "## Metrics",
        "",
        *format_markdown_table(evaluation.comparison_rows()),
        "",
        INTERVALS_NOTE,
        "",
        *(line for text in evaluation.describe_baselines() for line in (f"{text}.", "")),
        "## Labels",
        "",
        *format_markdown_table(evaluation.label_rows()),
        "",
        "## Most confident errors",
        "",
        *(format_markdown_table([error.to_row() for error in errors]) if errors else ["None."]),
        "",
        "Every row: [predictions.csv](predictions.csv).",
        "",
    ]
    lines += [
        *format_slices(evaluation.slices, "Micro F1"),
        *sections,
        "Settings:",
        "",
        "```yaml",
        checkpoint.experiment.to_yaml().rstrip(),
        "```",
        "",
    ]
    return lines
