"""Commands that train nothing: init and show for experiments, runs and clean for their runs."""

import argparse
import functools
import json
import os
import shlex

from cluster import UsageError
from cluster.console.cli import CommandGroup
from cluster.console.output import print_next, report_result


def add_experiment_commands(commands: CommandGroup) -> None:
    """Add the commands init and show."""
    init = commands.add_command("init", _init, "write an experiment for a file of labelled texts")
    init.add_argument("file", help="labelled texts: a file, a folder, a glob pattern or a URI")
    init.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="such as data.label_column=queue")
    init.add_argument("--out", help="file to write (default: named after the texts, in this folder)")
    accept_settings(init, "settings")
    show = commands.add_command("show", _show, "print an experiment with all its defaults")
    add_experiment(show)
    show.add_argument("--schema", action="store_true", help="print the JSON schema of experiment files, for editors")


def add_run_commands(commands: CommandGroup) -> None:
    """Add the commands runs and clean."""
    for name, run, text, folders in (
        ("runs", _runs, "list runs: settings that differ, metrics, sizes", "folders"),
        ("clean", _clean, "delete checkpoints and caches without use", "a folder"),
    ):
        parser = commands.add_command(name, run, text)
        help_text = f"an experiment, or {folders} of runs (default: runs), with settings such as storage=FOLDER"
        parser.add_argument("experiment", nargs="*", metavar="EXPERIMENT | FOLDER", help=help_text)
        accept_settings(parser, "experiment")
    text = "also unfinished runs that no command is using and that have not changed for as many days"
    parser.add_argument("--unfinished", type=float, metavar="DAYS", help=text)
    parser.add_argument("--yes", action="store_true", help="delete; without it, only list what would be deleted")


def add_experiment(parser: argparse.ArgumentParser) -> None:
    """Let a parser accept an experiment file and settings."""
    parser.add_argument(
        "experiment",
        nargs="*",
        metavar="FILE | KEY=VALUE",
        help="an experiment file, or data.train=FILE, then settings by dotted path",
    )
    accept_settings(parser, "experiment")
    verb = parser.prog.rpartition(" ")[2]
    parser.set_defaults(validate=functools.partial(_validate, verb))


def _validate(verb: str, options: argparse.Namespace) -> None:
    """Raise an ExperimentError if a command would not start with its experiment. Files of data are not read."""
    from jobs.config.conflicts import check_fold_settings, check_settings
    from jobs.config.experiment_words import check_data_are_named, load_experiment_words
    from jobs.search.space import list_embeddings, parse_space

    experiment = load_experiment_words(options.experiment)
    if verb == "show":
        return
    check_data_are_named(options.experiment)
    if verb == "cross-validate":
        check_fold_settings(experiment)
    space = parse_space(experiment) if verb == "tune" else []
    check_settings(experiment, list_embeddings(experiment, space), {item.path: item.values for item in space})


def accept_settings(parser: argparse.ArgumentParser, argument: str) -> None:
    """Let KEY=VALUE words follow the options of a command; they are added to one of its arguments."""
    section = parser.prog.rpartition(" ")[2]
    parser.set_defaults(settings_argument=argument, suggest_keys=functools.partial(_suggest_keys, section))


def _suggest_keys(section: str, name: str) -> list[str]:
    """Return the settings that an unknown option may mean: those of a section, such as train, if it has one."""
    from jobs.config.experiment import suggest_keys

    keys = suggest_keys(name)
    return [key for key in keys if key.startswith(f"{section}.")] or keys


def _init(options: argparse.Namespace) -> None:
    from jobs.datasets.new_experiment import write_experiment

    path, experiment = write_experiment(options.file, options.out, options.settings)
    data = experiment.data
    print(f"wrote {path}: texts in '{data.text_column}', labels in '{data.label_column}'; check the settings in it")
    report_result({"path": path, "text_column": data.text_column, "label_column": data.label_column})
    print_next(f"finetune-cnn train {shlex.quote(path)}")


def _show(options: argparse.Namespace) -> None:
    from jobs.config.experiment_words import load_experiment_words
    from jobs.config.schema import build_json_schema, to_commented_yaml

    if options.schema:
        schema = build_json_schema()
        print(schema)
        report_result(lambda: json.loads(schema))
    else:
        experiment = load_experiment_words(options.experiment)
        print(to_commented_yaml(experiment), end="")
        report_result(experiment.model_dump)


def _runs(options: argparse.Namespace) -> None:
    from jobs.runs.run_list import log_runs

    log_runs(*_find_runs(options.experiment))


def _clean(options: argparse.Namespace) -> None:
    from jobs.runs.cleaning import clean

    folder, *others = _find_runs(options.experiment)
    if others:
        raise UsageError(f"{1 + len(others)} folders to clean: {', '.join(options.experiment)}; name one")
    clean(folder, delete=options.yes, unfinished_days=options.unfinished)


def _find_runs(words: list[str]) -> list[str]:
    """Return the folder of an experiment's runs, or folders that are named themselves, or that of all runs."""
    from cluster.storage import absolute_path, is_uri, join
    from jobs.config.experiment_words import load_experiment_words

    folders = [word for word in words if is_uri(word.partition("=")[0]) or os.path.isdir(word)]
    if folders and len(folders) < len(words):
        other = next(word for word in words if word not in folders)
        raise UsageError(f"{folders[0]} is a folder, and {other} is none; name folders, or an experiment and settings")
    if folders:
        return [absolute_path(folder) for folder in folders]
    experiment = load_experiment_words(words)
    storage = absolute_path(experiment.storage)
    is_named = any("=" not in word or word.startswith(("name=", "data.train=")) for word in words)
    return [join(storage, experiment.name) if is_named else storage]
