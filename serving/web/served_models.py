"""Models that a replica serves: a primary checkpoint, and optionally a candidate."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple, TypedDict

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster import UsageError
from cluster.storage import join, read_text
from jobs.inference.classifier import Classifier
from jobs.inference.projection_table import DEFAULT_TABLE_BYTES
from jobs.model.checkpoint import CheckpointError, load_checkpoint, resolve_checkpoint
from serving.web.fast_path import FastPath
from serving.web.metrics import MAX_SAMPLES, ModelCounters
from serving.web.protocol import ClassificationRequest, Limits, ResponseEncoder, apply_function


class UserConfigError(UsageError):
    """A `user_config` is invalid."""


class CandidateConfig(BaseModel):
    """A second checkpoint. weight: share of the requests that it responds to or, as a shadow, only classifies."""

    model_config = ConfigDict(extra="forbid")

    checkpoint: str
    weight: float = Field(ge=0, le=1)
    shadow: bool = False


class UserConfig(BaseModel):
    """The `user_config` of a Serve configuration.

    previous: the checkpoint that was served before. `finetune-cnn service rollback` returns to it, and a new replica
        serves it if it refuses `checkpoint`.
    """

    model_config = ConfigDict(extra="forbid")

    checkpoint: str
    candidate: CandidateConfig | None = None
    previous: str | None = None


class ScoredTexts(NamedTuple):
    """Best class and scores of each text, and the share of unknown words in all of them, in thousandths."""

    best_classes: list[int]
    scores: list[list[float]]
    unknown_permille: int


class ModelInfo(TypedDict):
    """Description of a model in `/info`.

    manifest: SHA-256 of the checkpoint's manifest; vocabulary: its size; text_column, label_column: what the classifier
    predicts from what, in the words of its training data.
    """

    checkpoint: str
    name: str
    experiment: str
    text_column: str
    label_column: str
    manifest: str
    labels: list[str]
    model: dict[str, Any]
    text: dict[str, Any]
    vocabulary: int
    metrics: dict[str, Any]


@dataclass
class ServedModel:
    """A checkpoint that is ready to classify.

    name: of its experiment, and the start of its manifest's SHA-256; header: the response header with the name.
    """

    name: str
    header: tuple[bytes, bytes]
    classifier: Classifier
    response_encoder: ResponseEncoder
    info: ModelInfo
    counters: ModelCounters
    fast_path: FastPath

    def try_fast_path(self, body: bytes, *, flat: bool) -> bytes | None:
        """Return the response to a body and update the counters; None if the slow path must parse the body."""
        latencies_s = self.counters.latencies_s
        if len(latencies_s) >= MAX_SAMPLES:
            return self.fast_path.try_classify(body, flat=flat)
        start = perf_counter()
        response = self.fast_path.try_classify(body, flat=flat)
        if response is not None:
            latencies_s.append(perf_counter() - start)
        return response

    def score(self, request: ClassificationRequest) -> ScoredTexts:
        """Return the best class of each text and its scores after the request's function; update the counters."""
        counters = self.counters
        start = perf_counter()
        result = self.classifier.score_texts(request.texts)
        if len(counters.latencies_s) < MAX_SAMPLES:
            counters.latencies_s.append(perf_counter() - start)
        counters.tokens += result.num_tokens
        counters.unknown_tokens += result.num_unknown
        best_classes, scores = [], []
        for logits in result.logits.tolist():
            probabilities = apply_function("softmax", logits)
            confidence = max(probabilities)
            best = probabilities.index(confidence)
            counters.label_counts[best] += 1
            counters.confidence_sum += confidence
            best_classes.append(best)
            scores.append(probabilities if request.function == "softmax" else apply_function(request.function, logits))
        tokens, unknown = result.num_tokens, result.num_unknown
        return ScoredTexts(best_classes, scores, (1000 * unknown + tokens // 2) // tokens if tokens else 0)

    def take_counters(self) -> ModelCounters:
        """Return the counters and reset them."""
        counters, self.counters = self.counters, ModelCounters(len(self.classifier.labels))
        self.fast_path.flush_counts(counters)
        return counters


@dataclass(frozen=True)
class ServedModels:
    """The primary model, and the candidate if there is one."""

    user_config: UserConfig
    primary: ServedModel
    candidate: ServedModel | None = None

    def select(self) -> tuple[ServedModel, ServedModel | None]:
        """Return the model that responds to the next request, and the shadow that also classifies it."""
        if self.candidate is None or self.user_config.candidate is None:
            return self.primary, None
        if random.random() >= self.user_config.candidate.weight:
            return self.primary, None
        return (self.primary, self.candidate) if self.user_config.candidate.shadow else (self.candidate, None)

    def loaded(self) -> tuple[ServedModel, ...]:
        """Return all models."""
        return (self.primary,) if self.candidate is None else (self.primary, self.candidate)


def parse_user_config(user_config: dict[str, Any]) -> UserConfig:
    """Return a parsed `user_config`; UserConfigError names the key that is wrong."""
    try:
        return UserConfig.model_validate(user_config)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise UserConfigError(f"user_config: {key}: {problem['msg']}") from error


def load_models(
    config: UserConfig,
    previous: ServedModels | None = None,
    table_bytes: int = DEFAULT_TABLE_BYTES,
    max_text_length: int = Limits().max_text_length,
) -> ServedModels:
    """Return the models of a configuration; models that are loaded already and have not changed are reused.

    Args:
        table_bytes: memory for the projection table of each model.
        max_text_length: maximum number of characters of a text on the fast path.

    Raises:
        CheckpointError, StorageError: a checkpoint cannot be read; `previous` stays usable.
        UserConfigError: the two checkpoints have different labels.
    """
    reusable = previous.loaded() if previous else ()
    primary = _load_model(config.checkpoint, reusable, table_bytes, max_text_length)
    if config.candidate is None:
        return ServedModels(config, primary)
    candidate = _load_model(config.candidate.checkpoint, reusable, table_bytes, max_text_length)
    if candidate.classifier.labels != primary.classifier.labels:
        raise UserConfigError(
            f"{candidate.info['checkpoint']}: its labels differ from those of {primary.info['checkpoint']}"
        )
    return ServedModels(config, primary, candidate)


def _load_model(path: str, reusable: Sequence[ServedModel], table_bytes: int, max_text_length: int) -> ServedModel:
    location = path
    try:
        if reusable and (unchanged := _find_unchanged(path, reusable)):
            return unchanged
        checkpoint = load_checkpoint(path)
        location = checkpoint.path
        classifier = Classifier(checkpoint, table_bytes)
        fast_path = FastPath(classifier, max_text_length)
    except UsageError as error:
        message = str(error)
        raise CheckpointError(message if location in message else f"{location}: {message}") from error
    except Exception as error:  # no file of an untrusted checkpoint may stop the service
        raise CheckpointError(f"{location}: cannot be read: {repr(error)[:300]}") from error
    manifest, experiment, labels = checkpoint.manifest_sha256, checkpoint.experiment, checkpoint.labels
    name = f"{experiment.name}-{manifest[:8]}"
    info = ModelInfo(
        checkpoint=location,
        name=name,
        experiment=experiment.name,
        text_column=experiment.data.text_column,
        label_column=experiment.data.label_column,
        manifest=manifest,
        labels=labels,
        model=experiment.model.model_dump(),
        text=experiment.text.model_dump(),
        vocabulary=len(checkpoint.words),
        metrics=checkpoint.metrics,
    )
    header, encoder = (b"x-checkpoint", name.encode()), ResponseEncoder(labels)
    return ServedModel(name, header, classifier, encoder, info, ModelCounters(len(labels)), fast_path)


def _find_unchanged(path: str, models: Sequence[ServedModel]) -> ServedModel | None:
    """Return the model that was loaded from a path, if its checkpoint has not changed since."""
    location = resolve_checkpoint(path)
    for model in models:
        if model.info["checkpoint"] == location and model.info["manifest"] == _hash_manifest(location):
            return model
    return None


def _hash_manifest(location: str) -> str:
    return hashlib.sha256(read_text(join(location, "manifest.json")).encode()).hexdigest()
