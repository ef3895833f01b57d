"""Command predict: labels for the texts of files."""

import argparse
import os
import shlex
import sys

from cluster import UsageError
from cluster.console.cli import CommandGroup, parse_count
from cluster.console.output import add_dry_run, print_next, print_plan
from jobs.command_options import CHECKPOINT_HELP, add_address, add_force, ray_address


def add_prediction_command(commands: CommandGroup) -> None:
    """Add the command predict."""
    predict = commands.add_command("predict", _predict, "label the texts of a file")
    predict.add_argument("checkpoint", help=CHECKPOINT_HELP)
    predict.add_argument(
        "input",
        nargs="+",
        help="texts: files, folders, glob patterns or URIs, in the order of their rows; a quoted text; or - for lines "
        "of input",
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
        "--workers", type=parse_count, metavar="N", help="processes that write into a folder (default: one per core)"
    )
    scores = predict.add_mutually_exclusive_group()
    scores.add_argument(
        "--top-k", type=parse_count, metavar="K", help="add a column of the K best labels and their scores"
    )
    scores.add_argument("--scores", action="store_true", help="add a column of all labels and their scores")
    text = "leave the label empty where the score is below the checkpoint's threshold"
    predict.add_argument("--abstain", action="store_true", help=text)
    objectives = ("retention", "precision", "balanced")
    text = "of the threshold; implies --abstain (default: retention)"
    predict.add_argument("--objective", choices=objectives, help=text)
    text = "write only N rows, which to label next: uncertain ones that differ from each other"
    predict.add_argument("--uncertain", type=parse_count, metavar="N", help=text)
    text = "add a column of the phrases that the score of the label consists of"
    predict.add_argument("--explain", action="store_true", help=text)
    text = "columns of the input that the output has, with commas between them (default: all)"
    predict.add_argument("--columns", type=_column_names, metavar="NAMES", help=text)
    text = "list invalid rows with reasons in OUT.invalid.jsonl, or OUT/_invalid/, instead of stopping at the first"
    predict.add_argument("--skip-invalid", action="store_true", help=text)
    text = "with more invalid rows the command fails (default: 1; includes --skip-invalid)"
    predict.add_argument("--max-invalid", type=_percentage, metavar="PERCENT", help=text)
    text = "write only rows whose score of a label is at least a number, as in spam=0.9; may be repeated"
    predict.add_argument("--min-score", type=_label_score, action="append", metavar="LABEL=SCORE", help=text)
    text = "of the classifier's table: int16 is faster (default: int16 into a folder, else float32, as in training)"
    predict.add_argument("--table-dtype", choices=("int16", "float32"), help=text)
    add_force(predict)
    add_dry_run(predict)
    add_address(predict)
    predict.add_argument("--text-column", help="default: as in training")
    predict.add_argument("--delimiter", help="character between the columns, or tab (default: detected)")


def _predict(options: argparse.Namespace) -> None:
    from cluster.input_files import check_not_replaced
    from jobs.inference.batch.invalid_rows import DEFAULT_LIMIT
    from jobs.inference.file_prediction import predict_file
    from jobs.inference.sharded_prediction import is_folder_name

    if options.out is None and hasattr(options, "json") and not options.dry_run:
        raise UsageError("--json describes the file that --out names; without one, each line of the output is JSON")
    is_folder = is_folder_name(options.out or "")
    if options.out is not None and not options.force and not is_folder:  # a folder may be completed
        check_not_replaced(options.out, *options.input)
    max_invalid = options.max_invalid
    if max_invalid is None and options.skip_invalid:
        max_invalid = DEFAULT_LIMIT
    if options.uncertain and options.min_score:
        raise UsageError("--uncertain selects rows among all; remove --min-score")
    if options.address and not is_folder:
        raise UsageError("a cluster writes into a folder: end --out with a slash, as in --out s3://bucket/labelled/")
    with ray_address(options.address):
        plan = predict_file(
            options.checkpoint,
            options.input if len(options.input) > 1 else options.input[0],
            options.out,
            options.text_column,
            options.delimiter,
            file_format=options.format,
            num_scores=sys.maxsize if options.scores else options.top_k or 0,
            abstain=options.objective or ("retention" if options.abstain else None),
            uncertain=options.uncertain,
            explain=options.explain,
            columns=options.columns,
            min_scores=dict(options.min_score or ()),
            table_dtype=options.table_dtype,
            max_invalid=max_invalid,
            workers=options.workers,
            restart=options.force,
            on_cluster=is_folder and os.environ.get("RAY_ADDRESS", "local") not in ("", "local"),
            dry_run=options.dry_run,
        )
    if plan is not None:
        print_plan(plan)
    elif options.out is not None and options.uncertain is None:
        print_next(f"finetune-cnn serve {shlex.quote(options.checkpoint)}")


def _column_names(word: str) -> list[str]:
    """Return the names of an option, which commas separate; argparse prints the error."""
    names = [name.strip() for name in word.split(",")]
    if "" in names or len({*names}) < len(names):
        raise argparse.ArgumentTypeError(f"must be different names with commas between them, not {word!r}")
    return names


def _label_score(word: str) -> tuple[str, float]:
    """Return the label and the score of an option, which an equals sign separates; argparse prints the error."""
    label, _, number = word.rpartition("=")
    try:
        score = float(number)
    except ValueError:
        score = -1
    if not label or not 0 <= score <= 1:
        raise argparse.ArgumentTypeError(f"must be a label, = and a score between 0 and 1, not {word!r}")
    return label, score


def _percentage(word: str) -> float:
    """Return the share that a percentage is, from 0 to 1; argparse prints the error."""
    try:
        share = float(word.removesuffix("%")) / 100
    except ValueError:
        share = -1
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"must be a percentage between 0 and 100, not {word}")
    return share
