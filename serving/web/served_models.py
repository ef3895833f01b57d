"""The checkpoints that a replica serves: one, and where wanted a candidate beside it."""

import hashlib
import random
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster import UsageError
from cluster.storage import join, read_text
from jobs.inference import projection_table as table
from jobs.inference.classifier import Classifier
from jobs.model import checkpoint
from serving.web.fast_path import Plain
from serving.web.metrics import SAMPLES, Tally
from serving.web.protocol import Labels, Limits, apply
from serving.web.protocol import Request as Question


class ModelsError(UsageError):
    """A `user_config` cannot be served."""


class Candidate(BaseModel):
    """A second checkpoint. weight: share of requests that it answers or, as a shadow, classifies unseen."""

    model_config = ConfigDict(extra="forbid")

    checkpoint: str
    weight: float = Field(ge=0, le=1)
    shadow: bool = False


class Choice(BaseModel):
    """The `user_config` of a Serve configuration."""

    model_config = ConfigDict(extra="forbid")

    checkpoint: str
    candidate: Candidate | None = None


@dataclass
class Model:
    """A checkpoint ready to classify. name: of its experiment and the start of its manifest's SHA-256."""

    name: str
    classifier: Classifier
    labels: Labels
    info: dict[str, Any]
    tally: Tally
    plain: Plain

    def answer(self, body: bytes, *, flat: bool) -> bytes | None:
        """Return the answer to a plain question, counted; None if it has to be parsed (`serving.web.fast_path`)."""
        seconds = self.tally.seconds
        if len(seconds) >= SAMPLES:
            return self.plain.answer(body, flat=flat)
        start = perf_counter()
        told = self.plain.answer(body, flat=flat)
        if told is not None:
            seconds.append(perf_counter() - start)
        return told

    def score(self, question: Question) -> tuple[list[int], list[list[float]]]:
        """Return each text's best class, and its scores for all as they are asked for; both are counted."""
        tally = self.tally
        start = perf_counter()
        scored = self.classifier.score(question.texts)
        if len(tally.seconds) < SAMPLES:
            tally.seconds.append(perf_counter() - start)
        tally.tokens += scored.tokens
        tally.unknown += scored.unknown
        bests, answers = [], []
        for logits in scored.scores.tolist():
            probabilities = apply("softmax", logits)
            confidence = max(probabilities)
            best = probabilities.index(confidence)
            tally.labels[best] += 1
            tally.confidence += confidence
            bests.append(best)
            answers.append(probabilities if question.function == "softmax" else apply(question.function, logits))
        return bests, answers

    def counted(self) -> Tally:
        """Return the tally, and begin a new one."""
        tally, self.tally = self.tally, Tally(len(self.classifier.labels))
        self.plain.counted(tally)
        return tally


@dataclass(frozen=True)
class Models:
    """What answers, and what is tried beside it."""

    choice: Choice
    main: Model
    candidate: Model | None = None

    def pick(self) -> tuple[Model, Model | None]:
        """Return what answers the next request, and what classifies it unseen."""
        if self.candidate is None or self.choice.candidate is None:
            return self.main, None
        if random.random() >= self.choice.candidate.weight:
            return self.main, None
        return (self.main, self.candidate) if self.choice.candidate.shadow else (self.candidate, None)


def choose(user_config: dict[str, Any]) -> Choice:
    """Return a `user_config` understood; ModelsError names the key that is wrong."""
    try:
        return Choice.model_validate(user_config)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise ModelsError(f"user_config: {where}: {problem['msg']}") from error


def load(
    choice: Choice,
    before: Models | None = None,
    table_bytes: int = table.BYTES,
    max_text_length: int = Limits().max_text_length,
) -> Models:
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
        known = {each.info["manifest"]: each for each in (before.main, before.candidate) if each is not None}
    main = _model(choice.checkpoint, known, table_bytes, max_text_length)
    if choice.candidate is None:
        return Models(choice, main)
    candidate = _model(choice.candidate.checkpoint, known, table_bytes, max_text_length)
    if candidate.classifier.labels != main.classifier.labels:
        raise ModelsError(f"{candidate.info['checkpoint']}: has other labels than {main.info['checkpoint']}")
    return Models(choice, main, candidate)


def _model(path: str, known: dict[str, Model], table_bytes: int, max_text_length: int) -> Model:
    try:
        where = checkpoint.locate(path)
        manifest = hashlib.sha256(read_text(join(where, "manifest.json")).encode()).hexdigest()
    except UsageError:
        raise
    except Exception as error:
        raise checkpoint.CheckpointError(f"{path}: cannot be read: {repr(error)[:300]}") from error
    if manifest in known and known[manifest].info["checkpoint"] == where:
        return known[manifest]
    try:
        _refuse_aliases(read_text(join(where, "experiment.yaml")))
        loaded = checkpoint.read(where)
        classifier = Classifier(loaded, table_bytes)
        plain = Plain(classifier, max_text_length)
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
    return Model(name, classifier, Labels(loaded.labels), info, Tally(len(loaded.labels)), plain)


def _refuse_aliases(settings: str) -> None:
    """Refuse YAML that refers to its own parts: a few lines of it can swell to more than there is memory."""
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(settings, yaml.SafeLoader)):
        raise checkpoint.CheckpointError("experiment.yaml: refers to its own parts, which no checkpoint of ours does")
