"""Python interface and console command `finetune-cnn`: word2vec vectors, fine-tuned in a CNN text classifier on Ray.

    import finetune_cnn

    model = finetune_cnn.TextCNNClassifier(vectors="vectors.bin.gz").fit(texts, labels)  # as scikit-learn's
    model.save("model")

    classifier = finetune_cnn.load("model")  # or what `finetune-cnn train` wrote: "runs/tickets"
    print(classifier.predict(["where is my parcel"]))

    client = finetune_cnn.Client("http://127.0.0.1:8000")  # of `finetune-cnn serve runs/tickets`
    print(client.classify("where is my parcel"))

Importing this module starts nothing, and loads neither Ray nor torch.
"""

import argparse
import atexit
import gc
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from cluster import UsageError, __version__

if TYPE_CHECKING:
    from cluster.console.cli import CommandLine
    from jobs.estimator.text_cnn import TextCNNClassifier
    from jobs.inference.classifier import Classifier
    from serving.client import Client

__all__ = ["Classifier", "Client", "TextCNNClassifier", "UsageError", "__version__", "build_parser", "load", "main"]


# Of `gc.set_threshold`: new objects, and collections of younger generations, before a generation is collected.
GC_THRESHOLDS = (100_000, 20, 20)


def load(path: str) -> "Classifier":
    """Return the classifier of a checkpoint, which scores texts without torch and without Ray.

        classifier = finetune_cnn.load("s3://bucket/runs/tickets")
        classifier.predict(["where is my parcel", "the invoice is wrong"])  # their labels
        classifier.predict_proba(["where is my parcel"])  # (1, classes) float32
        classifier.labels  # the classes, in this order

    Args:
        path: path or URI of a checkpoint, of a best.json, or of a folder with either, as for the commands.

    Raises:
        UsageError: there is no checkpoint, or it is incomplete, altered, or of a newer format.
    """
    from jobs.inference.classifier import Classifier
    from jobs.model.checkpoint import load_checkpoint

    return Classifier(load_checkpoint(path))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `finetune-cnn` with all its sub-commands.

        print(finetune_cnn.build_parser().format_help())

    `main` also accepts KEY=VALUE words after the options of a command, which this parser alone rejects.
    """
    return _build_command_line().parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of `finetune-cnn`, and return its exit code.

        finetune_cnn.main(["train", "experiments/tickets.yaml", "train.epochs=5"])

    The code is 0, 2 for a usage error, 130 for Ctrl-C, or that of a submitted job.

    Args:
        arguments: words after `finetune-cnn`; by default those of the command line.
    """
    return _build_command_line().main(arguments)


def run_command() -> NoReturn:
    """Run a command and end this process, as the console command does.

    The interpreter does not free its memory at the end, which takes up to a second after torch and Ray were loaded.
    It searches for garbage less often: with Python's thresholds this takes a sixth of the time of importing them.
    """
    gc.set_threshold(*GC_THRESHOLDS)
    exit_codes: list[int] = []
    atexit.register(_end_process, exit_codes)  # registered first, so called after the functions of all libraries
    exit_codes.append(main())
    sys.exit(exit_codes[0])


def _end_process(exit_codes: list[int]) -> None:
    """End this process with an exit code; an exception that leaves none takes its usual course."""
    if exit_codes:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # closed, or a pipe whose reader has ended
                stream.flush()
        os._exit(exit_codes[0])


def _build_command_line() -> "CommandLine":
    import cluster.__main__ as cluster_commands
    import jobs.__main__ as job_commands
    import serving.__main__ as serving_commands
    from cluster.console.cli import CommandLine

    cli = CommandLine("finetune-cnn", "Fine-tune word vectors in a CNN text classifier on Ray, and serve it over HTTP.")
    cli.parser.epilog = "`finetune-cnn COMMAND --help` describes a command."
    cli.start_section("train and evaluate")
    job_commands.add_commands(cli)
    cli.start_section("serve")
    serving_commands.add_commands(cli)
    serving_commands.add_service_commands(cli.add_group("service", "inspect, remove and configure deployed services"))
    cli.start_section("run on a cluster")
    cluster_commands.add_commands(cli)
    cluster_commands.add_job_commands(cli.add_group("job", "list, inspect, follow and stop submitted jobs"))
    return cli


def __getattr__(name: str) -> Any:
    """Return a class that is imported on first use, because numpy, numba, torch and urllib3 come with them."""
    if name == "TextCNNClassifier":
        from jobs.estimator.text_cnn import TextCNNClassifier

        return TextCNNClassifier
    if name == "Classifier":
        from jobs.inference.classifier import Classifier

        return Classifier
    if name == "Client":
        from serving.client import Client

        return Client
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


if __name__ == "__main__":
    run_command()
