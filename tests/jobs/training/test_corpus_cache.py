"""Corpora are prepared once for each way to read the texts."""

from collections.abc import Callable
from typing import Any

from jobs.config.experiment import Experiment
from jobs.datasets.dataset import load_dataset
from jobs.training.corpus_cache import CorpusCache, corpus_key


def test_a_corpus_is_prepared_once_for_each_way_to_read_the_texts(make_experiment: Callable[..., Experiment]) -> None:
    """What does not change how they are read does not ask for another one."""
    experiment = make_experiment()
    kept: list[Any] = []

    def put(corpus: Any) -> int:
        kept.append(corpus)
        return len(kept) - 1

    library = CorpusCache(experiment, load_dataset(experiment), put, lambda kind, value: None)
    short = experiment.replace({"text.max_tokens": 3})
    wide = short.replace({"model.filter_widths": [2, 3], "train.epochs": 1, "seed": 4})
    assert [library.get(each) for each in (short, wide, experiment, short)] == [[0], [0], [1], [0]]
    assert kept[0].train.tokens.lengths.max() == 3
    assert kept[1].train.tokens.lengths.max() > 3
    assert corpus_key(short) == corpus_key(wide) != corpus_key(experiment)
    assert corpus_key(experiment) != corpus_key(experiment.replace({"model.embedding": "static"}))
