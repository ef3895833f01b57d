"""The checkpoints that a replica serves: one, and where wanted a candidate beside it."""

import hashlib
import random
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster import UsageError
from cluster.storage import join, read_text
from jobs.inference import projection_table as table
from jobs.inference.classifier import Classifier
from jobs.model import checkpoint
from serving.web.fast_path import FastPath
from serving.web.metrics import MAX_SAMPLES, ModelCounters
from serving.web.protocol import ClassificationRequest as Question
from serving.web.protocol import Limits, ResponseEncoder, apply_function


class UserConfigError(UsageError):
    """A `user_config` cannot be served."""


class CandidateConfig(BaseModel):
    """A second checkpoint. weight: share of requests that it answers or, as a shadow, classifies unseen."""

    model_config = ConfigDict(extra="forbid")

    checkpoint: str
    weight: float = Field(ge=0, le=1)
    shadow: bool = False


class UserConfig(BaseModel):
    """The `user_config` of a Serve configuration."""

    model_config = ConfigDict(extra="forbid")

    checkpoint: str
    candidate: CandidateConfig | None = None


@dataclass
class ServedModel:
    """A checkpoint ready to classify. name: of its experiment and the start of its manifest's SHA-256."""

    name: str
    classifier: Classifier
    response_encoder: ResponseEncoder
    info: dict[str, Any]
    counters: ModelCounters
    fast_path: FastPath

    def try_fast_path(self, body: bytes, *, flat: bool) -> bytes | None:
        """Return the answer to a plain question, counted; None if it has to be parsed (`serving.web.fast_path`)."""
        seconds = self.counters.latencies_s
        if len(seconds) >= MAX_SAMPLES:
            return self.fast_path.try_classify(body, flat=flat)
        start = perf_counter()
        told = self.fast_path.try_classify(body, flat=flat)
        if told is not None:
            seconds.append(perf_counter() - start)
        return told

    def score(self, question: Question) -> tuple[list[int], list[list[float]]]:
        """Return each text's best class, and its scores for all as they are asked for; both are counted."""
        tally = self.counters
        start = perf_counter()
        scored = self.classifier.score_texts(question.texts)
        if len(tally.latencies_s) < MAX_SAMPLES:
            tally.latencies_s.append(perf_counter() - start)
        tally.tokens += scored.num_tokens
        tally.unknown_tokens += scored.num_unknown
        bests, answers = [], []
        for logits in scored.logits.tolist():
            probabilities = apply_function("softmax", logits)
            confidence = max(probabilities)
            best = probabilities.index(confidence)
            tally.label_counts[best] += 1
            tally.confidence_sum += confidence
            bests.append(best)
            answers.append(
                probabilities if question.function == "softmax" else apply_function(question.function, logits)
            )
        return bests, answers

    def take_counters(self) -> ModelCounters:
        """Return the tally, and begin a new one."""
        tally, self.counters = self.counters, ModelCounters(len(self.classifier.labels))
        self.fast_path.flush_counts(tally)
        return tally


@dataclass(frozen=True)
class ServedModels:
    """What answers, and what is tried beside it."""

    user_config: UserConfig
    primary: ServedModel
    candidate: ServedModel | None = None

    def select(self) -> tuple[ServedModel, ServedModel | None]:
        """Return what answers the next request, and what classifies it unseen."""
        if self.candidate is None or self.user_config.candidate is None:
            return self.primary, None
        if random.random() >= self.user_config.candidate.weight:
            return self.primary, None
        return (self.primary, self.candidate) if self.user_config.candidate.shadow else (self.candidate, None)


def parse_user_config(user_config: dict[str, Any]) -> UserConfig:
    """Return a `user_config` understood; ModelsError names the key that is wrong."""
    try:
        return UserConfig.model_validate(user_config)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise UserConfigError(f"user_config: {where}: {problem['msg']}") from error


def load_models(
    choice: UserConfig,
    before: ServedModels | None = None,
    table_bytes: int = table.DEFAULT_TABLE_BYTES,
    max_text_length: int = Limits().max_text_length,
) -> ServedModels:
    """Return the models of a choice; those that are loaded already are taken over, if nothing in them changed.

    Args:
        table_bytes: memory for each one's table.
        max_text_length: characters of a plain question's text at most.

    Raises:
        CheckpointError, StorageError: one cannot be read; nothing of `before` is touched.
        ModelsError: the two do not have the same labels.
    """
    known = {}
    if before is not None:
        known = {each.info["manifest"]: each for each in (before.primary, before.candidate) if each is not None}
    main = _model(choice.checkpoint, known, table_bytes, max_text_length)
    if choice.candidate is None:
        return ServedModels(choice, main)
    candidate = _model(choice.candidate.checkpoint, known, table_bytes, max_text_length)
    if candidate.classifier.labels != main.classifier.labels:
        raise UserConfigError(f"{candidate.info['checkpoint']}: has other labels than {main.info['checkpoint']}")
    return ServedModels(choice, main, candidate)


def _model(path: str, known: dict[str, ServedModel], table_bytes: int, max_text_length: int) -> ServedModel:
    try:
        where = checkpoint.resolve_checkpoint(path)
        manifest = hashlib.sha256(read_text(join(where, "manifest.json")).encode()).hexdigest()
    except UsageError:
        raise
    except Exception as error:
        raise checkpoint.CheckpointError(f"{path}: cannot be read: {repr(error)[:300]}") from error
    if manifest in known and known[manifest].info["checkpoint"] == where:
        return known[manifest]
    try:
        loaded = checkpoint.load_checkpoint(where)
        classifier = Classifier(loaded, table_bytes)
        plain = FastPath(classifier, max_text_length)
    except checkpoint.CheckpointError as error:
        told = str(error)
        raise checkpoint.CheckpointError(told if where in told else f"{where}: {told}") from error
    except Exception as error:  # whatever a stranger's files lead to is no reason to stop serving
        raise checkpoint.CheckpointError(f"{where}: cannot be read: {repr(error)[:300]}") from error
    name = f"{loaded.experiment.name}-{manifest[:8]}"
    info = {
        "checkpoint": where,
        "name": name,
        "manifest": manifest,
        "labels": loaded.labels,
        "model": loaded.experiment.model.model_dump(),
        "text": loaded.experiment.text.model_dump(),
        "vocabulary": len(loaded.words),
        "metrics": loaded.metrics,
    }
    return ServedModel(name, classifier, ResponseEncoder(loaded.labels), info, ModelCounters(len(loaded.labels)), plain)
