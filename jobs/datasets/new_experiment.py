"""New experiment files: columns, delimiter and encoding are guessed from the labelled texts."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.storage import is_uri
from jobs.config.experiment import Experiment, ExperimentError, apply_overrides
from jobs.config.formats import base_name, derive_name, remove_suffixes
from jobs.config.schema import to_commented_yaml
from jobs.datasets.formats.rows import describe_names
from jobs.datasets.samples import Sample, read_sample

MAX_DISTINCT = 0.8  # distinct values of a column of labels, as a share of the rows
# Names of columns, the likeliest first.
TEXT_NAMES = "text texts sentence message review comment body content question utterance description document title"
LABEL_NAMES = "label labels class category target intent sentiment topic queue tag rating stars"
# Settings of a new file: what users change first.
KEYS = (
    "name",
    "data.train",
    "data.text_column",
    "data.label_column",
    "data.validation_share",
    "data.test_share",
    "vectors.path",
    "model.embedding",
    "train.epochs",
)


def write_experiment(data_path: str, out: str | None, settings: Sequence[str]) -> tuple[str, Experiment]:
    """Write an experiment for labelled texts; return its path and the experiment.

    Args:
        data_path: path or URI of a file in any format, of a folder, or with a glob pattern.
        out: file to write; by default named after the data, in the current folder.
        settings: `key=value` settings, which override what is guessed.

    Raises:
        DataError: the data cannot be read.
        ExperimentError: no columns of texts and labels are recognized, the file exists, or its path is a URI.
    """
    if out is not None and is_uri(out):
        raise ExperimentError(f"{out}: is a URI; an experiment is a file of this machine: name a path with --out")
    path = data_path if is_uri(data_path) else str(Path(data_path).expanduser())
    stem = re.sub(r"[*?\[\]]+", "-", remove_suffixes(path)).strip("-.") or "experiment"
    target = Path(out).expanduser() if out else Path(f"{stem}.yaml")
    if target.exists():
        raise ExperimentError(f"{target}: exists and is not overwritten; name another file with --out")
    values = {key.strip(): value for key, _, value in (setting.partition("=") for setting in settings)}
    keys = set(values)
    guessed = {key: value for key, value in _guess_settings(path, values).items() if key not in keys}
    experiment = apply_overrides(Experiment().replace(guessed), settings)
    text = to_commented_yaml(experiment, {*KEYS, *keys, *guessed})
    quoted = shlex.quote(str(target))
    heading = f"# Experiment on {base_name(path)}. `finetune-cnn show {quoted}` prints all other settings too."
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as stream:
            stream.write(f"{heading}\n#   finetune-cnn train {quoted}\n{text}")
    except OSError as error:
        raise ExperimentError(f"{target}: cannot be written: {error}") from error
    return str(target), experiment


def _guess_settings(path: str, known: Mapping[str, str]) -> Mapping[str, Any]:
    """Return settings by dotted path; `known` are settings that need no guess."""
    sample = read_sample(path)
    settings: dict[str, Any] = {
        "name": derive_name(path),
        "data.train": path,
    }
    columns = guess_columns(path, sample, known.get("data.text_column"), known.get("data.label_column"))
    settings["data.text_column"], settings["data.label_column"] = columns
    if columns[1] in sample.list_columns:
        settings["data.multi_label"] = True
    if sample.encoding != "utf-8":
        settings["data.encoding"] = sample.encoding
    usual = "\t" if sample.file.format == "tsv" else ","
    if sample.delimiter not in (None, usual):
        settings["data.delimiter"] = sample.delimiter
    return settings


def guess_columns(path: str, sample: Sample, text: str | None = None, label: str | None = None) -> tuple[str, str]:
    """Return the columns of texts and labels: by their names, or else the longest and the most repeated values.

    Args:
        text, label: names of the columns, if they are known.

    Raises:
        ExperimentError: there is only one column, or no column has repeated values.
    """
    if len(sample.columns) < 2:
        raise ExperimentError(f"{path}: has the single column '{sample.columns[0]}'; texts and labels need one each")
    for name in (text, label):
        if name is not None and name not in sample.columns:
            raise ExperimentError(f"{path}: has no column '{name}'; it has {describe_names(sample.columns, name)}")
    if not sample.rows:
        raise ExperimentError(f"{path}: has no rows below the header")
    values = {name: [row[index] for row in sample.rows] for index, name in enumerate(sample.columns)}
    text = text or _find_name([name for name in sample.columns if name != label], TEXT_NAMES)
    label = label or _find_name([name for name in sample.columns if name != text], LABEL_NAMES)
    if text is None:
        text = max((name for name in sample.columns if name != label), key=lambda name: sum(map(len, values[name])))
    if label is None:
        counts = {name: len(set(column)) for name, column in values.items() if name != text}
        repeated = [name for name, count in counts.items() if 1 < count <= MAX_DISTINCT * len(sample.rows)]
        if not repeated:
            raise ExperimentError(
                f"{path}: no column looks like labels; it has {', '.join(sample.columns)}; name it with "
                "data.label_column=COLUMN"
            )
        label = min(repeated, key=lambda name: counts[name])
    return text, label


def _find_name(columns: Sequence[str], names: str) -> str | None:
    """Return the column with the likeliest name, or with such a word in its name; None if there is none."""
    words = {column: re.findall(r"[a-z]+", column.lower()) for column in columns}
    for name in names.split():
        for column in columns:
            if column.lower() == name:
                return column
    return next((column for name in names.split() for column in columns if name in words[column]), None)
