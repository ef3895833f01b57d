"""Test accuracy with default settings on six labelled sets, compared with a linear SVC over TF-IDF and with fastText.

    pip install fasttext-wheel               # the extra `bench`; without it fastText is skipped
    python benchmarks/accuracy.py            # all six sets, three seeds: an hour or so on two cores
    python benchmarks/accuracy.py --quick    # TREC, one seed, two epochs

Nothing is tuned. This project uses the vectors file. The exception is imdb, because the file was trained on imdb's
test texts among others: there gensim trains vectors on the training texts. TF-IDF of words and bigrams with a linear
SVC is scikit-learn's with default settings. fastText 0.9.2 trains 25 epochs at a learning rate of 0.5 with words, with
words and bigrams, and with words initialized from the same vectors (not on imdb), on one thread. All classifiers read
the same tokens. Where validation rows are drawn from the training file, the alternatives train on them too.
MR has no official test part; it is split again for each seed, with the same split for all classifiers.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.labelled_datasets import (
    DATASET_FILES,
    WITHOUT_VECTORS,
    add_data_options,
    make_experiment,
    require_vectors,
)
from benchmarks.reporting import Row, print_json, print_table
from jobs.config.experiment import Experiment
from jobs.datasets.dataset import load_dataset
from jobs.datasets.tokenizer import tokenize

PROJECT = "this project"
SVC = "TF-IDF, linear SVC"
FASTTEXT_VECTORS = "fastText, vectors"
FASTTEXT = {"fastText": {"wordNgrams": 1}, "fastText, bigrams": {"wordNgrams": 2}, FASTTEXT_VECTORS: {"dim": 300}}
CLASSIFIERS = (PROJECT, SVC, *FASTTEXT)
ResultKey = tuple[str, str, int]  # data set, classifier, seed
LabelledTexts = tuple[list[str], list[str]]  # tokens joined by spaces, labels


def main() -> None:
    """Train what --results does not contain, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="TREC, one seed, two epochs")
    add_data_options(parser)
    parser.add_argument("--seeds", type=int, help="(default: 3)")
    parser.add_argument("--sets", nargs="+", choices=DATASET_FILES, help="(default: all)")
    parser.add_argument("--results", type=Path, help="jsonl file; its results are reused, new ones are appended")
    options = parser.parse_args()
    options.vectors = require_vectors(options)
    sets = options.sets or (["trec"] if options.quick else list(DATASET_FILES))
    seeds = options.seeds or (1 if options.quick else 3)
    start = time.perf_counter()
    results: dict[ResultKey, float] = {}
    if options.results and options.results.exists():
        results = {tuple(key): value for key, value in map(json.loads, options.results.read_text().splitlines())}
    with tempfile.TemporaryDirectory() as storage:
        for key, value in _measure(sets, seeds, options, storage, set(results)):
            results[key] = value
            print(f"{key[0]:9}  {key[1]:20}  seed {key[2]}   {100 * value:.2f}", flush=True)
            if options.results:
                with options.results.open("a") as stream:
                    stream.write(json.dumps([key, value]) + "\n")
    rows = [_make_row(name, results) for name in sets]
    print_table("Test accuracy, % (this project: mean over seeds; ahead: gain over the best alternative)", rows)
    print_json("accuracy", {"seeds": seeds, "seconds": time.perf_counter() - start}, {"accuracy": rows})


def _measure(
    sets: list[str], seeds: int, options: argparse.Namespace, storage: str, known: set[ResultKey]
) -> Iterator[tuple[ResultKey, float]]:
    """Yield results that are not known yet."""
    from cluster.connection import connect
    from jobs.training.cross_validation import train_in_parallel

    pairs = [(name, seed) for name in sets for seed in range(seeds)]
    missing = [(name, seed) for name, seed in pairs if (name, PROJECT, seed) not in known]
    if missing:
        with connect():
            for (name, seed), result in train_in_parallel(_training_jobs(missing, options, storage), 1):
                yield (name, PROJECT, seed), result.accuracy
    if not find_spec("fasttext"):
        print("fastText is skipped; to include it: pip install fasttext-wheel", file=sys.stderr)
    for name, seed in pairs:
        if seed and name != "mr":
            continue  # same rows, and the alternatives are deterministic
        for classifier in CLASSIFIERS[1:]:
            if (name, classifier, seed) in known or (classifier in FASTTEXT and not find_spec("fasttext")):
                continue
            if classifier == FASTTEXT_VECTORS and name in WITHOUT_VECTORS:
                continue
            train, test = _load_texts(_make_experiment(name, seed, options, storage))
            if classifier == SVC:
                yield (name, classifier, seed), _train_svc(train, test)
            else:
                yield (name, classifier, seed), _train_fasttext(classifier, train, test, options.vectors, Path(storage))


