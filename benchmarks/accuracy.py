"""The default settings on six labelled sets, beside a linear SVC over TF-IDF and fastText.

    pip install fasttext-wheel               # the extra `bench`
    python benchmarks/accuracy.py            # all six, three seeds: an hour or so on two cores
    python benchmarks/accuracy.py --quick    # TREC, one seed

Nothing is tuned. This project's vectors are the file's, except on imdb, whose own test texts are among those
that the file was trained on: there gensim trains them on the training texts. TF-IDF of words and bigrams with
a linear SVC is scikit-learn's at its defaults. fastText 0.9.2 trains 25 epochs at a rate of 0.5, with words,
with words and bigrams, and with words started from the same vectors (not on imdb), on one thread. All read the
same tokens. The alternatives train on the validation rows too, where those are drawn from the training file.
Only MR, which has no official test part, is drawn anew for each seed, for all sides.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.labelled_datasets import DATA_FOLDER, DATASET_FILES, VECTORS_PATH, make_experiment
from benchmarks.reporting import print_json, print_table
from jobs.config.experiment import Experiment
from jobs.datasets import dataset
from jobs.datasets.tokenizer import tokenize

PROJECT = "this project"
SVC = "TF-IDF, linear SVC"
FASTTEXT = {"fastText": {"wordNgrams": 1}, "fastText, bigrams": {"wordNgrams": 2}, "fastText, vectors": {"dim": 300}}
CLASSIFIERS = (PROJECT, SVC, *FASTTEXT)
WITHOUT_VECTORS = ("imdb",)


def main() -> None:
    """Train what is missing on every side, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="TREC, one seed")
    parser.add_argument("--data", type=Path, default=DATA_FOLDER, help="folder of the sets (default: %(default)s)")
    parser.add_argument("--vectors", help=f"(default: {VECTORS_PATH} in the data's folder)")
    parser.add_argument("--seeds", type=int, help="(default: 3)")
    parser.add_argument("--sets", nargs="+", choices=DATASET_FILES, help="(default: all)")
    parser.add_argument("--results", type=Path, help="jsonl file to add results to, and to take them from")
    options = parser.parse_args()
    options.vectors = options.vectors or str(options.data / VECTORS_PATH)
    if not os.path.exists(options.vectors):
        sys.exit(f"{options.vectors}: no such file; name the data with --data and --vectors")
    sets = options.sets or (["trec"] if options.quick else list(DATASET_FILES))
    seeds = options.seeds or (1 if options.quick else 3)
    start = time.perf_counter()
    found: dict[tuple[str, str, int], float] = {}
    if options.results and options.results.exists():
        found = {tuple(name): value for name, value in map(json.loads, options.results.read_text().splitlines())}
    with tempfile.TemporaryDirectory() as storage:
        for name, value in _measured(sets, seeds, options, storage, set(found)):
            found[name] = value
            print(f"{name[0]:9}  {name[1]:20}  seed {name[2]}   {100 * value:.2f}", flush=True)
            if options.results:
                with options.results.open("a") as stream:
                    stream.write(json.dumps([name, value]) + "\n")
    rows = [_row(name, found) for name in sets]
    print_table("Test accuracy, % (ours: mean over seeds; ahead: of the best alternative)", rows)
    print_json("accuracy", {"seeds": seeds, "seconds": time.perf_counter() - start}, {"accuracy": rows})


def _measured(
    sets: list[str], seeds: int, options: argparse.Namespace, storage: str, known: set
) -> Iterator[tuple[tuple[str, str, int], float]]:
    """Yield what is not known yet, as it is measured."""
    from cluster.connection import connect
    from jobs.training.cross_validation import train_in_parallel

    wanted = [(name, seed) for name in sets for seed in range(seeds)]
    missing = [each for each in wanted if (each[0], PROJECT, each[1]) not in known]
    with connect():
        for (name, seed), result in train_in_parallel(_jobs(missing, options, storage), 1):
            yield (name, PROJECT, seed), result["accuracy"]
    for name, seed in wanted:
        if seed and name != "mr":
            continue  # the same rows, and nothing that is random
        for side in CLASSIFIERS[1:]:
            if (name, side, seed) in known or (side == "fastText, vectors" and name in WITHOUT_VECTORS):
                continue
            texts, labels, test_texts, test_labels = _texts(_experiment(name, seed, options, storage))
            if side == SVC:
                yield (name, side, seed), _svc(texts, labels, test_texts, test_labels)
            else:
                yield (name, side, seed), _fasttext(side, texts, labels, test_texts, test_labels, options, storage)


