"""Training loops on the toy data."""

from jobs.config.experiment import Experiment
from jobs.model.network import Network
from jobs.training.loop import Loop
from jobs.training.process_group import ProcessGroup
from tests.conftest import make_test_corpus

ALONE = ProcessGroup()


def loop_of(experiment: Experiment, group: ProcessGroup = ALONE) -> Loop:
    corpus = make_test_corpus(experiment)
    network = Network(
        experiment.model, corpus.vectors, len(corpus.labels), experiment.seed,
        num_trainable_words=len(corpus.word_counts()), rank=group.rank, world_size=group.world_size,
    )  # fmt: skip
    return Loop(network, corpus, experiment.train, experiment.seed, group)
