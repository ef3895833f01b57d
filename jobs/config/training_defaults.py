"""Batch size and learning rate of the word vectors where the settings name none."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a GPU machine that only trains needs no pydantic
    from jobs.config.settings import TrainSettings

DEFAULT_BATCH_SIZE = 50
MIN_STEPS = 90  # of an epoch with fewer rows

# Learning rate of the word vectors, relative to that of the other parameters. Accuracy on a tenth of the training rows,
# held out, with 0.001 for the vectors and 0.002 for the others, minus that with 0.001 for all, in points, means of
# 2 (IMDB), 4 (AG News) and 8 seeds: TREC -0.1, SST-2 +0.5, MR +0.7, CLINC150 +0.2, AG News -0.1, IMDB 0.0; with 300
# training rows, 3 seeds: TREC +3.9, SST-2 +4.4, AG News +0.1.
VECTORS_LEARNING_RATE_FACTOR = 0.5
# With 0.003 for random vectors compared with 0.001, others 0.001: TREC 86.8 and 85.0 % (4 seeds), SST-2 78.3 and 78.9 %
# (2 seeds).
RAND_LEARNING_RATE_FACTOR = 1.5


def choose_batch_size(num_rows: int) -> int:
    """Return the rows of a step for a number of training rows: fewer if an epoch would have fewer than 90 steps."""
    return min(DEFAULT_BATCH_SIZE, max(1, num_rows // MIN_STEPS))


def choose_vectors_learning_rate(settings: "TrainSettings", *, is_random: bool) -> float:
    """Return the learning rate of the word vectors at the start; is_random: their initial values are random."""
    factor = RAND_LEARNING_RATE_FACTOR if is_random else VECTORS_LEARNING_RATE_FACTOR
    return settings.vectors_learning_rate or settings.learning_rate * factor
