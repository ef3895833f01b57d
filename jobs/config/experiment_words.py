"""Experiment of a command line's words: one file at most, and settings."""

import os
import re
import shlex
from collections.abc import Sequence

from jobs.config.experiment import SETTING_KEYS, Experiment, ExperimentError, load_experiment

_DATA_SETTING = re.compile(r"data\.(train|packages)\s*=")


def load_experiment_words(words: Sequence[str]) -> Experiment:
    """Return the experiment of a file, or of all defaults, with settings applied.

    Args:
        words: a path, and `key=value` settings; a word with an equals sign is a path if there is such a file.

    Raises:
        ExperimentError: several files are named, a word is neither a file nor a setting, or as of `load_experiment`.
    """
    files, settings = split_words(words)
    for file in files if len(files) > 1 else [file for file in files if not os.path.exists(file)]:
        _check_word(file, words, settings)
    if len(files) > 1:
        raise ExperimentError(f"{len(files)} experiment files: {', '.join(files)}; name one")
    return load_experiment(files[0] if files else None, settings)


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the files and the settings among some words."""
    files = [word for word in words if "=" not in word or os.path.isfile(word)]
    return files, [word for word in words if word not in files]


def check_data_are_named(words: Sequence[str]) -> None:
    """Raise an ExperimentError if the words name neither a file nor data: nobody trains on docstrings by accident."""
    files, settings = split_words(words)
    if not files and not any(_DATA_SETTING.match(setting) for setting in settings):
        raise ExperimentError(
            "no experiment is named; that of the docstrings of installed packages is experiments/docstrings.yaml; for "
            "your own texts write one with `finetune-cnn init FILE`, or set data.train=FILE"
        )


def _check_word(word: str, words: Sequence[str], settings: Sequence[str]) -> None:
    """Raise if a word that is no setting is likely a part of one."""
    if any(setting.rstrip().endswith("=") or setting.lstrip().startswith("=") for setting in settings):
        raise ExperimentError(f"{word}: write settings without spaces around '=', as in model.dropout=0.3")
    index = words.index(word)
    if index and words[index - 1] in settings and not word.endswith((".yaml", ".yml")):
        quoted = shlex.quote(f"{words[index - 1]} {word}")
        raise ExperimentError(f"{word}: no such experiment file; a value with spaces needs quotes: {quoted}")
    if word in SETTING_KEYS:
        raise ExperimentError(f"{word}: is a setting; write {word}=VALUE")
