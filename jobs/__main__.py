"""Commands of training: from init and train to runs and clean, and those of vectors."""

import argparse
import contextlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cluster import UsageError
from cluster.console.cli import CommandGroup, CommandLine, RunCommand
from jobs.early_start import connect_early
from jobs.experiment_commands import accept_settings, add_experiment, add_experiment_commands, add_run_commands

if TYPE_CHECKING:
    from jobs.config.experiment import Experiment

LOADING = "loading torch and Ray"  # takes seconds
CHECKPOINT_HELP = "a checkpoint, a best.json, or a folder with either"

_SETTING = re.compile(r"[a-z_]+(\.[a-z_]+)*=")

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
    check_data.add_argument("--out", help="folder of the page and the csv (default: data-check, next to the runs)")
    for parser in (
        _add_ray_command(commands, "train", _train, "fine-tune on the workers of the cluster (Ray Train)"),
        _add_ray_command(commands, "tune", _tune, "search settings (Ray Tune)"),
    ):
        text = "make the run current in the experiment's best.json even if the current run is better"
        parser.add_argument("--promote", action="store_true", help=text)
    text = "train and evaluate once per fold; report mean and deviation"
    cross_validate = _add_ray_command(commands, "cross-validate", _cross_validate, text)
    cross_validate.add_argument("--folds", type=_fold_count, default=10, metavar="N", help="2 or more (default: 10)")
    text = "measure a checkpoint on the test part, with a report"
    evaluate = commands.add_command("evaluate", _on_ray(_evaluate), text)
    _add_address(evaluate)
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
    predict = commands.add_command("predict", _predict, "label the texts of a file")
    predict.add_argument("checkpoint", help=CHECKPOINT_HELP)
    predict.add_argument(
        "input", help="texts: a file, a folder, a glob pattern or a URI; a quoted text; or - for lines of input"
    )
    predict.add_argument(
        "--out",
        help="csv, tsv, jsonl or parquet to write, at a path or URI, or a folder with a slash at its end "
        "(default: jsonl on standard output)",
    )
    predict.add_argument(
        "--format", choices=("csv", "tsv", "jsonl", "parquet"), help="of the files in a folder (default: parquet)"
    )
    predict.add_argument(
        "--workers", type=_count, metavar="N", help="processes that write into a folder (default: one per core)"
    )
    scores = predict.add_mutually_exclusive_group()
    scores.add_argument("--top-k", type=_count, metavar="K", help="add a column of the K best labels and their scores")
    scores.add_argument("--scores", action="store_true", help="add a column of all labels and their scores")
    text = "leave the label empty where the score is below the checkpoint's threshold"
    predict.add_argument("--abstain", action="store_true", help=text)
    objectives = ("retention", "precision", "balanced")
    text = "of the threshold; implies --abstain (default: retention)"
    predict.add_argument("--objective", choices=objectives, help=text)
    text = "write only N rows, which to label next: uncertain ones that differ from each other"
    predict.add_argument("--uncertain", type=_count, metavar="N", help=text)
    _add_force(predict)
    predict.add_argument("--text-column", help="default: as in training")
    predict.add_argument("--delimiter", help="character between the columns, or tab (default: detected)")
    add_run_commands(commands)
    _add_vectors_commands(commands.add_group("vectors", "train or export word vectors, measure their drift"))


def _add_ray_command(commands: CommandGroup, name: str, run: RunCommand, text: str) -> argparse.ArgumentParser:
    parser = commands.add_command(name, _on_ray(run), text, resumable=True)
    add_experiment(parser)
    _add_address(parser)
    return parser


def _add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", help="a running Ray cluster (default: RAY_ADDRESS, else Ray starts here)")


def _add_vectors_commands(group: CommandGroup) -> None:
    train = group.add_command("train", _vectors_train, "train word2vec with gensim on text files")
    train.add_argument(
        "files",
        nargs="+",
        metavar="FILE | KEY=VALUE",
        help="texts in any format that is read, or one per line; then settings, such as vectors.dimensions=300",
    )
    accept_settings(train, "files")
    train.add_argument("--out", required=True, help="the word2vec binary file to write")
    _add_force(train)
    train.add_argument("--text-column", help="of files with columns (default: text)")
    train.add_argument("--threads", type=_count, help="default: one per core; the result is repeatable with 1")
    export = group.add_command("export", _vectors_export, "write a checkpoint's word vectors as a word2vec file")
    export.add_argument("checkpoint", help=CHECKPOINT_HELP)
    export.add_argument("out", help="path or URI; text if it ends in .txt or .vec, else binary; .gz compresses")
    _add_force(export)
    export.add_argument("--merge", action="store_true", help="add the other words of the original file, unchanged")
    export.add_argument("--original", help="the file that the vectors were initialized from (default: as in training)")
    drift = group.add_command("drift", _vectors_drift, "measure how far training moved the vector of each word")
    drift.add_argument("checkpoint", help=CHECKPOINT_HELP)
    drift.add_argument("--words", nargs="+", default=[], help="words whose neighbours are shown")
    drift.add_argument("--top", type=_count, default=10, help="words per list (default: 10)")
    drift.add_argument("--out", help="folder of drift.csv and drift.png (default: report, next to the checkpoint)")


def _add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="replace an existing file")


def _on_ray(run: RunCommand) -> RunCommand:
    """Return a command that runs with its option --address as RAY_ADDRESS."""

    def run_with_address(options: argparse.Namespace) -> int | None:
        with _ray_address(options.address):
            return run(options)

    return run_with_address


