"""Wrong labels that the data check finds, after 5 % of the training labels were changed at random.

    python benchmarks/label_noise.py              # TREC, SST-2 and clinc150, three seeds: about a minute
    python benchmarks/label_noise.py --network    # and the network on TREC: several minutes more
    python benchmarks/label_noise.py --quick      # TREC only

A changed row gets one of the other labels, all equally likely. The check predicts each label out of fold with logistic
regression over TF-IDF, and ranks the rows by confident learning; with --network the predictions are those of this
project's network with default settings and the vectors file. Only training rows are used. Rows that were wrong before
count as mistakes of the check. The second table has the CPU time to find near duplicates in generated texts.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # to be run as a file

from benchmarks.labelled_datasets import make_experiment, parse_options, require_vectors
from benchmarks.reporting import Row, print_json, print_table
from jobs.data_checks.confident_learning import find_label_errors
from jobs.data_checks.label_errors import NUM_FOLDS, assign_folds, predict_held_out, vectorize_terms
from jobs.data_checks.near_duplicates import find_similar_pairs
from jobs.datasets.readers import Split, read_rows
from jobs.datasets.text_checks import find_first_copies
from jobs.datasets.tokenizer import Vocabulary, encode, tokenize

SETS = ("trec", "sst2", "clinc150")
NOISE = 0.05
TOP = 100
CHECK, NETWORK = "check-data", "network"
GENERATED_ROWS = (25_000, 50_000, 100_000)


def main() -> None:
    """Change labels, rank the rows, and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", action="store_true", help="also with predictions of the network, on TREC")
    quick = "TREC, and fewer generated texts"
    options = parse_options(__doc__, quick, seeds=3, sets=SETS, quick_seeds=3, parser=parser)
    rows = [_measure(name, CHECK, options) for name in options.sets]
    if options.network:
        rows.append(_measure("trec", NETWORK, options))
    print_table(f"Changed rows among the {TOP} most suspicious, and among all suspicious ones (mean of seeds)", rows)
    sizes = GENERATED_ROWS[:1] if options.quick else GENERATED_ROWS
    duplicates = [_time_near_duplicates(number) for number in sizes]
    print_table("Near duplicates of generated texts", duplicates)
    print_json("label_noise", {"seeds": options.seeds}, {"labels": rows, "near_duplicates": duplicates})


def _measure(name: str, side: str, options: argparse.Namespace) -> Row:
    """Return the results of all seeds on a set."""
    data = make_experiment(name, options.data, None, 0, "runs").data
    assert data.train is not None
    split = read_rows(data.train, data)
    classes = sorted(set(split.labels))
    clean = np.array([classes.index(label) for label in split.labels])
    tokens = [tokenize(text) for text in split.texts]
    first = find_first_copies(tokens)
    top, precision, recall, seconds = [], [], [], []
    for seed in range(options.seeds):
        labels = change_labels(clean, seed)
        start = time.process_time()
        if side == CHECK:
            folds = assign_folds(labels, first, seed)
            probabilities = predict_held_out(vectorize_terms(tokens), labels, folds, seed)
        else:
            probabilities = _predict_with_network(split.texts, labels, first, seed, options)
        errors = find_label_errors(probabilities, labels)
        seconds.append(time.process_time() - start)
        is_changed = (labels != clean)[errors.order]
        hits = int(is_changed[: errors.num_suspicious].sum())
        top.append(int(is_changed[:TOP].sum()))
        precision.append(100 * hits / max(1, errors.num_suspicious))
        recall.append(100 * hits / int(is_changed.sum()))
        print(f"{name}, {side}, seed {seed}: {top[-1]} of {TOP}", flush=True)
    return {
        "set": name,
        "predictions": side,
        "rows": len(clean),
        "classes": len(classes),
        f"of first {TOP}": statistics.mean(top),
        "least": min(top),
        "precision, %": statistics.mean(precision),
        "recall, %": statistics.mean(recall),
        "CPU seconds": statistics.median(seconds),
    }


def change_labels(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return labels of which a share of `NOISE` is replaced by other ones, drawn with the seed."""
    generator = np.random.default_rng(seed)
    changed = labels.copy()
    rows = generator.choice(len(labels), round(NOISE * len(labels)), replace=False)
    number = int(labels.max()) + 1
    changed[rows] = (labels[rows] + generator.integers(1, number, len(rows))) % number
    return changed


def _predict_with_network(
    texts: list[str], labels: np.ndarray, groups: np.ndarray, seed: int, options: argparse.Namespace
) -> np.ndarray:
    """Return out-of-fold probabilities of the network, `(rows, classes)`, in the same folds."""
    import torch

    from jobs.datasets.dataset import Dataset, stratified_split
    from jobs.training.corpora.building import build_corpus
    from jobs.training.loop import create_loop
    from jobs.training.validation import score_texts

    torch.set_num_threads(1)
    names = [str(label) for label in labels]
    classes = [str(label) for label in range(int(labels.max()) + 1)]
    experiment = make_experiment("trec", options.data, require_vectors(options), seed, "runs")
    folds = assign_folds(labels, groups, seed)
    probabilities = np.zeros((len(labels), len(classes)))
    rows = Split(texts, names)
    for fold in range(NUM_FOLDS):
        held_out = np.flatnonzero(folds == fold)
        rest = rows.select(np.flatnonzero(folds != fold))
        train, validation = stratified_split(rest, 0.1, seed, "data.validation_share")
        dataset = Dataset(train, validation, rows.select(held_out), classes, [])
        corpus = build_corpus(experiment, dataset, use_pretrained=True, log_notes=False)
        loop = create_loop(experiment, corpus)
        best: dict[str, torch.Tensor] = {}
        for _, improved in loop.train_epochs():
            if improved:
                best = {key: value.clone() for key, value in loop.network.state_dict().items()}
        loop.network.load_state_dict(best)
        tokens = encode((tokenize(text) for text in dataset.test.texts), Vocabulary(corpus.words), 1000)
        probabilities[held_out] = torch.softmax(score_texts(loop, tokens).double(), dim=1).numpy()
    return probabilities


def _time_near_duplicates(number: int) -> Row:
    """Return the CPU time to find the near copies among texts of 5 to 60 words; a tenth of the rows are copies."""
    generator = np.random.default_rng(0)
    texts = []
    for length in generator.integers(5, 60, number - number // 10):
        texts.append([f"w{word}" for word in np.minimum(generator.zipf(1.3, length), 50_000)])
    copies = [[*text[:3], "changed", *text[4:]] for text in texts[: number // 10]]
    start = time.process_time()
    pairs = find_similar_pairs([*texts, *copies])
    seconds = time.process_time() - start
    found_pairs = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    expected = [index for index in range(len(copies)) if len(texts[index]) >= 30]
    recall = sum((index, len(texts) + index) in found_pairs for index in expected) / len(expected)
    return {
        "rows": number,
        "words": sum(map(len, texts)),
        "CPU seconds": seconds,
        "copies of 30 words found, %": 100 * recall,
    }


if __name__ == "__main__":
    main()
