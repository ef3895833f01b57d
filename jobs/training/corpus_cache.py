"""A dataset's corpora, one for each way to read its texts: prepared once, kept in Ray's object store."""

from collections.abc import Callable
from typing import Any

from cluster.logs import ForwardingHandler, handle_logs
from jobs.config.experiment import Experiment, digest
from jobs.datasets.dataset import Dataset
from jobs.training.corpus import Corpus, build_corpus


class CorpusCache:
    """Prepares corpora as they are asked for; in a search a Ray actor, which owns them.

    Args:
        experiment, dataset: of the search.
        put: keeps a corpus and returns a reference to it.
        send: receives log messages, as ("log", (level, message)).
    """

    def __init__(
        self, experiment: Experiment, dataset: Dataset, put: Callable[[Corpus], Any], send: Callable[[str, Any], None]
    ) -> None:
        self._experiment, self._dataset, self._put = experiment, dataset, put
        self._handler = ForwardingHandler(send)
        self._references: dict[str, Any] = {}

    def get(self, experiment: Experiment) -> list[Any]:
        """Return a reference to an experiment's corpus, in a list, so that Ray hands on the reference itself."""
        key = corpus_key(experiment)
        if key not in self._references:
            chosen = self._experiment.replace({"text": experiment.text.model_dump()})
            pretrained = experiment.model.embedding != "rand"
            with handle_logs(self._handler):
                found = build_corpus(chosen, self._dataset, use_pretrained=pretrained)
            self._references[key] = self._put(found)
        return [self._references[key]]


def corpus_key(experiment: Experiment) -> str:
    """Return what tells the corpora of one dataset apart: how texts are read, and whether vectors are pretrained."""
    return digest([experiment.text.model_dump(), experiment.model.embedding == "rand"])
