"""Commands of training: train, tune, cross-validate, evaluate, predict, show, and vectors train, export, drift."""

import argparse
import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cluster import UsageError
from cluster.cli import CommandGroup, CommandLine, RunCommand

if TYPE_CHECKING:
    from jobs.config.experiment import Experiment

CHECKPOINT_HELP = "a checkpoint, a best.json, or a folder with either"
MAX_FOLDS = 100

_SETTING = re.compile(r"[a-z_]+(\.[a-z_]+)*=")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code: 0, 2 for a usage error, 130 for Ctrl-C."""
    return _build_command_line().main(arguments)


def _build_command_line() -> CommandLine:
    cli = CommandLine("python -m jobs", "Fine-tune word vectors in a CNN text classifier, on Ray.")
    add_commands(cli)
    return cli


def add_commands(commands: CommandGroup) -> None:
    """Add the commands show, train, tune, cross-validate, evaluate and predict, and the group vectors."""
    _add_experiment(commands.add_command("show", _show, "print an experiment with all its defaults"))
    _add_ray_command(commands, "train", _train, "fine-tune on the workers of the cluster (Ray Train)")
    _add_ray_command(commands, "tune", _tune, "search settings (Ray Tune)")
    text = "train and evaluate once per fold; report mean and deviation"
    cross_validate = _add_ray_command(commands, "cross-validate", _cross_validate, text)
    cross_validate.add_argument(
        "--folds", type=_fold_count, default=10, metavar="N", help=f"2 to {MAX_FOLDS} (default: 10)"
    )
    text = "measure a checkpoint on the test part, with a report"
    evaluate = commands.add_command("evaluate", _on_ray(_evaluate), text)
    _add_address(evaluate)
    evaluate.add_argument("checkpoint", help=CHECKPOINT_HELP)
    evaluate.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="such as data.test=other.csv")
    evaluate.set_defaults(settings_argument="settings")
    evaluate.add_argument("--out", help="folder of the report (default: report, next to the checkpoint)")
    predict = commands.add_command("predict", _predict, "label the texts of a file")
    predict.add_argument("checkpoint", help=CHECKPOINT_HELP)
    predict.add_argument("input", help="csv, tsv or jsonl, plain or gzipped")
    predict.add_argument("--out", help="csv, tsv or jsonl to write (default: jsonl on standard output)")
    predict.add_argument("--text-column", help="default: as in training")
    _add_vectors_commands(commands.add_group("vectors", "train or export word vectors, measure their drift"))


def _add_ray_command(commands: CommandGroup, name: str, run: RunCommand, text: str) -> argparse.ArgumentParser:
    parser = commands.add_command(name, _on_ray(run), text, resumable=True)
    _add_experiment(parser)
    _add_address(parser)
    return parser


def _add_experiment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "experiment",
        nargs="*",
        metavar="FILE | KEY=VALUE",
        help="an experiment file (default: all defaults), then settings by dotted path",
    )
    parser.set_defaults(settings_argument="experiment")


def _add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", help="a running Ray cluster (default: RAY_ADDRESS, else Ray starts here)")


def _add_vectors_commands(group: CommandGroup) -> None:
    train = group.add_command("train", _vectors_train, "train word2vec with gensim on text files")
    train.add_argument(
        "files",
        nargs="+",
        metavar="FILE | KEY=VALUE",
        help="csv, tsv, jsonl, or one text per line; plain or gzipped; then settings, such as vectors.dimensions=300",
    )
    train.set_defaults(settings_argument="files")
    train.add_argument("--out", required=True, help="the word2vec binary file to write")
    train.add_argument("--text-column", help="of csv, tsv and jsonl (default: text)")
    train.add_argument("--threads", type=_count, help="default: one per core; the result is repeatable with 1")
    export = group.add_command("export", _vectors_export, "write a checkpoint's word vectors as word2vec binary")
    export.add_argument("checkpoint", help=CHECKPOINT_HELP)
    export.add_argument("out", help="the file to write")
    export.add_argument("--merge", action="store_true", help="add the other words of the original file, unchanged")
    export.add_argument("--original", help="the file that the vectors were initialised from (default: as in training)")
    drift = group.add_command("drift", _vectors_drift, "measure how far training moved the vector of each word")
    drift.add_argument("checkpoint", help=CHECKPOINT_HELP)
    drift.add_argument("--words", nargs="+", default=[], help="words whose neighbours are shown")
    drift.add_argument("--top", type=_count, default=10, help="words per list (default: 10)")
    drift.add_argument("--out", help="folder of drift.csv and drift.png (default: report, next to the checkpoint)")


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


def _load_experiment(words: list[str]) -> "Experiment":
    from jobs.config.experiment import ExperimentError, load_experiment

    files = [word for word in words if "=" not in word]
    if len(files) > 1:
        raise ExperimentError(f"{len(files)} experiment files: {', '.join(files)}; name one")
    return load_experiment(files[0] if files else None, [word for word in words if "=" in word])


def _show(options: argparse.Namespace) -> None:
    print(_load_experiment(options.experiment).to_yaml(), end="")


def _train(options: argparse.Namespace) -> None:
    experiment = _load_experiment(options.experiment)
    from jobs.training.train import train

    best = train(experiment)
    print(f"wrote {best}", flush=True)
    print(f"next: finetune-cnn evaluate {os.path.dirname(best)}", flush=True)


def _tune(options: argparse.Namespace) -> None:
    experiment = _load_experiment(options.experiment)
    from jobs.search.tune import tune

    best = tune(experiment)
    folder = os.path.dirname(best)
    print(f"wrote {best}", flush=True)
    print(f"next: finetune-cnn train {folder}/best.yaml, or finetune-cnn serve {folder}", flush=True)


def _cross_validate(options: argparse.Namespace) -> None:
    experiment = _load_experiment(options.experiment)
    from jobs.training.cross_validation import cross_validate

    print(f"wrote {cross_validate(experiment, options.folds)}", flush=True)


def _evaluate(options: argparse.Namespace) -> None:
    from jobs.evaluation.evaluate import evaluate

    evaluate(options.checkpoint, options.settings, options.out)


def _predict(options: argparse.Namespace) -> None:
    from jobs.inference.predict import predict_file

    predict_file(options.checkpoint, options.input, options.out, options.text_column)


def _vectors_train(options: argparse.Namespace) -> None:
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
    train_word2vec_on_files(files, options.out, load_experiment(None, settings), options.threads)


def _vectors_export(options: argparse.Namespace) -> None:
    from jobs.evaluation.export import export_vectors

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
    if not word.isdigit() or not 2 <= int(word) <= MAX_FOLDS:
        raise argparse.ArgumentTypeError(f"must be between 2 and {MAX_FOLDS}, not {word}")
    return int(word)


if __name__ == "__main__":
    sys.exit(main())
