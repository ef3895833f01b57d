"""Python interface and console command `finetune-cnn`: word2vec vectors, fine-tuned in a CNN text classifier on Ray.

    import finetune_cnn

    model = finetune_cnn.TextCNNClassifier(vectors="vectors.bin.gz").fit(texts, labels)  # as scikit-learn's
    model.save("model")

    classifier = finetune_cnn.load("model")  # or what `finetune-cnn train` wrote: "runs/tickets"
    print(classifier.predict(["where is my parcel"]))

    service = finetune_cnn.deploy(model)  # on Ray Serve, until service.shutdown()
    print(service.url, service.predict(["where is my parcel"]))

    client = finetune_cnn.Client("http://127.0.0.1:8000")  # of `finetune-cnn serve runs/tickets`
    print(client.classify("where is my parcel"))

Importing this module starts nothing, and loads neither Ray nor torch.
"""

import argparse
import atexit
import gc
import importlib
import logging
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from cluster import UsageError, __version__

if TYPE_CHECKING:
    from cluster.console.cli import CommandLine
    from jobs.estimator.text_cnn import TextCNNClassifier
    from jobs.estimator.tuning import search_space
    from jobs.inference.batch_classifier import BatchClassifier
    from jobs.inference.classifier import Classifier
    from jobs.inference.explanation import Explanation
    from jobs.training.history import Epoch
    from jobs.training.worker import train_loop_per_worker
    from serving.client import Client
    from serving.deployment.local_service import Service

__all__ = [
    "BatchClassifier",
    "Classifier",
    "Client",
    "Epoch",
    "Explanation",
    "Service",
    "TextCNNClassifier",
    "UsageError",
    "__version__",
    "build_parser",
    "deploy",
    "load",
    "main",
    "search_space",
    "train_loop_per_worker",
]

# Names that are imported on first use, because numpy, numba, torch, Ray and urllib3 come with them.
MODULES = {
    "BatchClassifier": "jobs.inference.batch_classifier",
    "Classifier": "jobs.inference.classifier",
    "Client": "serving.client",
    "Epoch": "jobs.training.history",
    "Explanation": "jobs.inference.explanation",
    "Service": "serving.deployment.local_service",
    "TextCNNClassifier": "jobs.estimator.text_cnn",
    "search_space": "jobs.estimator.tuning",
    "train_loop_per_worker": "jobs.training.worker",
}

# Of `gc.set_threshold`: new objects, and collections of younger generations, before a generation is collected.
GC_THRESHOLDS = (100_000, 20, 20)


def load(path: "str | os.PathLike[str]") -> "Classifier":
    """Return the classifier of a checkpoint, which scores texts without torch and without Ray.

    >>> import finetune_cnn
    >>> texts, labels = ["a good film", "a bad film"] * 20, ["good", "bad"] * 20
    >>> finetune_cnn.TextCNNClassifier(embedding="rand").fit(texts, labels).save("model")
    >>> classifier = finetune_cnn.load("model")  # or what `finetune-cnn train` wrote: "runs/tickets"
    >>> classifier.predict(["a good film", "a bad film"])
    ['good', 'bad']

    Args:
        path: path or URI of a checkpoint, of a best.json, or of a folder with either, or hf://OWNER/NAME[@REVISION], as
            for the commands.

    Raises:
        UsageError: there is no checkpoint, or it is incomplete, altered, or of a newer format.
    """
    from jobs.inference.classifier import Classifier
    from jobs.model.checkpoint import load_checkpoint

    return Classifier(load_checkpoint(os.fspath(path)))


