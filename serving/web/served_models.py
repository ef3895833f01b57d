"""Models that a replica serves: a primary checkpoint, and optionally a candidate."""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic, perf_counter
from typing import Annotated, Any, TypedDict

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster import UsageError
from cluster.storage import join, read_text
from jobs.config.text_distribution import find_distribution
from jobs.inference.classifier import Classifier
from jobs.inference.projection_table import DEFAULT_TABLE_BYTES, DEFAULT_TABLE_DTYPE, TableDtype
from jobs.model.checkpoint import CheckpointError, load_checkpoint
from jobs.model.checkpoint_locations import locate_snapshot, resolve_checkpoint
from serving.web.compiled_scorer import CompiledScorer, ScoredTexts
from serving.web.distribution import DistributionWindow
from serving.web.metrics import MAX_SAMPLES, ModelCounters, ModelCounts
from serving.web.protocol import ClassificationRequest, Limits

MAX_MODELS = 100  # of a `user_config`, besides the checkpoint and its candidate
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$")]


class UserConfigError(UsageError):
    """A `user_config` is invalid."""


class CandidateError(UserConfigError):
    """The candidate of a `user_config` cannot be served; its checkpoint can."""


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
    models: further checkpoints by name, at `/models/NAME` and `/models/NAME/predict`.
    """

    model_config = ConfigDict(extra="forbid")

    checkpoint: str
    candidate: CandidateConfig | None = None
    previous: str | None = None
    models: dict[ModelName, str] = Field(default={}, max_length=MAX_MODELS)


class ModelInfo(TypedDict):
    """Description of a model in `/info`.

    manifest: SHA-256 of the checkpoint's manifest; vocabulary: its size; text_column, label_column: what the classifier
    predicts from what, in the words of its training data. multi_label: a text may have several labels.
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
    multi_label: bool


@dataclass
class ServedModel:
    """A checkpoint that is ready to classify.

    name: of its experiment, and the start of its manifest's SHA-256; header: the response header with the name.
    default_function: of requests that name none. thresholds: scores from which a text gets each label, with several
    labels per text. window: of its texts; None if the checkpoint stores no distribution.
    """

    name: str
    header: tuple[bytes, bytes]
    classifier: Classifier
    info: ModelInfo
    counters: ModelCounters
    scorer: CompiledScorer
    default_function: str = "softmax"
    thresholds: Sequence[float] | None = None
    window: DistributionWindow | None = None

    @property
    def memory_bytes(self) -> int:
        """Size in bytes of what it holds, including what it shares with other processes."""
        return self.classifier.memory_bytes + self.scorer.memory_bytes

    def score(self, request: ClassificationRequest) -> ScoredTexts:
        """Return the scores of each text after the request's function; update the counters."""
        latencies_s = self.counters.latencies_s
        if len(latencies_s) >= MAX_SAMPLES:
            return self.scorer.score(request.texts, request.function)
        start = perf_counter()
        scored = self.scorer.score(request.texts, request.function)
        latencies_s.append(perf_counter() - start)
        return scored

    def take_counters(self) -> ModelCounters:
        """Return the counters and reset them."""
        counters, self.counters = self.counters, ModelCounters(len(self.classifier.labels))
        self.scorer.flush_counts(counters)
        return counters

    def take_counts(self, role: str) -> ModelCounts:
        """Return the counters for a flush and reset them, and add them to the window."""
        counters, distances = self.take_counters(), None
        if self.window is not None:
            self.window.add(counters.label_counts, counters.bins, monotonic())
            distances = self.window.measure()
        return ModelCounts(role, self.name, self.classifier.labels, counters, distances)


@dataclass(frozen=True)
class ServedModels:
    """The primary model, and the candidate if there is one. candidate_error: why that cannot be served."""

    user_config: UserConfig
    primary: ServedModel
    candidate: ServedModel | None = None
    candidate_error: CandidateError | None = None

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
        kind = CandidateError if key.startswith("candidate") else UserConfigError
        raise kind(f"user_config: {key}: {problem['msg']}") from error


