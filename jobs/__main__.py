"""Commands of training: from init and train to runs and clean, those of portable models and of vectors."""

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster import UsageError
from cluster.console.cli import CommandGroup, CommandLine, RunCommand
from cluster.console.output import add_dry_run, print_next, print_plan, report_result
from jobs.command_options import CHECKPOINT_HELP, add_address, ray_address, split_settings
from jobs.early_start import connect_early
from jobs.experiment_commands import accept_settings, add_experiment, add_experiment_commands, add_run_commands
from jobs.portable_commands import add_portable_commands
from jobs.prediction_command import add_prediction_command
from jobs.vectors_commands import add_vectors_commands

if TYPE_CHECKING:
    from jobs.config.experiment import Experiment

LOADING = "loading torch and Ray"  # takes seconds

# Not __name__, which is "__main__" in `python -m jobs`.
logger = logging.getLogger("jobs.command_line")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code: 0, 2 for a usage error, 130 for Ctrl-C."""
    return _build_command_line().main(arguments)


def _build_command_line() -> CommandLine:
    cli = CommandLine("python -m jobs", "Fine-tune word vectors in a CNN text classifier, on Ray.")
    add_commands(cli)
    return cli


def add_commands(commands: CommandGroup) -> None:
    """Add the commands from init to clean, and the group vectors."""
    add_experiment_commands(commands)
    text = "find wrong labels, copies and other faults in data"
    check_data = commands.add_command("check-data", _check_data, text)
    add_experiment(check_data)
    add_dry_run(check_data)
    check_data.add_argument("--out", help="folder of the page and the csv (default: data-check, next to the runs)")
    for parser in (
        _add_ray_command(commands, "train", _train, "train a classifier, on one worker or several (Ray Train)"),
        _add_ray_command(commands, "tune", _tune, "search settings (Ray Tune)"),
    ):
        text = "make the run current in the experiment's best.json even if the current run is better"
        parser.add_argument("--promote", action="store_true", help=text)
    text = "train and evaluate once per fold; report mean and deviation"
    cross_validate = _add_ray_command(commands, "cross-validate", _cross_validate, text)
    cross_validate.add_argument("--folds", type=_fold_count, default=10, metavar="N", help="2 or more (default: 10)")
    text = "measure a checkpoint on the test part, with a report"
    evaluate = commands.add_command("evaluate", _on_ray(_evaluate), text)
    add_address(evaluate)
    add_dry_run(evaluate)
    evaluate.add_argument("checkpoint", help=CHECKPOINT_HELP)
    evaluate.add_argument(
        "settings",
        nargs="*",
        metavar="FILE | KEY=VALUE",
        help="labelled texts to measure (default: the test part of training), then settings by dotted path",
    )
    accept_settings(evaluate, "settings")
    evaluate.set_defaults(file_after_options=True)
    evaluate.add_argument("--text-column", help="of FILE (default: as in training)")
    evaluate.add_argument("--label-column", help="of FILE (default: as in training)")
    evaluate.add_argument("--out", help="folder of the report (default: next to the checkpoint, named after the file)")
    text = "also the accuracy by value of a column of the rows; repeat it for several columns"
    evaluate.add_argument("--by", action="append", default=[], metavar="COLUMN", help=text)
    text = "leave out the comparison with TF-IDF and a linear SVC, trained on the same rows"
    evaluate.add_argument("--no-baseline", dest="baseline", action="store_false", help=text)
    text = "texts that belong to no class: how well the scores and the threshold of abstention recognize them"
    evaluate.add_argument("--out-of-scope", metavar="FILE", help=text)
    add_prediction_command(commands)
    add_portable_commands(commands)
    add_run_commands(commands)
    add_vectors_commands(commands.add_group("vectors", "train or export word vectors, measure their drift"))


def _add_ray_command(commands: CommandGroup, name: str, run: RunCommand, text: str) -> argparse.ArgumentParser:
    parser = commands.add_command(name, _on_ray(run), text, resumable=True)
    add_experiment(parser)
    add_address(parser)
    add_dry_run(parser)
    return parser


def _on_ray(run: RunCommand) -> RunCommand:
    """Return a command that runs with its option --address as RAY_ADDRESS."""

    def run_with_address(options: argparse.Namespace) -> int | None:
        with ray_address(options.address):
            return run(options)

    return run_with_address


def _load_run_experiment(words: list[str]) -> "Experiment":
    """Return the experiment of a command that trains, and announce it."""
    from jobs.config.experiment_words import check_data_are_named, load_experiment_words
    from jobs.config.settings import describe_source

    experiment = load_experiment_words(words)
    check_data_are_named(words)
    train = experiment.data.train
    data = describe_source(train) if train else f"docstrings of {len(experiment.data.packages)} packages"
    folder = f"{experiment.storage.rstrip('/')}/{experiment.name}"
    logger.info(f"experiment {experiment.name}: {data}; its runs are in {folder}")
    return experiment


def _check_data(options: argparse.Namespace) -> None:
    experiment = _load_run_experiment(options.experiment)
    if options.dry_run:
        from jobs.dry_run import plan_data_check

        print_plan(plan_data_check(experiment, options.out))
        return
    from jobs.data_checks.check import check_data

    path = check_data(experiment, options.out)
    print(f"wrote {path}", flush=True)
    report_result({"path": path})
    print_next(f"finetune-cnn train {shlex.join(options.experiment)}")


def _train(options: argparse.Namespace) -> None:
    experiment = _load_run_experiment(options.experiment)
    from jobs.embeddings.input_checks import check_inputs

    check_inputs(experiment)  # raises mistakes before torch and Ray are loaded, which takes seconds
    logger.info(LOADING)
    if options.dry_run:
        from jobs.dry_run import plan_training

        print_plan(plan_training(experiment))
        return
    with connect_early(experiment) as inputs:
        from jobs.training.train import train

        best = train(experiment, promote=options.promote, inputs=inputs)
    _report_file(best)
    print_next(f"finetune-cnn evaluate {shlex.quote(os.path.dirname(best))}")


def _tune(options: argparse.Namespace) -> None:
    experiment = _load_run_experiment(options.experiment)
    from jobs.search.search import check_search

    check_search(experiment)
    logger.info(LOADING)
    if options.dry_run:
        from jobs.dry_run import plan_search

        print_plan(plan_search(experiment))
        return
    from jobs.search.tune import tune

    best = tune(experiment, promote=options.promote)
    _report_file(best)
    folder = os.path.dirname(best)
    commands = f"train {shlex.quote(f'{folder}/best.yaml')}", f"serve {shlex.quote(folder)}"
    print_next(*(f"finetune-cnn {command}" for command in commands))


def _cross_validate(options: argparse.Namespace) -> None:
    experiment = _load_run_experiment(options.experiment)
    from jobs.embeddings.input_checks import check_inputs

    check_inputs(experiment)
    logger.info(LOADING)
    if options.dry_run:
        from jobs.dry_run import plan_cross_validation

        print_plan(plan_cross_validation(experiment, options.folds))
        return
    from jobs.training.cross_validation import cross_validate

    _report_file(cross_validate(experiment, options.folds))


def _report_file(path: str) -> None:
    """Print the path of the file with the result of a run, and add its values to the JSON object."""
    from jobs.model.checkpoint_files import read_json

    print(f"wrote {path}", flush=True)
    report_result(lambda: {"path": path, **read_json(path)})


def _evaluate(options: argparse.Namespace) -> None:
    logger.info(f"evaluating {options.checkpoint}")  # the imports take seconds
    from jobs.evaluation.evaluate import evaluate

    settings, files = split_settings(options.settings)
    if len(files) > 1:
        raise UsageError(f"{len(files)} files to evaluate: {', '.join(files)}; name one")
    file = files[0] if files else None
    names = {name: getattr(options, name) for name in ("text_column", "label_column", "out_of_scope", "baseline")}
    if options.dry_run:
        from jobs.dry_run import plan_evaluation

        print_plan(plan_evaluation(options.checkpoint, settings, options.out, file, **names))
        return
    evaluate(options.checkpoint, settings, options.out, file, by=options.by, **names)
    print_next(f"finetune-cnn serve {shlex.quote(options.checkpoint)}")


def _fold_count(word: str) -> int:
    """Return the number of folds of an option; argparse prints the error."""
    from jobs.datasets.dataset import MAX_FOLDS

    if not word.isdigit() or not 2 <= int(word) <= MAX_FOLDS:
        raise argparse.ArgumentTypeError(f"must be between 2 and {MAX_FOLDS}, not {word}")
    return int(word)


if __name__ == "__main__":
    sys.exit(main())
