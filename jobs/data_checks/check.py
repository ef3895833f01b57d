"""Data check of an experiment: a table on the console, an HTML page, and a csv of the rows concerned.

    finetune-cnn check-data experiment.yaml

The texts are read as for training: the same parts, tokens and vectors.
"""

import logging
from functools import partial

from cluster.console.logs import RESULT
from cluster.console.output import report_result
from cluster.console.progress import ReportStep, ignore_step, step_bar
from cluster.console.tables import format_text_table
from cluster.input_files import check_output_file
from cluster.storage import absolute_path, join, output_file
from jobs.config.experiment import Experiment
from jobs.config.settings import DataSettings
from jobs.data_checks.classes import check_classes
from jobs.data_checks.duplicates import check_duplicates
from jobs.data_checks.findings import Finding, Severity, sort_findings, write_csv
from jobs.data_checks.label_errors import check_labels
from jobs.data_checks.lengths import check_lengths
from jobs.data_checks.near_duplicates import check_near_duplicates
from jobs.data_checks.page import render_data_check
from jobs.data_checks.rows import Rows, collect_rows
from jobs.data_checks.scripts import check_scripts
from jobs.datasets.dataset import Dataset, load_dataset
from jobs.datasets.sources import resolve_source
from jobs.datasets.text_checks import find_first_copies
from jobs.embeddings.input_checks import check_inputs
from jobs.model.checkpoint import load_labels
from jobs.training.corpora.building import build_corpus

logger = logging.getLogger(__name__)

STEPS = READING, COUNTING, COMPARING, PREDICTING = (
    "reading the texts",
    "counting words",
    "comparing the texts",
    "predicting the labels",
)
FOLDER = "data-check"  # in the experiment's folder
PAGE_NAME, CSV_NAME = "data-check.html", "data-check-rows.csv"


def check_data(experiment: Experiment, out: str | None = None) -> str:
    """Check the data of an experiment, log the findings, and return the path of the HTML page.

    Args:
        out: folder of the page and the csv; by default `data-check`, next to the experiment's runs.

    Raises:
        DataError, VectorsError: the data or the vectors file are missing or invalid.
        StorageError: the folder cannot be written, or a file of the data has the path of the page or the csv.
    """
    check_inputs(experiment)
    page_path, csv_path = choose_paths(experiment, out)
    with step_bar("data checks", STEPS, logger) as report_step:
        logger.info("reading the texts")
        report_step(READING)
        dataset = load_dataset(experiment, known_labels=load_labels(experiment.train.start_from))
        rows = collect_rows(dataset, experiment.text)
        findings = find_all(rows, experiment.text.max_tokens, experiment.seed, report_step)
    findings = sort_findings([*findings, *_check_coverage(experiment, dataset)])
    table = [
        {"severity": finding.severity.name.lower(), "finding": finding.name, "message": finding.message}
        for finding in findings
    ]
    logger.log(RESULT, format_text_table(table))
    report_result({"findings": table})
    with output_file(csv_path) as part:
        write_csv(part, findings, rows)
    with output_file(page_path) as part:
        part.write_text(render_data_check(experiment.name, rows, findings, CSV_NAME), encoding="utf-8")
    return page_path


def choose_paths(experiment: Experiment, out: str | None) -> tuple[str, str]:
    """Return the paths of the page and the csv; arguments and errors as of `check_data`."""
    folder = absolute_path(out or join(experiment.storage, experiment.name, FOLDER))
    inputs = _list_input_paths(experiment.data)
    paths = join(folder, PAGE_NAME), join(folder, CSV_NAME)
    for path in paths:
        check_output_file(path, *inputs)
    return paths


def find_all(rows: Rows, max_tokens: int, seed: int, report_step: ReportStep = ignore_step) -> list[Finding]:
    """Return the findings of all checks that need the rows only."""
    report_step(COUNTING)
    first = find_first_copies(rows.tokens)
    findings = [*check_classes(rows), *check_lengths(rows, max_tokens), *check_scripts(rows)]
    findings += check_duplicates(rows, first)
    logger.info("comparing the texts")
    report_step(COMPARING)
    findings += check_near_duplicates(rows, first)
    logger.info("predicting each label with a model that was not trained on it")
    report_step(PREDICTING)
    return findings + check_labels(rows, first, seed, partial(report_step, PREDICTING))


def _list_input_paths(data: DataSettings) -> list[str]:
    """Return the paths and URIs of the files with the texts."""
    sources = [source for source in (data.train, data.validation, data.test, data.out_of_scope) if source is not None]
    return [file.path for source in sources for file in resolve_source(source, data)]


def _check_coverage(experiment: Experiment, dataset: Dataset) -> list[Finding]:
    """Return a finding on how many words have a vector of the file; none without a file."""
    if experiment.vectors.path is None or experiment.model.embedding == "rand":
        return []
    coverage = build_corpus(experiment, dataset, use_pretrained=True, log_notes=False).coverage
    assert coverage is not None, "there is a file"
    warning = coverage.describe_low_share(experiment.vectors)
    return [Finding("vectors", Severity.HIGH if warning else Severity.INFO, warning or str(coverage))]
