"""List of the runs of an experiment: settings that differ, metrics, sizes, and which run is current."""

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster import UsageError
from cluster.console.logs import RESULT
from cluster.console.output import report_result
from cluster.console.tables import format_size, format_text_table
from cluster.storage import LOCK_FILE, StorageError, absolute_path, join, list_folders, parent, read_text
from jobs.config.experiment import Experiment, add_earlier_values
from jobs.model.checkpoint_files import MAX_TEXT_BYTES, CheckpointError, parse_yaml, read_json
from jobs.model.checkpoint_leases import LEASE_NAME
from jobs.runs.stored_files import StoredFile, format_time, list_files, unique_size
from jobs.training.run_files.run_folder import (
    TRAIN_SETTINGS_NOT_IN_RUN_KEY,
    TUNE_SETTINGS_NOT_IN_RUN_KEY,
    BestCheckpoint,
    read_best,
)

logger = logging.getLogger(__name__)

RUN_NAME = re.compile(r"(train|tune|folds)-[0-9a-f]{8}")
# Settings that change neither the texts nor the result of a run.
IGNORED_SETTINGS = {"name", "storage", "mlflow", "wandb"} | {
    f"{section}.{name}"
    for section, names in (("train", TRAIN_SETTINGS_NOT_IN_RUN_KEY), ("tune", TUNE_SETTINGS_NOT_IN_RUN_KEY))
    for name in names
}
MAX_VALUE_LENGTH = 40
_MISSING = object()


class RunsError(UsageError):
    """There are no runs."""


@dataclass(frozen=True)
class Run:
    """A run's folder.

    settings: by dotted path, without those in `IGNORED_SETTINGS`. best: contents of its best.json, None before there is
    one. metrics: of its best checkpoint, or the means of a cross-validation. validation_rows: number of rows that they
    were measured on, None if it is unknown. is_finished: it needs no resuming. is_current: the experiment's best.json
    names it. references: checkpoints, by path inside the folder, that a best.json names. files: by path inside the
    folder.
    """

    name: str
    settings: Mapping[str, object]
    best: BestCheckpoint | None
    metrics: Mapping[str, float | None]
    validation_rows: int | None
    is_finished: bool
    is_current: bool
    references: frozenset[str]
    files: Mapping[str, StoredFile]

    @property
    def leased_folders(self) -> set[str]:
        """Folders inside the run's, which services use."""
        return {match[1] or "" for path in self.files if (match := LEASE_NAME.fullmatch(path))}

    @property
    def finish_time(self) -> float:
        """Time of its result, or of the newest file, in seconds since 1970."""
        results = [self.files[name].modified for name in ("best.json", "folds.json") if name in self.files]
        return max(results) if results else self.change_time

    @property
    def change_time(self) -> float:
        """Time of its newest file, in seconds since 1970, except for the lock file, which changes with each lock."""
        return max((file.modified for name, file in self.files.items() if name != LOCK_FILE), default=0.0)


def find_experiments(folder: str) -> list[str]:
    """Return the folders of the experiments in a folder, which may be one itself, or that of a run.

    Raises:
        RunsError: there are no runs.
        StorageError: the folder cannot be listed.
    """
    if RUN_NAME.fullmatch(folder.rstrip("/").rpartition("/")[2]):
        return [parent(folder)]
    if _has_runs(folder):
        return [folder]
    experiments = [path for name in sorted(list_folders(folder)) if _has_runs(path := join(folder, name))]
    if not experiments:
        raise RunsError(f"{folder}: contains no runs of train, tune or cross-validate")
    return experiments


def load_runs(folder: str) -> list[Run]:
    """Return the runs of an experiment's folder, the newest first; StorageError if they cannot be read."""
    files_by_run: dict[str, dict[str, StoredFile]] = {}
    for path, file in list_files(folder).items():
        name, _, inside = path.partition("/")
        if RUN_NAME.fullmatch(name) and inside:
            files_by_run.setdefault(name, {})[inside] = file
    current = read_best(folder)
    runs = [_load_run(folder, name, files, current) for name, files in files_by_run.items()]
    return sorted(runs, key=lambda run: (-run.finish_time, run.name))


def log_runs(*folders: str) -> None:
    """Log a table of the runs of each experiment in some folders; errors as of `find_experiments`."""
    experiments = []
    paths = [path for folder in folders for path in find_experiments(absolute_path(folder))]
    for experiment in dict.fromkeys(paths):  # a folder may be in another one
        runs = load_runs(experiment)
        size = sum(unique_size(run.files.values()) for run in runs)
        logger.log(RESULT, f"{experiment}: {format_size(size)}")
        if runs:  # a run without any file is none
            logger.log(RESULT, format_text_table(build_rows(runs)))
        experiments.append({"path": experiment, "bytes": size, "runs": [_to_json(run, runs) for run in runs]})
    report_result({"experiments": experiments})


def _to_json(run: Run, runs: Sequence[Run]) -> Mapping[str, object]:
    """Return a run as JSON values."""
    return {
        "run": run.name,
        "finished": run.is_finished,
        "current": run.is_current,
        "used_by_service": bool(run.leased_folders),
        "seconds_since_1970": run.finish_time,
        "metrics": run.metrics,
        "checkpoint": run.best.checkpoint if run.best else None,
        "validation_rows": run.validation_rows,
        "bytes": unique_size(run.files.values()),
        "settings": find_differences(run, runs),
    }


