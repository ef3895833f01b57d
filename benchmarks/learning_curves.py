"""Test accuracy by the number of labelled rows: networks with and without vectors, and a linear SVC over TF-IDF.

    python benchmarks/learning_curves.py                                            # five seeds, half an hour
    python benchmarks/learning_curves.py --picture docs/assets/learning-curves.png
    python benchmarks/learning_curves.py --quick                                    # TREC, one seed, two sizes

The rows are drawn from the training part, from each class by its size; other seeds draw other rows. All settings are
at their defaults, with the vectors file for `static` and `non-static`, except that the network is alone
(`model.linear=none`): the question is what its vectors contribute, and few validation rows hardly use a linear
classifier next to it. A tenth of the rows, at least one, is the
validation part of the networks; the SVC, scikit-learn's with default settings over words and bigrams, trains on all.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.labelled_datasets import make_experiment, parse_options, require_vectors
from benchmarks.reporting import Row, print_json, print_table
from jobs.config.experiment import Experiment
from jobs.datasets.dataset import Dataset, stratified_split
from jobs.datasets.readers import Split, read_rows
from jobs.datasets.tokenizer import tokenize
from jobs.inference.classifier import Classifier

SETS = ("trec", "sst2", "agnews20k")
SIZES = (10, 30, 100, 300, 1000)
SVC = "TF-IDF, linear SVC"
SIDES = ("rand", "static", "non-static", SVC)
TITLES = {"trec": "TREC, 6 classes", "sst2": "SST-2, 2 classes", "agnews20k": "AG News, 4 classes"}
Results = dict[tuple[str, str, int], list[float]]  # data set, side, number of rows: one accuracy per seed


def main() -> None:
    """Train on each number of rows, and print the table of each data set."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--picture", type=Path, help="write the curves as a picture")
    options = parse_options(__doc__, "TREC, one seed, two sizes, two epochs", seeds=5, sets=SETS, parser=parser)
    sizes = SIZES[2:4] if options.quick else SIZES
    start = time.perf_counter()
    results: Results = {}
    with tempfile.TemporaryDirectory() as storage:
        for (name, side, size, seed), accuracy in _measure(options, sizes, require_vectors(options), storage):
            results.setdefault((name, side, size), []).append(accuracy)
            print(f"{name:10} {side:20} {size:5} rows, seed {seed}   {accuracy:.1f}", flush=True)
    tables = {name: [_make_row(results, name, side, sizes) for side in SIDES] for name in options.sets}
    for name, table in tables.items():
        print_table(f"{TITLES[name]}: test accuracy by labelled rows, %, mean and deviation over seeds", table)
    if options.picture:
        _plot(options.picture, results, options.sets, sizes)
    print_json("learning_curves", {"seeds": options.seeds, "seconds": time.perf_counter() - start}, tables)


def _measure(
    options: argparse.Namespace, sizes: Sequence[int], vectors: str, storage: str
) -> Iterator[tuple[tuple[str, str, int, int], float]]:
    from jobs.training.parallel_tasks import run_in_processes

    def list_jobs() -> Iterator[tuple[tuple[str, str, int, int], tuple[Experiment, str, int]]]:
        for name in options.sets:
            for seed in range(options.seeds):
                for side in SIDES:
                    path = vectors if side in ("static", "non-static") else None
                    experiment = make_experiment(name, options.data, path, seed, storage)
                    if side != SVC:
                        experiment = experiment.replace({"model.embedding": side, "model.linear": "none"})
                    if options.quick:
                        experiment = experiment.replace({"train.epochs": 2})
                    for size in sizes:
                        yield (name, side, size, seed), (experiment, side, size)

    yield from run_in_processes(measure_accuracy, list_jobs(), 1)


def measure_accuracy(experiment: Experiment, side: str, size: int) -> float:
    """Return the test accuracy in % after training on some of the rows."""
    data = experiment.data
    assert data.train is not None
    assert data.test is not None
    pool, test = read_rows(data.train, data), read_rows(data.test, data)
    indices = Split([str(index) for index in range(len(pool))], pool.labels)  # texts are the numbers of the rows
    drawn, _ = stratified_split(indices, 1 - size / len(pool), experiment.seed, "share")
    rows = pool.select(sorted(int(text) for text in drawn.texts))
    predicted = _train_svc(rows, test) if side == SVC else _train_network(experiment, rows, test)
    return 100 * float(np.mean(np.array(predicted) == np.array(test.labels)))


def _train_network(experiment: Experiment, rows: Split, test: Split) -> Sequence[str]:
    from jobs.estimator.training import train_dataset

    train, validation = stratified_split(rows, experiment.data.validation_share, experiment.seed, "share")
    dataset = Dataset(train, validation, test, sorted(set(train.labels)), [])
    checkpoint = train_dataset(experiment, dataset).checkpoint
    return Classifier(checkpoint, share_table=False).predict(test.texts)


def _train_svc(rows: Split, test: Split) -> Sequence[str]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    vectorizer = TfidfVectorizer(tokenizer=tokenize, token_pattern=None, ngram_range=(1, 2), lowercase=False)
    model = make_pipeline(vectorizer, LinearSVC()).fit(list(rows.texts), list(rows.labels))
    predicted: list[str] = model.predict(list(test.texts)).tolist()
    return predicted


def _make_row(results: Results, name: str, side: str, sizes: Sequence[int]) -> Row:
    row: Row = {"trained on": side}
    for size in sizes:
        values = results[name, side, size]
        row[f"{size:,} rows"] = round(statistics.mean(values), 1)
        row[f"± {size:,}"] = round(statistics.stdev(values), 1) if len(values) > 1 else None
    return row


def _plot(path: Path, results: Results, sets: Sequence[str], sizes: Sequence[int]) -> None:
    """Draw the mean of each side with its deviation, one panel for each data set."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(sets), figsize=(3.4 * len(sets), 3.8), layout="constrained", squeeze=False)
    for panel, name in zip(panels[0], sets, strict=True):
        for side, style in zip(SIDES, (":", "--", "-", "-."), strict=True):
            values = [results[name, side, size] for size in sizes]
            means = [statistics.mean(accuracies) for accuracies in values]
            deviations = [statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0 for accuracies in values]
            panel.errorbar(sizes, means, deviations, fmt=style, marker="o", markersize=3, capsize=2, label=side)
        panel.set(title=TITLES[name], xscale="log", xlabel="labelled rows", xticks=sizes, xticklabels=sizes)
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("test accuracy, %")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(SIDES))
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
