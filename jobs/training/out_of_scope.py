"""Two ways to use out-of-scope texts: to select thresholds only, or also as a class; the better one is used.

Each way is a run of its own, so an interrupted command resumes either. They are compared on held-out rows: the
validation part, and the out-of-scope rows that neither was trained on.
"""

import logging
from collections.abc import Iterator, Sequence

from cluster.console.logs import RESULT
from cluster.storage import join
from jobs.config.experiment import Experiment
from jobs.datasets.dataset import Dataset, add_out_of_scope_class
from jobs.model.checkpoint_files import read_json, validate_metrics
from jobs.training.continuation import continue_training
from jobs.training.corpora.building import build_corpus
from jobs.training.corpora.corpus import Corpus
from jobs.training.run_files.run_folder import BestCheckpoint, RunFolder

logger = logging.getLogger(__name__)

DESCRIPTIONS = {"threshold": "only select thresholds", "class": "are also a class"}


def iter_alternatives(experiment: Experiment, dataset: Dataset, corpus: Corpus) -> Iterator[tuple[Experiment, Corpus]]:
    """Yield the experiment and the corpus of each run of a training: two if the use of out-of-scope texts is open."""
    if experiment.data.out_of_scope is None or experiment.data.out_of_scope_use != "auto":
        yield continue_training(experiment, dataset, corpus)
        return
    for number, (use, description) in enumerate(DESCRIPTIONS.items(), start=1):
        logger.info(f"run {number} of 2: out-of-scope texts {description}")
        if use == "class":
            use_pretrained, dataset = experiment.model.embedding != "rand", add_out_of_scope_class(dataset)
            corpus = build_corpus(experiment, dataset, use_pretrained=use_pretrained, log_notes=False)
        yield continue_training(experiment.replace({"data.out_of_scope_use": use}), dataset, corpus)


def select_alternative(
    runs: Sequence[tuple[Experiment, RunFolder, BestCheckpoint]],
) -> tuple[RunFolder, BestCheckpoint]:
    """Return the run with the better decisions on held-out rows, the first of equals, and log the comparison.

    Raises:
        CheckpointError: a checkpoint cannot be read.
    """
    if len(runs) == 1:
        return runs[0][1:]
    shares = [_read_balanced_accuracy(run, best) for _, run, best in runs]
    index = shares.index(max(shares))
    values = ", ".join(
        f"{share:.4f} if they {DESCRIPTIONS[experiment.data.out_of_scope_use]}"
        for (experiment, _, _), share in zip(runs, shares, strict=True)
    )
    chosen = DESCRIPTIONS[runs[index][0].data.out_of_scope_use]
    logger.log(RESULT, f"out-of-scope texts {chosen}: balanced share of right decisions on held-out rows {values}")
    return runs[index][1:]


def _read_balanced_accuracy(run: RunFolder, best: BestCheckpoint) -> float:
    metrics = read_json(join(run.path, best.checkpoint, "metrics.json"))
    validate_metrics(metrics)
    return float(metrics["abstention"]["balanced_accuracy"])
