"""Reference of the classifier: the torch network of a checkpoint, its logits and probabilities."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from jobs.datasets.tokenization.text_tokens import tokenize_texts
from jobs.datasets.tokenizer import Tokens, encode
from jobs.model.batches import Collator, iter_batches_by_length
from jobs.model.checkpoint import Checkpoint
from jobs.model.network import Network

BATCH_SIZE = 256


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
def predict_logits(network: Network, tokens: Tokens, device: torch.device | str = "cpu") -> Tensor:
    """Return the logits of texts, `(texts, classes)` float32 on the CPU."""
    network.eval()
    collator = Collator(tokens, len(network.initial_vectors), device)
    logits = torch.empty(len(tokens), len(network.output))
    for rows in iter_batches_by_length(tokens.lengths, BATCH_SIZE):
        logits[rows] = network(collator.collate(rows)).cpu()
    return logits


def predict_proba(checkpoint: Checkpoint, texts: Sequence[str]) -> np.ndarray:
    """Return the probability of each class for each text, `(texts, classes)` float32."""
    settings = checkpoint.experiment.text
    tokens = encode(tokenize_texts(texts, settings), checkpoint.vocabulary, settings.max_tokens)
    logits = predict_logits(build_network(checkpoint), tokens) / checkpoint.temperature
    return (logits.sigmoid() if checkpoint.is_multi_label else torch.softmax(logits, dim=1)).numpy()
