"""Service that a Python program starts and stops: on its Ray, on a cluster, or on an embedded Ray."""

import atexit
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import yaml

from cluster import UsageError
from jobs.datasets.tokenization.code_points import list_texts
from serving.client import Client
from serving.deployment.server import start_service
from serving.deployment.template import TEMPLATE
from serving.web.cors import parse_origins
from serving.web.served_models import parse_user_config


class Model(Protocol):
    """A fitted model."""

    def save(self, path: str) -> None:
        """Write a checkpoint into a new or empty folder."""


class Service:
    """A service on Ray Serve, until `shutdown`, the end of a `with` block, or that of this process.

    >>> import finetune_cnn
    >>> service = finetune_cnn.deploy("model")
    >>> service.client.classify("a good film", top_k=1)
    [{'label': 'good', 'score': 0.999...}]

    Args:
        model: path or URI of a checkpoint, or a fitted model.
        path: new folder or URI that every node can access, where the model is saved; by default a temporary folder of
            this machine.
        name, host, port: of the service.
        key: one of the API keys, if the service requires one.
        route_prefix: path of the service, such as "/tickets": services on one Ray need different ones, and names.
        models: paths or URIs of further checkpoints, by name.
        allowed_origins: as of `finetune_cnn.deploy`.

    Attributes:
        url: where it responds, with the route prefix and without a slash at its end.
        client: HTTP client of it.

    Raises:
        UsageError: the route prefix, the name of a further model, or an origin is invalid.
        DeploymentError: it does not start.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Model,
        path: str | os.PathLike[str] | None = None,
        *,
        name: str,
        host: str,
        port: int,
        route_prefix: str = "/",
        key: str | None = None,
        models: Mapping[str, str | os.PathLike[str]] | None = None,
        allowed_origins: Sequence[str] = (),
    ) -> None:
        self._stack = ExitStack()
        further = {"models": {other: os.fspath(location) for other, location in models.items()}} if models else {}
        parse_user_config({"checkpoint": "", **further})
        configuration = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))
        application = configuration["applications"][0]
        application |= {"name": name, "route_prefix": _validate_route_prefix(route_prefix)}
        application["args"]["allowed_origins"] = parse_origins(allowed_origins)
        application["deployments"][0]["user_config"] = {"checkpoint": self._save(model, path), **further}
        configuration["http_options"] |= {"host": host, "port": port}
        try:
            self.url = self._stack.enter_context(start_service(configuration, None)).url
        except BaseException:
            self._stack.close()
            raise
        # Registered after Ray's functions, so called before them: while Ray still runs.
        atexit.register(self.shutdown)
        self.client = Client(self.url, key)
        self._are_multi_label: dict[str | None, bool] = {}

    def predict(self, texts: Sequence[str], *, model: str | None = None) -> list[Any]:
        """Return the most likely label of each text; with several labels per text, a list of those above threshold.

        >>> service.predict(["a good film", "a bad film"])
        ['good', 'bad']

        Args:
            model: name of a further model.

        Raises:
            ValueError: it is a single text.
            ServiceError: the service refused the request, such as more texts, or with several labels per text more
                scores, than its limits.
        """
        if model not in self._are_multi_label:
            self._are_multi_label[model] = self.client.info(model)["multi_label"]
        if not self._are_multi_label[model]:
            return [scores[0]["label"] for scores in self.client.classify(list_texts(texts), model=model, top_k=1)]
        return [
            [score["label"] for score in scores if score["above_threshold"]]
            for scores in self.client.classify(list_texts(texts), model=model)
        ]

    def shutdown(self) -> None:
        """Stop the service, and what was started for it; a second call does nothing.

        >>> service.shutdown()
        """
        atexit.unregister(self.shutdown)
        self._stack.close()

    def _save(self, model: str | os.PathLike[str] | Model, path: str | os.PathLike[str] | None) -> str:
        """Return the path of a checkpoint of the model."""
        if isinstance(model, str | os.PathLike):
            return os.fspath(model)
        path = os.fspath(path) if path else str(Path(self._stack.enter_context(tempfile.TemporaryDirectory()), "model"))
        model.save(path)
        return path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()


def _validate_route_prefix(prefix: str) -> str:
    """Return a route prefix; UsageError if it is no path that Ray Serve accepts."""
    if not re.fullmatch(r"/|(?:/[^/\s{}?#%]+)+", prefix):
        raise UsageError(f"route_prefix: '{prefix}' is not '/', or a path such as '/tickets' without '/' at its end")
    return prefix