def build_rows(runs: Sequence[Run]) -> Sequence[Mapping[str, object]]:
    """Return the rows of the table of an experiment's runs; columns without any value are left out."""
    validations = _describe_validation_rows(runs)
    rows: list[dict[str, object]] = []
    for run in runs:
        row: dict[str, object] = {
            "run": run.name,
            "date": format_time(run.finish_time),
            "status": _describe_status(run),
        }
        for name in ("epoch", "micro_f1", "accuracy", "macro_f1", "loss"):
            value = run.metrics.get(name)
            row[name.replace("_f1", " F1")] = (
                "" if value is None else f"{value:.0f}" if name == "epoch" else f"{value:.4f}"
            )
        if len(validations) > 1:  # only metrics on the same rows can be compared
            row["validation rows"] = validations.get(run.best.validation if run.best else None, "")
        row["size"] = format_size(unique_size(run.files.values()))
        row["settings"] = ", ".join(find_differences(run, runs)) or "-"
        rows.append(row)
    return _drop_empty_columns(rows)


def _drop_empty_columns(rows: Sequence[Mapping[str, object]]) -> Sequence[Mapping[str, object]]:
    """Return the rows of a table without the columns that have no value in any row."""
    used = {name for row in rows for name, value in row.items() if value != ""}
    return [{name: value for name, value in row.items() if name in used} for row in rows]


def _describe_validation_rows(runs: Sequence[Run]) -> Mapping[str | None, str]:
    """Return the number of rows of each set of validation rows, by its digest; sets of equal size get a letter each."""
    counts: dict[str | None, str] = {}
    for run in runs:
        if run.best and run.best.validation:
            counts.setdefault(
                run.best.validation, "unknown" if run.validation_rows is None else f"{run.validation_rows}"
            )
    same = {count: [key for key in counts if counts[key] == count] for count in counts.values()}
    return {
        key: count if len(same[count]) == 1 else f"{count} ({chr(ord('A') + same[count].index(key))})"
        for key, count in counts.items()
    }


def find_differences(run: Run, runs: Iterable[Run]) -> list[str]:
    """Return the settings of a run, as `key=value`, that are not the same in all runs of an experiment.

    Those of `tune` are compared among searches only. Without a difference from another run of its kind, its texts or
    vectors differ.
    """
    kind = run.name.partition("-")[0]
    others = [other for other in runs if other is not run]
    same_kind = [other for other in others if other.name.startswith(f"{kind}-")]
    differences = []
    for key, value in run.settings.items():
        compared = others
        if key.startswith("tune."):
            compared = same_kind if kind == "tune" else []
        # A key that another run lacks is one of another version; all others have at least their defaults.
        if any(other.settings and other.settings.get(key, _MISSING) != value for other in compared):
            differences.append(f"{key}={_format_value(value)}")
    if any(other.settings == run.settings for other in same_kind):
        differences.append("other texts or vectors")
    return differences


def _load_run(folder: str, name: str, files: Mapping[str, StoredFile], current: BestCheckpoint | None) -> Run:
    path = join(folder, name)
    best = read_best(path) if "best.json" in files else None
    metrics: Mapping[str, float | None] = best.metrics if best else {}
    if "folds.json" in files:
        metrics = read_json(join(path, "folds.json")).get("mean", {})
    is_finished = "folds.json" in files or (best is not None and best.finished)
    settings = _read_settings(join(path, "experiment.yaml")) if "experiment.yaml" in files else {}
    named = {best.checkpoint} if best else set()
    is_current = current is not None and (current.run == name or current.checkpoint.startswith(f"{name}/"))
    if current is not None and is_current:
        named.add(current.checkpoint.removeprefix(f"{name}/"))
    rows = _read_validation_rows(path, best, files)
    return Run(name, settings, best, metrics, rows, is_finished, is_current, frozenset(named), files)


def _read_validation_rows(path: str, best: BestCheckpoint | None, files: Mapping[str, StoredFile]) -> int | None:
    """Return the number of validation rows of a run, from its best checkpoint; None if it is unknown.

    A refit has no validation rows. The trials of its search have.
    """
    if best is None:
        return None
    others = [name for name in files if name.endswith("/metrics.json") and not name.startswith(best.checkpoint)]
    for name in (f"{best.checkpoint}/metrics.json", *sorted(others)[-1:]):
        try:
            rows = read_json(join(path, name)).get("validation_rows") if name in files else None
        except (CheckpointError, AttributeError):
            continue
        if isinstance(rows, int) and rows > 0:
            return rows
    return None


def _read_settings(path: str) -> Mapping[str, object]:
    """Return the settings of a run's experiment file, those of another version included; none if it is malformed."""
    try:
        tree = parse_yaml(path, read_text(path, MAX_TEXT_BYTES["experiment.yaml"]))
    except (StorageError, ValueError):
        return {}
    own = add_earlier_values(tree if isinstance(tree, dict) else {})
    settings = _flatten(Experiment().model_dump()) | _flatten(own)
    return {key: value for key, value in settings.items() if key not in IGNORED_SETTINGS}


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Return the values of a tree by dotted path; the search space is one value."""
    values: dict[str, object] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and not prefix:
            values |= _flatten(value, f"{name}.")
        else:
            values[f"{prefix}{name}"] = value
    return values


def _describe_status(run: Run) -> str:
    words = ["finished" if run.is_finished else "unfinished"]
    if run.is_current:
        words.insert(0, "current")
    if run.leased_folders:
        words.append("used by a service")
    return ", ".join(words)


def _format_value(value: object) -> str:
    is_collection = isinstance(value, dict | list)
    text = json.dumps(value, ensure_ascii=False, default=str, skipkeys=True) if is_collection else str(value)
    text = {"None": "null", "True": "true", "False": "false"}.get(text, text)
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[: MAX_VALUE_LENGTH - 3]}..."


def _has_runs(folder: str) -> bool:
    return any(RUN_NAME.fullmatch(name) for name in list_folders(folder))