@contextlib.contextmanager
def _ray_address(address: str | None) -> Iterator[None]:
    """Context manager: RAY_ADDRESS has this value inside; None changes nothing."""
    previous = os.environ.get("RAY_ADDRESS")
    if address:
        os.environ["RAY_ADDRESS"] = address
    try:
        yield
    finally:
        if address:
            os.environ.pop("RAY_ADDRESS", None)
            if previous is not None:
                os.environ["RAY_ADDRESS"] = previous


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
    from jobs.data_checks.check import check_data

    print(f"wrote {check_data(experiment, options.out)}", flush=True)


def _train(options: argparse.Namespace) -> None:
    experiment = _load_run_experiment(options.experiment)
    from jobs.embeddings.input_checks import check_inputs

    check_inputs(experiment)  # raises mistakes before torch and Ray are loaded, which takes seconds
    logger.info(LOADING)
    with connect_early(experiment) as inputs:
        from jobs.training.train import train

        best = train(experiment, promote=options.promote, inputs=inputs)
    print(f"wrote {best}", flush=True)
    print(f"next: finetune-cnn evaluate {os.path.dirname(best)}", flush=True)


def _tune(options: argparse.Namespace) -> None:
    experiment = _load_run_experiment(options.experiment)
    from jobs.search.search import check_search

    check_search(experiment)
    logger.info(LOADING)
    from jobs.search.tune import tune

    best = tune(experiment, promote=options.promote)
    folder = os.path.dirname(best)
    print(f"wrote {best}", flush=True)
    print(f"next: finetune-cnn train {folder}/best.yaml, or finetune-cnn serve {folder}", flush=True)


def _cross_validate(options: argparse.Namespace) -> None:
    experiment = _load_run_experiment(options.experiment)
    from jobs.embeddings.input_checks import check_inputs

    check_inputs(experiment)
    logger.info(LOADING)
    from jobs.training.cross_validation import cross_validate

    print(f"wrote {cross_validate(experiment, options.folds)}", flush=True)


def _evaluate(options: argparse.Namespace) -> None:
    logger.info(f"evaluating {options.checkpoint}")  # the imports take seconds
    from jobs.evaluation.evaluate import evaluate

    settings = [word for word in options.settings if _SETTING.match(word) and not os.path.exists(word)]
    files = [word for word in options.settings if word not in settings]
    if len(files) > 1:
        raise UsageError(f"{len(files)} files to evaluate: {', '.join(files)}; name one")
    columns = options.text_column, options.label_column
    file = files[0] if files else None
    evaluate(options.checkpoint, settings, options.out, file, *columns, options.by, options.baseline)


def _predict(options: argparse.Namespace) -> None:
    from cluster.input_files import check_not_replaced
    from jobs.inference.file_prediction import predict_file

    if options.out is not None and not options.force:
        check_not_replaced(options.out, options.input)
    predict_file(
        options.checkpoint,
        options.input,
        options.out,
        options.text_column,
        options.delimiter,
        file_format=options.format,
        num_scores=sys.maxsize if options.scores else options.top_k or 0,
        abstain=options.objective or ("retention" if options.abstain else None),
        uncertain=options.uncertain,
        workers=options.workers,
        restart=options.force,
    )


def _vectors_train(options: argparse.Namespace) -> None:
    from cluster.input_files import check_not_replaced
    from cluster.storage import is_uri
    from jobs.config.experiment import load_experiment
    from jobs.embeddings.pretraining import train_word2vec_on_files

    settings = [word for word in options.files if _SETTING.match(word) and not os.path.exists(word)]
    files = [word for word in options.files if word not in settings]
    for word in settings:
        if word.split(".")[0] not in ("vectors", "text", "data") and not word.startswith("seed="):
            raise UsageError(
                f"{word.partition('=')[0]}: is not a setting of `vectors train`; "
                "it has vectors.*, text.*, data.* and seed"
            )
    for file in files:
        if file.endswith((".yaml", ".yml")):
            raise UsageError(f"{file}: is not a file of texts; pass settings as KEY=VALUE")
    if options.text_column:
        settings.append(f"data.text_column={json.dumps(options.text_column)}")
    if not files:
        raise UsageError("no file to train on; name at least one before the settings")
    if not options.force and not is_uri(options.out):
        check_not_replaced(options.out, *files)
    train_word2vec_on_files(files, options.out, load_experiment(None, settings), options.threads)


def _vectors_export(options: argparse.Namespace) -> None:
    from cluster.input_files import check_not_replaced
    from jobs.evaluation.export import export_vectors

    if not options.force:
        check_not_replaced(options.out)
    export_vectors(options.checkpoint, options.out, options.original, options.merge)


def _vectors_drift(options: argparse.Namespace) -> None:
    from jobs.evaluation.drift import report_drift

    report_drift(options.checkpoint, options.words, options.top, options.out)


def _count(word: str) -> int:
    """Return the positive integer of an option; argparse prints the error."""
    if not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {word}")
    return int(word)


def _fold_count(word: str) -> int:
    """Return the number of folds of an option; argparse prints the error."""
    from jobs.datasets.dataset import MAX_FOLDS

    if not word.isdigit() or not 2 <= int(word) <= MAX_FOLDS:
        raise argparse.ArgumentTypeError(f"must be between 2 and {MAX_FOLDS}, not {word}")
    return int(word)


if __name__ == "__main__":
    sys.exit(main())
