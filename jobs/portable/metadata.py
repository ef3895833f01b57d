"""Description of a checkpoint for readers outside of this package: what they need apart from weights and words."""

from typing import NotRequired, TypedDict

from jobs.model.checkpoint import Checkpoint


class ModelMetadata(TypedDict):
    """Values in JSON. checkpoint: SHA-256 of its manifest, which identifies the contents."""

    labels: list[str]
    multi_label: bool
    label_thresholds: NotRequired[list[float]]
    temperature: float
    tokenizer: str
    lowercase: bool
    max_tokens: int
    max_edit_distance: int
    checkpoint: str


def describe_model(checkpoint: Checkpoint) -> ModelMetadata:
    """Return the description of a checkpoint; thresholds only with several labels per text."""
    text = checkpoint.experiment.text
    metadata: ModelMetadata = {
        "labels": checkpoint.labels,
        "multi_label": checkpoint.is_multi_label,
        "temperature": checkpoint.temperature,
        "tokenizer": text.tokenizer,
        "lowercase": text.lowercase,
        "max_tokens": text.max_tokens,
        "max_edit_distance": text.max_edit_distance,
        "checkpoint": checkpoint.manifest_sha256,
    }
    if checkpoint.is_multi_label:
        metadata["label_thresholds"] = checkpoint.label_thresholds.tolist()
    return metadata
