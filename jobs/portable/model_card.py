"""Model card of a checkpoint: its README.md, with the metadata that the Hugging Face Hub reads.

Everything in it comes from the checkpoint, except the licence, which its owner chooses, and the metrics of test texts,
which `finetune-cnn push` adds from the newest report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from cluster.console.tables import format_markdown_table
from jobs.config.abstention import DEFAULT_OBJECTIVE
from jobs.config.experiment import Experiment
from jobs.config.text_distribution import EDGES, find_distribution
from jobs.evaluation.metrics import Interval, share_interval
from jobs.model.checkpoint import Checkpoint
from jobs.portable.private_paths import hide_folder, hide_folders

LIBRARY = "finetune-cnn"
MAX_LABELS = 50
USUAL_SHARE = 0.95  # of the validation texts, whose lengths a card gives
# Metrics of a card, with the names that the Hub's own metrics have.
HUB_METRICS = {"accuracy": "accuracy", "micro_f1": "f1", "macro_f1": "f1"}
METRIC_NAMES = {"accuracy": "accuracy", "micro_f1": "micro F1", "macro_f1": "macro F1", "loss": "loss"}


@dataclass(frozen=True)
class CardMetric:
    """A metric on some rows. interval: its 95 % confidence interval; None if it is not known."""

    name: str
    value: float
    interval: Interval | None
    rows: int
    part: str


def render_model_card(checkpoint: Checkpoint, uri: str | None = None, measured: Sequence[CardMetric] = ()) -> str:
    """Return the model card of a checkpoint, Markdown.

    Args:
        uri: of the repository that the card is for; by default the card names no repository.
        measured: metrics on test texts.
    """
    experiment = hide_folders(checkpoint.experiment)
    metrics = [*measured, *_list_validation_metrics(checkpoint)]
    lines = [
        "---",
        yaml.safe_dump(_build_metadata(experiment, metrics), sort_keys=False, allow_unicode=True).rstrip(),
        "# license: the owner of the model chooses it, for example apache-2.0",
        "---",
        "",
        f"# {experiment.name}",
        "",
        _describe_model(checkpoint),
        "",
        "## Intended use",
        "",
        *_describe_intended_use(checkpoint, experiment),
        "",
        "## Use",
        "",
        *_describe_use(uri),
        "",
        "## Labels",
        "",
        _list_labels(checkpoint.labels),
        "",
        "## Metrics",
        "",
        *(format_markdown_table([_to_row(metric) for metric in metrics]) if metrics else ["None were measured."]),
        "",
        *(["The validation part also chose the epoch, so its metrics are optimistic.", ""] if metrics else []),
        "## Data",
        "",
        *_describe_data(experiment, checkpoint.metrics),
        "",
        "## Limitations",
        "",
        *_describe_limitations(checkpoint),
        "",
        "## Provenance",
        "",
        *_describe_provenance(experiment, checkpoint.metrics),
        "",
    ]
    return "\n".join(lines)


def read_measured_metrics(evaluation: Mapping[str, Any]) -> list[CardMetric]:
    """Return the metrics of test texts in an evaluation.json."""
    values = evaluation | evaluation.get("metrics", {})
    part = f"test texts, `{hide_folder(str(evaluation['source']))}`"
    metrics = []
    for name in HUB_METRICS:
        if values.get(name) is not None:
            interval = _read_interval(evaluation, name)
            metrics.append(CardMetric(name, float(values[name]), interval, int(evaluation["rows"]), part))
    return metrics


def _list_validation_metrics(checkpoint: Checkpoint) -> list[CardMetric]:
    metrics, rows = checkpoint.metrics, int(checkpoint.metrics.get("validation_rows") or 0)
    listed = []
    for name in HUB_METRICS:
        value = metrics.get(name)
        if isinstance(value, int | float) and rows:
            is_share = name == "accuracy"
            interval = share_interval(round(value * rows), rows) if is_share else _read_interval(metrics, name)
            listed.append(CardMetric(name, float(value), interval, rows, "validation part"))
    return listed


def _read_interval(values: Mapping[str, Any], metric: str) -> Interval | None:
    """Return the interval of a metric in a metrics.json or evaluation.json; None if there is none."""
    bounds = values.get(f"{metric}_interval")
    if not isinstance(bounds, list | tuple) or [type(bound) for bound in bounds] != [float, float]:
        return None
    return bounds[0], bounds[1]


def _build_metadata(experiment: Experiment, metrics: Sequence[CardMetric]) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "library_name": LIBRARY,
        "pipeline_tag": "text-classification",
        "tags": ["text-classification", "cnn", "word2vec", "ray", *(["multi-label"] * experiment.data.is_multi_label)],
        "metrics": sorted({HUB_METRICS[metric.name] for metric in metrics}),
    }
    if metrics:
        parts = dict.fromkeys(metric.part for metric in metrics)
        metadata["model-index"] = [
            {"name": experiment.name, "results": [_build_result(experiment, metrics, part) for part in parts]}
        ]
    return metadata


def _build_result(experiment: Experiment, metrics: Sequence[CardMetric], part: str) -> dict[str, Any]:
    return {
        "task": {"type": "text-classification"},
        "dataset": {"name": experiment.name, "type": experiment.name, "split": part.partition(" ")[0]},
        "metrics": [
            {"type": HUB_METRICS[metric.name], "name": METRIC_NAMES[metric.name], "value": round(metric.value, 6)}
            for metric in metrics
            if metric.part == part
        ],
    }


def _describe_model(checkpoint: Checkpoint) -> str:
    model = checkpoint.experiment.model
    vectors = checkpoint.weights.get("vectors", checkpoint.weights.get("fixed_vectors", None))
    dimensions = "" if vectors is None else f" of {vectors.shape[1]} dimensions"
    kind = "several labels per text" if checkpoint.is_multi_label else "one label per text"
    widths = ", ".join(map(str, model.filter_widths))
    linear = ", a linear classifier over words and pairs of words" if model.linear != "none" else ""
    return (
        f"Text classifier with {kind}: a convolutional network (Kim 2014) over word vectors{dimensions} "
        f"({model.embedding}), {model.feature_maps} filters of each of the widths {widths}{linear}, and a vocabulary "
        f"of {len(checkpoint.words):,} words. It was trained with `finetune-cnn`; reading it runs no code from its "
        "files."
    )


def _describe_intended_use(checkpoint: Checkpoint, experiment: Experiment) -> list[str]:
    """Return what the model is for, and what it is not for.

    Args:
        experiment: of the checkpoint, without folders.
    """
    count, metrics = f"{len(checkpoint.labels):,}", checkpoint.metrics
    assigned = f"one of {count} labels, the most likely one"
    if checkpoint.is_multi_label:
        assigned = f"those of {count} labels whose score reaches the threshold of the label: several, one or none"
    lines = [
        f"* Direct use: it assigns to a text {assigned}.",
        f"* Texts: those of the same source, kind and language as the training texts, {_name_texts(experiment)}."
        f"{_describe_lengths(metrics)}",
        "* Out-of-scope use: texts of another kind, subject, language or time; decisions that affect people, unless a "
        "person checks them. Measure it on labelled texts of your own before you rely on it.",
    ]
    if metrics.get("abstention", {}).get("thresholds", {}).get(DEFAULT_OBJECTIVE) is not None:
        abstain = f'`classifier.predict(texts, abstain="{DEFAULT_OBJECTIVE}")`'
        lines.append(f"* {abstain} returns None instead of the label of a text whose score is low.")
    return lines


def _describe_use(uri: str | None) -> list[str]:
    """Return how to install the package and to load the model; uri: as of `render_model_card`."""
    lines = [
        "The package `finetune-cnn` reads the model. It is installed from its repository, not by its name:",
        "",
        "```console",
        f'pip install "git+URL-OF-THE-REPOSITORY"{" huggingface_hub" if uri else ""}',
        "```",
        "",
        "```python",
        "import finetune_cnn",
        "",
        f'classifier = finetune_cnn.load("{uri or "FOLDER"}")',
        'print(classifier.predict(["a text to classify"]))',
        "```",
    ]
    return lines if uri else [*lines, "", "`FOLDER` is the folder of this file."]


def _name_texts(experiment: Experiment) -> str:
    """Return the source of the training texts; experiment: without folders."""
    data = experiment.data
    if data.train is None:
        return f"docstrings of the Python packages {', '.join(data.packages)}"
    return ", ".join(f"`{name}`" for name in ([data.train] if isinstance(data.train, str) else data.train))


def _describe_lengths(metrics: Mapping[str, Any]) -> str:
    """Return a sentence on the lengths of the validation texts; empty if they are not known."""
    distribution = find_distribution(metrics)
    if distribution is None:
        return ""
    counts, edges = np.cumsum(distribution["length"]), EDGES["length"]
    number = int(np.searchsorted(counts, USUAL_SHARE * counts[-1]))  # of the bin
    if number == len(edges):
        return ""
    return f" At least {100 * USUAL_SHARE:.0f} % of the validation texts have at most {edges[number]} tokens."


def _list_labels(labels: Sequence[str]) -> str:
    names = (" ".join(label.replace("`", "'").split()) for label in labels[:MAX_LABELS])
    shown = ", ".join(f"`{name}`" for name in names)
    rest = f", and {len(labels) - MAX_LABELS:,} more in labels.json" if len(labels) > MAX_LABELS else ""
    return f"{len(labels):,}: {shown}{rest}"


def _to_row(metric: CardMetric) -> dict[str, str]:
    interval = "-" if metric.interval is None else "{:.4f} to {:.4f}".format(*metric.interval)
    return {
        "rows": f"{metric.rows:,} of the {metric.part}",
        "metric": METRIC_NAMES[metric.name],
        "value": f"{metric.value:.4f}",
        "95 % confidence": interval,
    }


def _describe_data(experiment: Experiment, metrics: Mapping[str, Any]) -> list[str]:
    has_linear = experiment.model.linear != "none"
    pairs = ", the linear classifier pairs of adjacent words that they have twice or more" if has_linear else ""
    rows = f"{metrics['rows']:,} training rows" if "rows" in metrics else "an unknown number of training rows"
    vectors = f"`{experiment.vectors.path}`" if experiment.vectors.path else "trained on these texts"
    return [
        f"* Texts: {_name_texts(experiment)}; {rows}, {int(metrics.get('validation_rows') or 0):,} validation rows.",
        f"* Initial word vectors: {'random' if experiment.model.embedding == 'rand' else vectors}.",
        f"* The vocabulary has words of the training texts{pairs}. Texts and their labels are not in the checkpoint.",
    ]


def _describe_limitations(checkpoint: Checkpoint) -> list[str]:
    text = checkpoint.experiment.text
    lines = [
        f"* Words outside of the vocabulary count as one unknown word; texts are cut after {text.max_tokens:,} tokens.",
        "* A text of another subject or language than the training texts gets a label too, often with a high score.",
        "* Order beyond the width of the filters has no effect.",
        "* Biases of the training texts and of the word vectors are in the model; nothing was done against them.",
    ]
    if quantization := checkpoint.metrics.get("quantization"):
        bits = quantization.get("bits")
        lines.append(f"* Word vectors are quantized to {bits} bits; the metrics are those before quantization.")
    return lines


def _describe_provenance(experiment: Experiment, metrics: Mapping[str, Any]) -> list[str]:
    lines = [f"* Epoch {metrics.get('epoch', '?')} of at most {experiment.train.epochs}, seed {experiment.seed}."]
    if start := metrics.get("started_from"):
        lines.append(f"* Training started from `{hide_folder(str(start.get('checkpoint')))}`, manifest "
                     f"`{start.get('manifest')}`.")  # fmt: skip
    if versions := metrics.get("versions"):
        lines.append("* Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".")
    lines.append("* All settings are in experiment.yaml; manifest.json has the SHA-256 of every file.")
    return lines
