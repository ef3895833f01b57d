"""Scores and labels for texts, with the torch network, on this machine."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from torch import Tensor

from cluster.storage import atomic_write
from jobs.datasets.readers import SUPPORTED_SUFFIXES, DataError
from jobs.datasets.readers import read_rows as read_rows
from jobs.datasets.tokenizer import Tokens, Vocabulary, encode, tokenize
from jobs.model.batches import Collator, iter_batches_by_length
from jobs.model.checkpoint import Checkpoint, load_checkpoint
from jobs.model.network import Network

BATCH_SIZE = 256
COLUMNS = ("text", "label", "score")


def build_network(checkpoint: Checkpoint) -> Network:
    """Return a checkpoint's network, ready to classify."""
    weights = checkpoint.weights
    initial = weights["fixed_vectors"] if "fixed_vectors" in weights else weights["vectors"]
    trained = None if "fixed_vectors" in weights else 0  # otherwise all stay as they are
    network = Network(checkpoint.experiment.model, initial, len(checkpoint.labels), num_trainable_words=trained)
    network.load_weights({key: torch.from_numpy(value) for key, value in weights.items()})
    return network.eval()


@torch.inference_mode()
def predict_logits(network: Network, tokens: Tokens, rows: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """Return scores (logits) of some texts, `(len(rows), classes)` float32 on the CPU, in the order of `rows`."""
    network.eval()
    collator = Collator(tokens, len(network.initial), device)
    found = torch.empty(len(rows), len(network.output))
    for chosen in iter_batches_by_length(tokens.lengths[rows], BATCH_SIZE):
        found[chosen] = network(collator.collate(rows[chosen])).cpu()
    return found


def predict_proba(checkpoint: Checkpoint, texts: Sequence[str]) -> np.ndarray:
    """Return the probability of each class for each text, `(texts, classes)` float32."""
    settings = checkpoint.experiment.text
    tokenized: Iterator[list[str]] = (tokenize(text, settings.lowercase) for text in texts)
    tokens = encode(tokenized, Vocabulary(checkpoint.words), settings.max_tokens)
    found = predict_logits(build_network(checkpoint), tokens, np.arange(len(tokens)))
    return torch.softmax(found, dim=1).numpy()


def predict_file(path: str, source: str, out: str | None, text_column: str | None) -> None:
    """Write each text of a file with its label and that label's probability, as csv, tsv or jsonl.

    Args:
        path: a checkpoint, a best.json, or a folder with one.
        source: csv, tsv or jsonl, plain or gzipped.
        out: the file to write; None for jsonl on standard output.
        text_column: by default the one that training read.

    Raises:
        DataError: the source cannot be read, or `out` is of no known kind.
    """
    if out and not out.endswith(SUPPORTED_SUFFIXES):
        raise DataError(f"{out}: the name must end in {', '.join(SUPPORTED_SUFFIXES)}")
    loaded = load_checkpoint(path)
    data = loaded.experiment.data.model_copy(update={"folder": "."})
    if text_column:
        data = data.model_copy(update={"text_column": text_column})
    texts = read_rows(source, data, labelled=False).texts
    found = predict_proba(loaded, texts)
    best = found.argmax(axis=1)
    rows = (
        {"text": text, "label": loaded.labels[label], "score": round(float(each[label]), 6)}
        for text, label, each in zip(texts, best, found, strict=True)
    )
    if out is None:
        _write_rows(sys.stdout, rows, ".jsonl")
    else:
        with atomic_write(Path(out)) as part, part.open("w", encoding="utf-8", newline="") as stream:
            _write_rows(stream, rows, Path(out).suffix)


def _write_rows(stream: TextIO, rows: Iterable[dict], suffix: str) -> None:
    if suffix == ".jsonl":
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        return
    stream.write("\t".join(COLUMNS) + "\n" if suffix == ".tsv" else ",".join(COLUMNS) + "\n")
    writer = csv.writer(stream, lineterminator="\n")
    for row in rows:
        if suffix == ".tsv":  # as it is read: no quotes, a tab or line end is a space
            stream.write("\t".join(" ".join(str(row[key]).split()) for key in COLUMNS) + "\n")
        else:
            writer.writerow(row[key] for key in COLUMNS)
