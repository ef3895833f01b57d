"""What goes over HTTP, as Hugging Face's clients for text classification speak it. No Ray, no network here.

`POST /` answers as the hosted inference API does, always a list of lists; `POST /predict` as
text-embeddings-inference does, a flat list for one text.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError


class RequestError(Exception):
    """A request that cannot be answered; `status` is its HTTP status, from 400 to 499."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Limits(BaseModel):
    """What one request may hold."""

    model_config = ConfigDict(extra="forbid")

    max_body_bytes: int = Field(1 << 20, ge=1)
    max_texts: int = Field(256, ge=1)


class Parameters(BaseModel):
    top_k: int | None = Field(None, ge=1)
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = None


class Body(BaseModel):
    inputs: str | list[str | list[str]]
    parameters: Parameters | None = None
    raw_scores: bool = False
    """Of text-embeddings-inference: scores as they are, which is `function_to_apply` none."""


@dataclass(frozen=True)
class Request:
    """A request understood. single: one text was sent, not a list. top_k: None for all labels."""

    texts: list[str]
    single: bool
    top_k: int | None
    function: str


def parse(body: bytes, limits: Limits) -> Request:
    """Return the request in a body.

    Raises:
        RequestError: 413 too many texts, 400 not JSON, 422 not what the contract asks for.
    """
    try:
        found = Body.model_validate_json(body)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        if problem["type"] == "json_invalid":
            raise RequestError(400, f"the body is not valid JSON: {problem['ctx']['error']}") from error
        place = ".".join(str(part) for part in problem["loc"] if isinstance(part, int) or part in _FIELDS)
        raise RequestError(422, f"{place or 'the body'}: {problem['msg']}") from error
    single = isinstance(found.inputs, str)
    texts = [found.inputs] if isinstance(found.inputs, str) else [_text(item) for item in found.inputs]
    if not texts:
        raise RequestError(422, "inputs: is empty; send a text or a list of texts")
    if len(texts) > limits.max_texts:
        raise RequestError(413, f"inputs: has {len(texts)} texts; at most {limits.max_texts} are read at once")
    parameters = found.parameters or Parameters()
    function = parameters.function_to_apply or ("none" if found.raw_scores else "softmax")
    return Request(texts, single, parameters.top_k, function)


def answer(request: Request, scores: np.ndarray, labels: list[str], *, flat: bool) -> bytes:
    """Return the JSON answer.

    Args:
        scores: logits, `(texts, classes)`.
        flat: answer a single text with a list, not with a list of one list.
    """
    values = apply(request.function, scores)
    rows = []
    for row in values:
        best = np.argsort(-row, kind="stable")[: request.top_k]
        rows.append([{"label": labels[place], "score": float(row[place])} for place in best])
    found: Any = rows[0] if flat and request.single else rows
    return json.dumps(found, ensure_ascii=False).encode()


def apply(function: str, scores: np.ndarray) -> np.ndarray:
    """Return scores after softmax, sigmoid or nothing, along the last axis."""
    if function == "softmax":
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return powers / powers.sum(axis=-1, keepdims=True)
    if function == "sigmoid":
        return 1 / (1 + np.exp(-scores))
    return scores


def error(message: str) -> bytes:
    """Return the JSON body of an error."""
    return json.dumps({"error": message}, ensure_ascii=False).encode()


_FIELDS = {*Body.model_fields, *Parameters.model_fields}


def _text(item: str | list[str]) -> str:
    if isinstance(item, str):
        return item
    if len(item) != 1:  # text-embeddings-inference wraps each text of a batch; two would be a pair
        raise RequestError(422, f"inputs: a list within the list holds one text, not {len(item)}")
    return item[0]
