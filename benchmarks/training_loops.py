"""Training steps of the two sides of benchmarks/training.py: the usual hand-written loop, and this project's.

Needs only torch and numpy, for machines with a GPU and nothing else installed.
"""

import gzip
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jobs.datasets.tokenizer import Tokens, Vocabulary, count_words, encode, tokenize
from jobs.model.batches import make_epoch_batches
from jobs.model.gpu.rates import schedule_rates
from jobs.model.network import Network
from jobs.training.corpora.token_blocks import TokenBlocks
from jobs.training.loop import Loop
from jobs.training.process_group import ProcessGroup

DATASETS = {"mr": ("mr/all.tsv", 21, 20_000), "imdb": ("imdb/train.tsv.gz", 234, 80_000)}
DIMENSIONS, FILTER_WIDTHS, FEATURE_MAPS = 300, [3, 4, 5], 100


class LabelledTexts:
    """Encoded texts with labels, as the loop expects them."""

    def __init__(self, tokens: Tokens, labels: np.ndarray) -> None:
        self.tokens, self.labels = tokens, labels

    def __len__(self) -> int:
        return len(self.labels)


def make_benchmark_corpus(name: str, rows: int, folder: Path) -> tuple[Any, str]:
    """Return a corpus with at most `rows` rows and random vectors, and the source of its texts."""
    path, length, num_words = DATASETS[name]
    random = np.random.default_rng(0)
    if (folder / path).exists():
        texts = list(read_tokens(folder / path, rows))
        words = [word for word, _ in count_words(texts, 100_000)]
        tokens, source = encode(texts, Vocabulary(words), 1000), name
    else:
        lengths = np.clip(random.lognormal(np.log(length), 0.5, rows).astype(int), 1, 1000)
        ids = np.minimum(random.zipf(1.2, lengths.sum()) + 1, num_words + 1).astype(np.int32)
        tokens, source = Tokens(ids, np.concatenate([[0], lengths.cumsum()])), f"random, as long as {name}"
        words = [""] * num_words
    return add_random_vectors(tokens, len(words) + 2), source


def add_random_vectors(tokens: Tokens, num_words: int) -> Any:
    """Return a corpus with random vectors of norm 3 and random labels of two classes."""
    random = np.random.default_rng(1)
    vectors = random.standard_normal((num_words, DIMENSIONS), dtype=np.float32) * (3 / DIMENSIONS**0.5)
    vectors[0] = 0
    part = LabelledTexts(tokens, random.integers(0, 2, len(tokens)))
    is_pretrained = np.ones(num_words, bool)
    return SimpleNamespace(
        train=part, validation=part, token_blocks=TokenBlocks(tokens), labels=["0", "1"], vectors=vectors,
        pretrained=is_pretrained,
    )  # fmt: skip


def read_tokens(path: Path, rows: int) -> Iterator[list[str]]:
    """Yield the tokens of rows at equal distances in a file of `label<TAB>text`."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(encoding="utf-8") as stream:
        lines = stream.readlines()[1:]
    for number in np.linspace(0, len(lines) - 1, min(rows, len(lines))).astype(int):
        yield tokenize(lines[number].partition("\t")[2])


class BaselineNetwork(nn.Module):
    """The network with torch's own layers."""

    def __init__(self, vectors: np.ndarray, *, static: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(torch.from_numpy(vectors.copy()), freeze=static, padding_idx=0)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(DIMENSIONS, FEATURE_MAPS, width, padding=width - 1) for width in FILTER_WIDTHS
        )
        self.output = nn.Linear(len(FILTER_WIDTHS) * FEATURE_MAPS, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits `(rows, 2)` of padded token indices `(rows, length)`."""
        embedded = self.embedding(tokens).transpose(1, 2)  # (rows, dimensions, length)
        features = [F.relu(convolution(embedded)).amax(dim=2) for convolution in self.convolutions]
        return self.output(F.dropout(torch.cat(features, dim=1), 0.5, self.training))


def baseline_steps(
    corpus: Any,
    static: bool,
    batch_size: int,
    device: str,
    *,
    precision: str = "float32",
    fused: bool = False,
    compiled: bool = False,
) -> Iterator[int]:
    """Train with the usual loop; yield the number of rows after each step.

    Args:
        fused: with torch's fused Adam. compiled: with torch.compile.
    """
    module: Any = BaselineNetwork(corpus.vectors, static=static).to(device)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    adam = torch.optim.Adam(trained, fused=fused)
    network = torch.compile(module, dynamic=True) if compiled else module
    tokens, labels = corpus.train.tokens, torch.from_numpy(corpus.train.labels)
    texts = [torch.from_numpy(tokens.ids[a:b]).long() for a, b in zip(tokens.offsets, tokens.offsets[1:], strict=False)]
    random = np.random.default_rng(0)
    while True:
        rows = random.permutation(len(texts))
        for start in range(0, len(rows), batch_size):
            chosen = rows[start : start + batch_size]
            padded = nn.utils.rnn.pad_sequence([texts[row] for row in chosen], batch_first=True).to(device)
            adam.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
                loss = F.cross_entropy(network(padded), labels[chosen].to(device))
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            yield len(chosen)


def make_loop(corpus: Any, embedding: str, batch_size: int, device: str, precision: str, group: ProcessGroup) -> Loop:
    """Return this project's loop. The settings are not the project's classes, which need pydantic."""
    model: Any = SimpleNamespace(
        embedding=embedding,
        trained_words="all",
        filter_widths=FILTER_WIDTHS,
        feature_maps=FEATURE_MAPS,
        dropout=0.5,
        max_norm=3.0,
    )
    settings: Any = SimpleNamespace(
        batch_size=batch_size, learning_rate=1e-3, decay="none", weight_decay=0.0, vectors_learning_rate=1e-3,
        vectors_pull=0.0, frozen_epochs=0, metric="accuracy", epochs=1, patience=1, precision=precision,
    )  # fmt: skip
    network = Network(model, corpus.vectors, 2).to(device)
    return Loop(network, corpus, settings, 0, group, device)


def project_steps(
    corpus: Any,
    embedding: str,
    batch_size: int,
    device: str,
    precision: str = "float32",
    group: ProcessGroup | None = None,
    static: Mapping[str, bool] | None = None,
) -> Iterator[int]:
    """Train with this project's loop; yield the number of rows after each step.

    Args:
        static: choices of `StaticSteps`, to train with steps of static shapes; None for those of a CPU.
    """
    loop = make_loop(corpus, embedding, batch_size, device, precision, group or ProcessGroup())
    loop.network.train()
    if static is not None:
        loop.use_static_steps(**static)
    epoch = 0
    while True:
        epoch += 1
        batches = make_epoch_batches(corpus.train.tokens.lengths, batch_size, 0, epoch)
        if static is not None:
            assert loop.static_steps is not None
            rates = schedule_rates(loop.settings, loop.vectors_learning_rate, 1, len(batches))
            steps = loop.static_steps.iter_steps(batches, 0, epoch, rates, 0.0)
            yield from (len(rows) for rows, _ in zip(batches, steps, strict=True))
            continue
        for number, rows in enumerate(batches):
            loop.step(rows, epoch, number)
            yield len(rows)