def deploy(
    model: "TextCNNClassifier | str | os.PathLike[str]",
    path: "str | os.PathLike[str] | None" = None,
    *,
    name: str = "classifier",
    host: str = "127.0.0.1",
    port: int = 8000,
    route_prefix: str = "/",
    key: str | None = None,
    models: "Mapping[str, str | os.PathLike[str]] | None" = None,
    allowed_origins: Sequence[str] = (),
) -> "Service":
    """Serve a model with Ray Serve, and return the service, which runs until its `shutdown` or the end of this process.

    >>> import finetune_cnn
    >>> with finetune_cnn.deploy("model") as service:
    ...     service.predict(["a good film", "a bad film"])
    ['good', 'bad']

    It runs on the Ray that this process is connected to, on the cluster of RAY_ADDRESS, or on an embedded Ray. A
    service that outlives this process is deployed with `finetune-cnn deploy`.

    Args:
        model: a fitted estimator, or the path or URI of a checkpoint, as for `load`.
        path: new folder or URI that every node can access, where the estimator is saved; by default a temporary folder
            of this machine.
        name: of the application on the cluster.
        host, port: to listen on. If Serve runs already, it keeps its own, and a warning says so.
        route_prefix: path of the service. A program that runs several services gives each a name and a path of its own,
            such as "/tickets"; an embedded Ray ends with the first one.
        key: one of the API keys, if the service requires one.
        models: paths or URIs of further checkpoints, by name: `service.predict(texts, model=NAME)`.
        allowed_origins: origins of web pages that may read responses (CORS), such as `["https://example.com"]`, or
            `["*"]` for all.

    Raises:
        UsageError: there is no checkpoint, the route prefix or an origin is invalid, or the service does not start.
    """
    from serving.deployment.local_service import Service

    return Service(
        model,
        path,
        name=name,
        host=host,
        port=port,
        route_prefix=route_prefix,
        key=key,
        models=models,
        allowed_origins=allowed_origins,
    )


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `finetune-cnn` with all its sub-commands.

    >>> import finetune_cnn
    >>> options = finetune_cnn.build_parser().parse_args(["evaluate", "runs/tickets", "--by", "channel"])
    >>> options.checkpoint, options.by
    ('runs/tickets', ['channel'])

    `main` also accepts KEY=VALUE words after the options of a command, which this parser alone rejects.
    """
    return _build_command_line().parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of `finetune-cnn`, and return its exit code.

    >>> import finetune_cnn
    >>> finetune_cnn.main(["predict", "model", "a good film"])
    {"text": "a good film", "label": "good", "score": 0.999...}
    0

    The code is 0, also when Ctrl-C stops a running service, 2 for a usage error, 130 for Ctrl-C in other commands, or
    that of a submitted job.

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
    from cluster.console.completion import add_completion

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
    cli.start_section("set up")
    cli.add_command("compile", _compile, "compile the code now, not when it is first used")
    add_completion(cli, _list_keys)
    return cli


def _compile(options: argparse.Namespace) -> None:
    """Train a small classifier, and score and explain a text with it as predictions and the service do.

    Files of more than 8 MB and some settings have kernels of their own, which are compiled when they are first used.
    """
    from cluster.console.output import report_result
    from jobs.compilation.cache import find_folder
    from jobs.estimator.text_cnn import TextCNNClassifier
    from jobs.inference.classifier import Classifier
    from jobs.inference.explanation import explain_label
    from jobs.inference.projection_table import TableDtype
    from jobs.model.checkpoint import load_checkpoint
    from serving.web.compiled_scorer import CompiledScorer

    if (kernels := find_folder()) is None:
        raise UsageError(
            "compiled code cannot be cached: ~/.cache/finetune-cnn/kernels cannot be written, or other users can write "
            "it; name another folder with NUMBA_CACHE_DIR"
        )
    labels = 10 * ["good", "bad"]
    texts = [f"a {label} film {number}" for number, label in enumerate(labels)]
    with tempfile.TemporaryDirectory() as folder:
        TextCNNClassifier(embedding="rand", epochs=1).fit(texts, labels).save(folder)
        checkpoint = load_checkpoint(folder)
    for dtype in get_args(TableDtype):
        classifier = Classifier(checkpoint, table_dtype=dtype, share_table=False)
        CompiledScorer(classifier, max_texts=1).score(texts[:1], "softmax")
    explain_label(classifier, texts[0], None)
    report_result({"path": str(kernels)})
    print(f"compiled for this processor, in {kernels}")


def _list_keys() -> list[str]:
    """Return the keys of all settings, without sections."""
    from jobs.config.experiment import SETTING_KEYS

    return [key for key in SETTING_KEYS if not any(other.startswith(f"{key}.") for other in SETTING_KEYS)]


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(MODULES[name]), name)


if __name__ == "__main__":
    run_command()