def _jobs(wanted: list[tuple[str, int]], options: argparse.Namespace, storage: str) -> Iterator[Any]:
    from jobs.training.corpus import build_corpus

    for name, seed in wanted:
        chosen = _experiment(name, seed, options, storage)
        loaded = dataset.load_dataset(chosen)
        corpus = build_corpus(chosen, loaded, use_pretrained=True)
        yield (name, seed), chosen, corpus, loaded.test


def _experiment(name: str, seed: int, options: argparse.Namespace, storage: str) -> Experiment:
    vectors = None if name in WITHOUT_VECTORS else options.vectors
    return make_experiment(name, options.data, vectors, seed, storage)


def _texts(chosen: Experiment) -> tuple[list[str], list[str], list[str], list[str]]:
    """Return the tokenised training texts and labels of the alternatives, and those of the test part."""
    loaded = dataset.load_dataset(chosen)
    parts = [loaded.train] if chosen.data.validation else [loaded.train, loaded.validation]
    texts = [" ".join(tokenize(text)) for part in parts for text in part.texts]
    labels = [label for part in parts for label in part.labels]
    return texts, labels, [" ".join(tokenize(text)) for text in loaded.test.texts], loaded.test.labels


def _svc(texts: list[str], labels: list[str], test_texts: list[str], test_labels: list[str]) -> float:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    model = make_pipeline(
        TfidfVectorizer(tokenizer=str.split, token_pattern=None, ngram_range=(1, 2), lowercase=False), LinearSVC()
    )
    return float(model.fit(texts, labels).score(test_texts, test_labels))


def _fasttext(
    side: str,
    texts: list[str],
    labels: list[str],
    test_texts: list[str],
    test_labels: list[str],
    options: argparse.Namespace,
    storage: str,
) -> float:
    import random

    import fasttext

    fasttext.FastText.eprint = lambda *words, **given: None
    numbers = {label: number for number, label in enumerate(sorted({*labels, *test_labels}))}
    folder = Path(storage)
    for file, rows in (("train.txt", list(zip(texts, labels, strict=True))),
                       ("test.txt", list(zip(test_texts, test_labels, strict=True)))):  # fmt: skip
        if file == "train.txt":
            random.Random(0).shuffle(rows)  # it reads them in order, and several of the sets are sorted by label
        (folder / file).write_text("".join(f"__label__{numbers[label]} {text}\n" for text, label in rows))
    given: dict[str, Any] = dict(FASTTEXT[side])
    if side == "fastText, vectors":
        given["pretrainedVectors"] = str(_as_text(options.vectors, folder))
    model = fasttext.train_supervised(str(folder / "train.txt"), epoch=25, lr=0.5, thread=1, verbose=0, **given)
    return float(model.test(str(folder / "test.txt"))[1])


def _as_text(vectors: str, folder: Path) -> Path:
    """Return the vectors as word2vec text, which is all that fastText reads."""
    path = folder / "vectors.vec"
    if not path.exists():
        from gensim.models import KeyedVectors

        KeyedVectors.load_word2vec_format(vectors, binary=True).save_word2vec_format(str(path), binary=False)
    return path


def _row(name: str, found: dict[tuple[str, str, int], float]) -> dict[str, Any]:
    sides = {side: [100 * value for key, value in found.items() if key[:2] == (name, side)] for side in CLASSIFIERS}
    ours = sides.pop(PROJECT)
    means = {side: statistics.mean(values) if values else None for side, values in sides.items()}
    ahead = statistics.mean(ours) - max(value for value in means.values() if value is not None)
    return {
        "set": name,
        PROJECT: round(statistics.mean(ours), 2),
        "deviation": round(statistics.stdev(ours), 2) if len(ours) > 1 else None,
        **{side: None if value is None else round(value, 2) for side, value in means.items()},
        "ahead": round(ahead, 2),
    }


if __name__ == "__main__":
    main()
