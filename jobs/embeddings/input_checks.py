"""Checks of an experiment's input files that take no time, to be made before anything slow starts."""

from collections.abc import Collection

from jobs.config.experiment import Experiment
from jobs.datasets.readers import DataError, check_file
from jobs.embeddings.vector_files import check_vectors_file


def check_inputs(experiment: Experiment, embeddings: Collection[str] | None = None, *, for_refit: bool = False) -> None:
    """Check the columns and the first row of each file of labelled texts, and the start of the vectors file.

    Args:
        embeddings: kinds of embedding that are trained; by default that of the experiment.
        for_refit: as of `load_dataset`.

    Raises:
        DataError, VectorsError: a file is missing or invalid.
    """
    data = experiment.data
    for path, weighted in ((data.train, True), (data.validation, False), (data.test, False)):
        if path is not None:
            check_file(path, data, weighted=weighted)
    if data.validation is not None and for_refit:
        try:
            check_file(data.validation, data, weighted=True)
        except DataError as error:
            raise DataError(f"{error}; a search trains on these rows at its end, unless tune.refit=false") from error
    if data.out_of_scope is not None:
        check_file(data.out_of_scope, data, labelled=False)
    if set(embeddings or {experiment.model.embedding}) != {"rand"}:
        check_vectors_file(experiment.vectors)
