"""Commands of the group vectors: train, export and drift."""

import argparse
import json
import shlex

from cluster import UsageError
from cluster.console.cli import CommandGroup, parse_count
from cluster.console.output import add_dry_run, print_next, print_plan
from jobs.command_options import CHECKPOINT_HELP, add_force, split_settings
from jobs.experiment_commands import accept_settings


def add_vectors_commands(group: CommandGroup) -> None:
    """Add the commands of the group."""
    train = group.add_command("train", _train, "train word2vec with gensim on text files")
    train.add_argument(
        "files",
        nargs="+",
        metavar="FILE | KEY=VALUE",
        help="texts in any format that is read, or one per line; then settings, such as vectors.dimensions=300",
    )
    accept_settings(train, "files")
    train.add_argument("--out", required=True, help="the word2vec binary file to write")
    add_force(train)
    train.add_argument("--text-column", help="of files with columns (default: text)")
    train.add_argument("--threads", type=parse_count, help="default: one per core; the result is repeatable with 1")
    add_dry_run(train)
    export = group.add_command("export", _export, "write a checkpoint's word vectors as a word2vec file")
    export.add_argument("checkpoint", help=CHECKPOINT_HELP)
    export.add_argument("out", help="path or URI; text if it ends in .txt or .vec, binary in .bin; .gz compresses")
    add_force(export)
    export.add_argument("--merge", action="store_true", help="add the other words of the original file, unchanged")
    export.add_argument("--original", help="the file that the vectors were initialized from (default: as in training)")
    add_dry_run(export)
    drift = group.add_command("drift", _drift, "measure how far training moved the vector of each word")
    drift.add_argument("checkpoint", help=CHECKPOINT_HELP)
    drift.add_argument("--words", nargs="+", default=[], help="words whose neighbours are shown")
    drift.add_argument("--top", type=parse_count, default=10, help="words per list (default: 10)")
    drift.add_argument("--out", help="folder of drift.csv and drift.png (default: report, next to the checkpoint)")
    add_dry_run(drift)


def _train(options: argparse.Namespace) -> None:
    from cluster.input_files import check_not_replaced
    from cluster.storage import is_uri
    from jobs.config.experiment import load_experiment

    settings, files = split_settings(options.files)
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
    arguments = files, options.out, load_experiment(None, settings), options.threads
    if options.dry_run:
        from jobs.vectors_dry_run import plan_pretraining

        print_plan(plan_pretraining(*arguments))
        return
    from jobs.embeddings.pretraining import train_word2vec_on_files

    train_word2vec_on_files(*arguments)
    print_next(f"finetune-cnn train EXPERIMENT.yaml {shlex.quote(f'vectors.path={options.out}')}")


def _export(options: argparse.Namespace) -> None:
    from cluster.input_files import check_not_replaced

    if not options.force:
        check_not_replaced(options.out)
    arguments = options.checkpoint, options.out, options.original, options.merge
    if options.dry_run:
        from jobs.vectors_dry_run import plan_vectors_export

        print_plan(plan_vectors_export(*arguments))
        return
    from jobs.evaluation.export import export_vectors

    export_vectors(*arguments)


def _drift(options: argparse.Namespace) -> None:
    arguments = options.checkpoint, options.words, options.top, options.out
    if options.dry_run:
        from jobs.vectors_dry_run import plan_drift

        print_plan(plan_drift(*arguments))
        return
    from jobs.evaluation.drift import report_drift

    report_drift(*arguments)