def load_models(
    config: UserConfig,
    previous: ServedModels | None = None,
    table_bytes: int = DEFAULT_TABLE_BYTES,
    table_dtype: TableDtype = DEFAULT_TABLE_DTYPE,
    limits: Limits | None = None,
) -> ServedModels:
    """Return the models of a configuration; models that are loaded already and have not changed are reused.

    A candidate that cannot be read, or whose labels are other ones, is left out, with the reason in `candidate_error`.

    Args:
        table_bytes, table_dtype: memory for the projection table of each model, and its type.
        limits: of a request; by default those of service.yaml.

    Raises:
        CheckpointError, StorageError: the primary checkpoint cannot be read; `previous` stays usable.
    """
    reusable = previous.loaded() if previous else ()
    options = table_bytes, table_dtype, limits or Limits()
    primary = load_model(config.checkpoint, reusable, *options)
    if config.candidate is None:
        return ServedModels(config, primary)
    try:
        candidate = load_model(config.candidate.checkpoint, reusable, *options, partial(_check_labels, primary))
    except UsageError as error:
        return ServedModels(config, primary, candidate_error=CandidateError(str(error)))
    return ServedModels(config, primary, candidate)


def _check_labels(primary: ServedModel, labels: list[str], is_multi_label: bool) -> None:
    """Raise a CheckpointError if a candidate's labels are other ones than those of the primary model."""
    if labels != primary.classifier.labels:
        raise CheckpointError(f"its labels differ from those of {primary.info['checkpoint']}")
    if is_multi_label != primary.classifier.is_multi_label:
        raise CheckpointError("assigns one label per text, or several, unlike the current checkpoint")


def load_model(
    path: str,
    reusable: Sequence[ServedModel],
    table_bytes: int,
    table_dtype: TableDtype,
    limits: Limits,
    check: Callable[[list[str], bool], None] = lambda labels, is_multi_label: None,
) -> ServedModel:
    """Return the model of a checkpoint; one of `reusable` if that is loaded from the path and has not changed.

    Args:
        check: as of `load_checkpoint`.

    Raises:
        CheckpointError, StorageError: the checkpoint cannot be read.
    """
    location = path
    try:
        if reusable and (unchanged := _find_unchanged(path, reusable)):
            check(unchanged.classifier.labels, unchanged.classifier.is_multi_label)
            return unchanged
        checkpoint = load_checkpoint(path, check)
        location = checkpoint.path
        classifier = Classifier(checkpoint, table_bytes, table_dtype=table_dtype)
        stored = find_distribution(checkpoint.metrics)
        scorer = CompiledScorer(classifier, limits.max_texts, count_bins=stored is not None)
    except UsageError as error:
        message = str(error)
        raise CheckpointError(message if message.startswith(location) else f"{location}: {message}") from error
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
        multi_label=checkpoint.is_multi_label,
    )
    model = ServedModel(name, (b"x-checkpoint", name.encode()), classifier, info, ModelCounters(len(labels)), scorer)
    if stored is not None:
        model.window = DistributionWindow(stored)
    if checkpoint.is_multi_label:
        model.default_function, model.thresholds = "sigmoid", checkpoint.label_thresholds.tolist()
    return model


def _find_unchanged(path: str, models: Sequence[ServedModel]) -> ServedModel | None:
    """Return the model that was loaded from a path, if its checkpoint has not changed since."""
    location = resolve_checkpoint(path)
    for model in models:
        if model.info["checkpoint"] == location and model.info["manifest"] == _hash_manifest(location):
            return model
    return None


def _hash_manifest(location: str) -> str:
    return hashlib.sha256(read_text(join(locate_snapshot(location), "manifest.json")).encode()).hexdigest()
