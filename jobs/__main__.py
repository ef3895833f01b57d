"""python -m jobs: train, tune, evaluate, predict, show, and vectors train, export, drift."""

import argparse
import json
import os
import re
import sys

from cluster import UsageError
from cluster.logs import ConsoleHandler, handle_logs

_SETTING = re.compile(r"[a-z_]+(\.[a-z_]+)*=")


def main(arguments: list[str] | None = None) -> int:
    """Run a verb and return the exit code: 0, 2 for a mistake of the user's, 130 for Ctrl-C."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    lists = [words for name, words in vars(options).items() if name in ("experiment", "settings", "files")]
    if rest and (not lists or not all("=" in word and word[0] != "-" for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    for words in lists:
        words += rest  # settings may stand behind an option
    if getattr(options, "address", None):
        os.environ["RAY_ADDRESS"] = options.address
    try:
        with handle_logs(ConsoleHandler()):
            return options.run(options) or 0
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output has enough of it
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 it stays open to the end, which flushes it
        return 1
    except KeyboardInterrupt:
        goes_on = options.run in (_train, _tune)
        print("interrupted; the same command goes on from here" if goes_on else "interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jobs", description="Fine-tune word vectors in a CNN text classifier, on Ray."
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, run, text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        return added

    def experiment(added: argparse.ArgumentParser) -> argparse.ArgumentParser:
        added.add_argument(
            "experiment",
            nargs="*",
            metavar="FILE | KEY=VALUE",
            help="an experiment file (default: all defaults), then settings by dotted path",
        )
        return added

    def ray(added: argparse.ArgumentParser) -> argparse.ArgumentParser:
        added.add_argument("--address", help="a running Ray cluster (default: RAY_ADDRESS, else one starts here)")
        return added

    experiment(verb("show", _show, "print an experiment with all its defaults"))
    ray(experiment(verb("train", _train, "fine-tune on the workers of the cluster (Ray Train)")))
    ray(experiment(verb("tune", _tune, "search settings (Ray Tune)")))
    evaluate = ray(verb("evaluate", _evaluate, "measure a checkpoint on the test part, with a report"))
    evaluate.add_argument("checkpoint", help="a checkpoint, a best.json, or a folder with one")
    evaluate.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="as in data.test=other.csv")
    evaluate.add_argument("--out", help="folder of the report (default: report, beside the checkpoint)")
    predict = verb("predict", _predict, "label the texts of a file")
    predict.add_argument("checkpoint", help="a checkpoint, a best.json, or a folder with one")
    predict.add_argument("input", help="csv, tsv or jsonl, plain or gzipped")
    predict.add_argument("--out", help="csv, tsv or jsonl to write (default: jsonl on standard output)")
    predict.add_argument("--text-column", help="default: as in training")
    vectors = verbs.add_parser("vectors", help="train word vectors, export fine-tuned ones, see what fine-tuning did")
    _add_vectors_verbs(vectors.add_subparsers(required=True, metavar="VERB"))
    return parser


def _add_vectors_verbs(verbs) -> None:
    def verb(name: str, run, text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        return added

    train = verb("train", _vectors_train, "train word2vec with gensim on text files")
    train.add_argument(
        "files",
        nargs="+",
        metavar="FILE | KEY=VALUE",
        help="csv, tsv, jsonl, or one text a line; plain or gzipped; then settings, as in vectors.dimensions=300",
    )
    train.add_argument("--out", required=True, help="the word2vec binary file to write")
    train.add_argument("--text-column", help="of csv, tsv and jsonl (default: text)")
    train.add_argument("--threads", type=_count, help="default: one for each core; with one the result is repeatable")
    export = verb("export", _vectors_export, "write a checkpoint's word vectors as word2vec binary")
    export.add_argument("checkpoint", help="a checkpoint, a best.json, or a folder with one")
    export.add_argument("out", help="the file to write")
    export.add_argument("--merge", action="store_true", help="add the original file's other words, as they are there")
    export.add_argument("--original", help="the file that the vectors started from (default: as in training)")
    drift = verb("drift", _vectors_drift, "how far training moved each word's vector")
    drift.add_argument("checkpoint", help="a checkpoint, a best.json, or a folder with one")
    drift.add_argument("--words", nargs="+", default=[], help="whose neighbours are shown")
    drift.add_argument("--top", type=_count, default=10, help="words of each list (default: 10)")
    drift.add_argument("--out", help="folder of drift.csv and drift.png (default: report, beside the checkpoint)")


def _load(words: list[str]):
    from jobs.config.experiment import ExperimentError, load_experiment

    files = [word for word in words if "=" not in word]
    if len(files) > 1:
        raise ExperimentError(f"one experiment file at a time, not {len(files)}: {', '.join(files)}")
    return load_experiment(files[0] if files else None, [word for word in words if "=" in word])


def _show(options: argparse.Namespace) -> None:
    print(_load(options.experiment).to_yaml(), end="")


def _train(options: argparse.Namespace) -> None:
    experiment = _load(options.experiment)
    if experiment.train.folds:
        from jobs.training.cross_validation import cross_validate

        print(f"wrote {cross_validate(experiment)}", flush=True)
        return
    from jobs.training.train import train

    best = train(experiment)
    print(f"wrote {best}", flush=True)
    print(f"next: python -m jobs evaluate {os.path.dirname(best)}", flush=True)


def _tune(options: argparse.Namespace) -> None:
    experiment = _load(options.experiment)
    from jobs.search.tune import tune

    best = tune(experiment)
    folder = os.path.dirname(best)
    print(f"wrote {best}", flush=True)
    print(f"next: python -m jobs train {folder}/best.yaml, or python -m serving run {folder}", flush=True)


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
                f"{word.partition('=')[0]} is no setting of this verb; those of vectors, text, data and seed are"
            )
    for file in files:
        if file.endswith((".yaml", ".yml")):
            raise UsageError(f"{file}: is no file of texts; give settings as KEY=VALUE")
    if options.text_column:
        settings.append(f"data.text_column={json.dumps(options.text_column)}")
    if not files:
        raise UsageError("no file to train on; name one or more before the settings")
    train_word2vec_on_files(files, options.out, load_experiment(None, settings), options.threads)


def _vectors_export(options: argparse.Namespace) -> None:
    from jobs.evaluation.export import export_vectors

    export_vectors(options.checkpoint, options.out, options.original, options.merge)


def _vectors_drift(options: argparse.Namespace) -> None:
    from jobs.evaluation.drift import report_drift

    report_drift(options.checkpoint, options.words, options.top, options.out)


def _count(word: str) -> int:
    """Return the whole number above 0 that an option needs; argparse says what is wrong otherwise."""
    if not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {word}")
    return int(word)


if __name__ == "__main__":
    sys.exit(main())
