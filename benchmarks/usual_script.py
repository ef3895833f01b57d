"""The usual hand-written script for a CNN over word vectors: what `benchmarks/commands.py` compares training with."""

import random
import re
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from gensim.models import KeyedVectors
from torch import Tensor, nn

FILTER_WIDTHS, FEATURE_MAPS = (3, 4, 5), 100  # the default of this project


class KimNetwork(nn.Module):
    """Embedding, a convolution per width, maximum over time, dropout, linear output."""

    def __init__(self, vectors: np.ndarray, num_classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(torch.from_numpy(vectors), freeze=False, padding_idx=0)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(vectors.shape[1], FEATURE_MAPS, width, padding=width - 1) for width in FILTER_WIDTHS
        )
        self.output = nn.Linear(len(FILTER_WIDTHS) * FEATURE_MAPS, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits `(texts, classes)` of padded word ids `(texts, length)`."""
        embedded = self.embedding(tokens).transpose(1, 2)  # (texts, dimensions, length)
        features = [F.relu(convolution(embedded)).amax(dim=2) for convolution in self.convolutions]
        return self.output(F.dropout(torch.cat(features, dim=1), 0.5, self.training))


def train_and_save(
    texts: Sequence[str], labels: Sequence[str], vectors_path: str, target: str, *, batch_size: int, epochs: int
) -> None:
    """Train on nine tenths of the rows, measure each epoch on the others, and save the best epoch with torch.save.

    Args:
        vectors_path: a word2vec binary file; only the words of the texts get a vector.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenized = [re.findall(r"\w+|[^\w\s]", text.lower()) for text in texts]
    keyed = KeyedVectors.load_word2vec_format(vectors_path, binary=True)
    ids = {word: number for number, word in enumerate(sorted({word for words in tokenized for word in words}), 2)}
    generator = np.random.default_rng(0)
    vectors = generator.uniform(-0.25, 0.25, (len(ids) + 2, keyed.vector_size)).astype(np.float32)
    vectors[0] = 0
    for word, number in ids.items():
        if word in keyed:
            vectors[number] = keyed[word]
    classes = sorted(set(labels))
    rows = [
        (torch.tensor([ids[word] for word in words] or [1]), classes.index(label))
        for words, label in zip(tokenized, labels, strict=True)
    ]
    random.Random(0).shuffle(rows)
    split = len(rows) // 10
    validation, training = rows[:split], rows[split:]
    network = KimNetwork(vectors, len(classes))
    optimizer = torch.optim.Adam(network.parameters())
    best = -1.0
    for epoch in range(epochs):
        random.Random(epoch).shuffle(training)
        network.train()
        for tokens, targets in _iter_batches(training, batch_size):
            optimizer.zero_grad()
            F.cross_entropy(network(tokens), targets).backward()
            optimizer.step()
        network.eval()
        with torch.inference_mode():
            correct = sum(
                int((network(tokens).argmax(1) == targets).sum()) for tokens, targets in _iter_batches(validation, 256)
            )
        accuracy = correct / max(1, len(validation))
        if accuracy > best:
            best = accuracy
            torch.save({"weights": network.state_dict(), "words": list(ids), "classes": classes}, target)


def _iter_batches(rows: Sequence[tuple[Tensor, int]], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield padded word ids `(texts, length)` and classes `(texts,)`."""
    for start in range(0, len(rows), batch_size):
        tokens, targets = zip(*rows[start : start + batch_size], strict=True)
        yield nn.utils.rnn.pad_sequence(tokens, batch_first=True), torch.tensor(targets)
