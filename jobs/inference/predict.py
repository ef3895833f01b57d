"""Batch prediction with the torch network on this machine: scores of texts, and labels for a file."""

import csv
import json
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
import torch
from torch import Tensor

from cluster.logs import RESULT
from cluster.storage import atomic_write
from jobs.datasets.readers import SUPPORTED_SUFFIXES, DataError, read_rows
from jobs.datasets.tokenizer import Tokens, Vocabulary, encode, tokenize
from jobs.model.batches import Collator, iter_batches_by_length
from jobs.model.checkpoint import Checkpoint, load_checkpoint
from jobs.model.network import Network

logger = logging.getLogger(__name__)

BATCH_SIZE = 256


class Prediction(NamedTuple):
    """A text with its most likely label and the label's probability: a row of the output file."""

    text: str
    label: str
    score: float


def build_network(checkpoint: Checkpoint) -> Network:
    """Return a checkpoint's network in evaluation mode."""
    weights = checkpoint.weights
    initial_vectors = weights["fixed_vectors"] if "fixed_vectors" in weights else weights["vectors"]
    # Without fixed vectors the trained ones are passed as the initial ones, so that no copy is needed.
    num_trainable_words = None if "fixed_vectors" in weights else 0
    network = Network(
        checkpoint.experiment.model,
        initial_vectors,
        len(checkpoint.labels),
        num_trainable_words=num_trainable_words,
    )
    network.load_weights({name: torch.from_numpy(value) for name, value in weights.items()})
    return network.eval()


@torch.inference_mode()
def predict_logits(network: Network, tokens: Tokens, rows: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """Return the logits of the texts with some row numbers, `(len(rows), classes)` float32 on the CPU."""
    network.eval()
    collator = Collator(tokens, len(network.initial_vectors), device)
    logits = torch.empty(len(rows), len(network.output))
    for batch in iter_batches_by_length(tokens.lengths[rows], BATCH_SIZE):
        logits[batch] = network(collator.collate(rows[batch])).cpu()
    return logits


def predict_proba(checkpoint: Checkpoint, texts: Sequence[str]) -> np.ndarray:
    """Return the probability of each class for each text, `(texts, classes)` float32."""
    settings = checkpoint.experiment.text
    tokens = encode(
        (tokenize(text, settings.lowercase) for text in texts), Vocabulary(checkpoint.words), settings.max_tokens
    )
    logits = predict_logits(build_network(checkpoint), tokens, np.arange(len(tokens)))
    return torch.softmax(logits, dim=1).numpy()


def predict_file(path: str, source: str, out: str | None, text_column: str | None) -> None:
    """Write a file's texts with their labels and the labels' probabilities, as csv, tsv or jsonl.

    Args:
        path: a checkpoint, a best.json, or a folder with one.
        source: csv, tsv or jsonl, plain or gzipped.
        out: the output file; None for jsonl on standard output.
        text_column: column of the texts; by default the one that training read.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        DataError: the source cannot be read, or `out` is not of a supported format.
    """
    if out and not out.endswith(SUPPORTED_SUFFIXES):
        raise DataError(f"{out}: the name must end in {', '.join(SUPPORTED_SUFFIXES)}")
    checkpoint = load_checkpoint(path)
    data = checkpoint.experiment.data.model_copy(update={"folder": "."})
    if text_column:
        data = data.model_copy(update={"text_column": text_column})
    texts = read_rows(source, data, labelled=False).texts
    probabilities = predict_proba(checkpoint, texts)
    predictions = (
        Prediction(text, checkpoint.labels[label], round(float(row[label]), 6))
        for text, label, row in zip(texts, probabilities.argmax(axis=1), probabilities, strict=True)
    )
    if out is None:
        _write_predictions(sys.stdout, predictions, ".jsonl")
    else:
        with atomic_write(Path(out)) as part, part.open("w", encoding="utf-8", newline="") as stream:
            _write_predictions(stream, predictions, Path(out).suffix)
        logger.log(RESULT, f"wrote {out}: {len(texts):,} rows")


def _write_predictions(stream: TextIO, predictions: Iterable[Prediction], suffix: str) -> None:
    if suffix == ".jsonl":
        for prediction in predictions:
            stream.write(json.dumps(prediction._asdict(), ensure_ascii=False) + "\n")
        return
    stream.write(("\t" if suffix == ".tsv" else ",").join(Prediction._fields) + "\n")
    writer = csv.writer(stream, lineterminator="\n")
    for prediction in predictions:
        if suffix == ".tsv":  # as it is read: without quotes; tabs and line ends become spaces
            stream.write("\t".join(" ".join(str(value).split()) for value in prediction) + "\n")
        else:
            writer.writerow(prediction)