def _training_jobs(pairs: list[tuple[str, int]], options: argparse.Namespace, storage: str) -> Iterator[Any]:
    from jobs.training.corpora.building import build_corpus

    for name, seed in pairs:
        experiment = _make_experiment(name, seed, options, storage)
        dataset = load_dataset(experiment)
        yield (name, seed), experiment, build_corpus(experiment, dataset, use_pretrained=True), dataset.test


def _make_experiment(name: str, seed: int, options: argparse.Namespace, storage: str) -> Experiment:
    vectors = None if name in WITHOUT_VECTORS else options.vectors
    experiment = make_experiment(name, options.data, vectors, seed, storage)
    return experiment.replace({"train.epochs": 2}) if options.quick else experiment


def _load_texts(experiment: Experiment) -> tuple[LabelledTexts, LabelledTexts]:
    """Return the training texts of the alternatives, and the test texts."""
    dataset = load_dataset(experiment)
    parts = [dataset.train] if experiment.data.validation else [dataset.train, dataset.validation]
    texts = [" ".join(tokenize(text)) for part in parts for text in part.texts]
    labels = [label for part in parts for label in part.labels]
    return (texts, labels), ([" ".join(tokenize(text)) for text in dataset.test.texts], list(dataset.test.labels))


def _train_svc(train: LabelledTexts, test: LabelledTexts) -> float:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    model = make_pipeline(
        TfidfVectorizer(tokenizer=str.split, token_pattern=None, ngram_range=(1, 2), lowercase=False), LinearSVC()
    )
    return float(model.fit(*train).score(*test))


def _train_fasttext(classifier: str, train: LabelledTexts, test: LabelledTexts, vectors: str, folder: Path) -> float:
    import fasttext

    fasttext.FastText.eprint = lambda *args, **kwargs: None
    numbers = {label: number for number, label in enumerate(sorted({*train[1], *test[1]}))}
    rows = {"train.txt": list(zip(*train, strict=True)), "test.txt": list(zip(*test, strict=True))}
    random.Random(0).shuffle(rows["train.txt"])  # fastText does not shuffle, and several sets are sorted by label
    for file, pairs in rows.items():
        (folder / file).write_text("".join(f"__label__{numbers[label]} {text}\n" for text, label in pairs))
    settings: dict[str, Any] = dict(FASTTEXT[classifier])
    if classifier == FASTTEXT_VECTORS:
        settings["pretrainedVectors"] = str(_convert_to_text(vectors, folder))
    model = fasttext.train_supervised(str(folder / "train.txt"), epoch=25, lr=0.5, thread=1, verbose=0, **settings)
    return float(model.test(str(folder / "test.txt"))[1])


def _convert_to_text(vectors: str, folder: Path) -> Path:
    """Return the vectors as word2vec text, the only format that fastText reads."""
    path = folder / "vectors.vec"
    if not path.exists():
        from gensim.models import KeyedVectors

        KeyedVectors.load_word2vec_format(vectors, binary=True).save_word2vec_format(str(path), binary=False)
    return path


def _make_row(name: str, results: dict[ResultKey, float]) -> Row:
    values = {
        classifier: [100 * value for key, value in results.items() if key[:2] == (name, classifier)]
        for classifier in CLASSIFIERS
    }
    ours = values.pop(PROJECT)
    means = {classifier: statistics.mean(accuracies) for classifier, accuracies in values.items() if accuracies}
    return {
        "set": name,
        PROJECT: round(statistics.mean(ours), 2),
        "deviation": round(statistics.stdev(ours), 2) if len(ours) > 1 else None,
        **{classifier: round(means[classifier], 2) if classifier in means else None for classifier in values},
        "ahead": round(statistics.mean(ours) - max(means.values()), 2),
    }


if __name__ == "__main__":
    main()
