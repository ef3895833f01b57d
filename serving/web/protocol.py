"""What goes over HTTP, as Hugging Face's clients for text classification speak it. No Ray, no network here.

`POST /` answers as the hosted inference API does, always a list of lists; `POST /predict` as
text-embeddings-inference does, a flat list for one text. A list of texts is a batch on both, as with the hosted API;
text-embeddings-inference would read one of two as a pair, which a classifier of single texts has no use for, and
writes a batch as lists of one text. Its `truncate` and `truncation_direction` are passed over: of a long text the
first words are read, as in training.
"""

import json
from collections.abc import Sequence
from math import exp
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from jobs.inference.explanation import Explainer

# What explanations of one answer may take in all; without a limit a small request could ask for gigabytes.
MAX_EXPLANATION_BYTES = 8_000_000


class RequestError(Exception):
    """A request that cannot be answered; `status` is its HTTP status, from 400 to 499, `headers` go with it."""

    def __init__(self, status: int, message: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers


class Limits(BaseModel):
    """What one request may hold; beyond it the answer is 413."""

    model_config = ConfigDict(extra="forbid")

    max_body_bytes: int = Field(1 << 20, ge=1)
    max_texts: int = Field(256, ge=1)
    max_text_length: int = Field(100_000, ge=1)  # characters
    max_explained_texts: int = Field(16, ge=1)


def _integer(value: object) -> object:
    """Return 3 for 3.0, which JSON does not tell apart."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Parameters(BaseModel):
    """How scores are answered; what is null or missing is as if it were not there."""

    top_k: Annotated[
        Annotated[int, Field(ge=1, strict=True)] | None,
        BeforeValidator(_integer),
        Field(description="Labels for a text; all by default."),
    ] = None
    function_to_apply: Annotated[
        Literal["softmax", "sigmoid", "none"] | None, Field(description="From logits to scores; softmax by default.")
    ] = None
    threshold: Annotated[
        float | None, Field(strict=True, allow_inf_nan=False, description="Labels below this score are left out.")
    ] = None
    explain: Annotated[bool | None, Field(strict=True, description="Say which phrases decided.")] = None


SingleTextList = Annotated[list[str], Field(min_length=1, max_length=1)]


class Body(BaseModel):
    """A question. Other fields are passed over."""

    inputs: Annotated[
        str | Annotated[list[str], Field(min_length=1)] | Annotated[list[SingleTextList], Field(min_length=1)],
        Field(union_mode="left_to_right", description="A text, a list of texts, or a list of lists of one text."),
    ]
    parameters: Parameters | None = None
    raw_scores: Annotated[
        bool | None, Field(strict=True, description="As text-embeddings-inference: the logits, no function applied.")
    ] = None
    explain: Annotated[bool | None, Field(strict=True, description="As parameters.explain.")] = None


class ClassificationRequest(NamedTuple):
    """A request understood. single: one text was sent, not a list. top_k: None for all labels."""

    texts: list[str]
    single: bool
    top_k: int | None
    function: str
    threshold: float | None
    explain: bool


_validate = Body.__pydantic_validator__.validate_json
_DEFAULTS = Parameters()


def parse_request(body: bytes, limits: Limits) -> ClassificationRequest:
    """Return the request in a body.

    Raises:
        RequestError: 413 over a limit, 400 not JSON, 422 not what the contract asks for.
    """
    try:
        found = _validate(body)
    except ValidationError as error:
        raise _refusal(error) from error
    inputs = found.inputs
    single = isinstance(inputs, str)
    # text-embeddings-inference wraps each text of a list in a list of its own
    texts = [inputs] if single else [each if isinstance(each, str) else each[0] for each in inputs]
    parameters = found.parameters or _DEFAULTS
    explain = bool(parameters.explain or found.explain)
    if len(texts) > limits.max_texts:
        raise RequestError(413, f"inputs: has {len(texts)} texts; at most {limits.max_texts} are read at once")
    if explain and len(texts) > limits.max_explained_texts:
        raise RequestError(
            413, f"inputs: has {len(texts)} texts; at most {limits.max_explained_texts} are explained at once"
        )
    for text in texts:
        if len(text) > limits.max_text_length:
            raise RequestError(
                413, f"inputs: a text has {len(text)} characters; at most {limits.max_text_length} are read"
            )
    function = parameters.function_to_apply or ("none" if found.raw_scores else "softmax")
    return ClassificationRequest(texts, single, parameters.top_k, function, parameters.threshold, explain)


def _refusal(error: ValidationError) -> RequestError:
    """Return what is wrong in words that name the field."""
    problems = error.errors(include_url=False, include_input=False)
    problem = problems[0]
    if problem["type"] == "json_invalid":
        return RequestError(400, f"the body is not valid JSON: {problem['ctx']['error']}")
    if problem["loc"][:1] == ("inputs",) and problem["type"] != "missing":
        return RequestError(
            422,
            "inputs: must be a text, or a list that is not empty, of texts or of lists of one text; "
            "pairs of texts are not classified",
        )
    place = ".".join(str(part) for part in problem["loc"] if isinstance(part, int) or part in _FIELDS)
    return RequestError(422, f"{place or 'the body'}: {problem['msg']}")


_FIELDS = {*Body.model_fields, *Parameters.model_fields}


# Of a score in an answer: more than that of the float32 that it comes from means nothing.
SCORE_DIGITS = 9


def format_score(score: float) -> str:
    """Return a score as it is written in answers."""
    told = f"{score:.{SCORE_DIGITS}g}"
    return told if "." in told or "e" in told else f"{told}.0"


def encode_label_prefix(label: str) -> str:
    """Return what stands before the score of a label in answers."""
    return f'{{"label": {json.dumps(label, ensure_ascii=False)}, "score": '


class ResponseEncoder:
    """Labels as they are written in answers."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._starts = [encode_label_prefix(label) for label in labels]

    def encode(
        self, request: ClassificationRequest, scores: list[list[float]], reasons: list[Explainer], *, flat: bool
    ) -> bytes:
        """Return the JSON answer.

        Args:
            scores: after the function was applied, of each text for each label.
            reasons: of each text, where they are asked for.
            flat: answer a single text with a list, not with a list of one list.

        Raises:
            RequestError: explanations of so many labels and texts would be too long.
        """
        starts, rows, explained = self._starts, [], 0
        for text, row in enumerate(scores):
            best = sorted(range(len(row)), key=row.__getitem__, reverse=True)[: request.top_k]
            if request.threshold is not None:
                best = [place for place in best if row[place] >= request.threshold]
            if request.explain:
                explained += len(best) * reasons[text].estimated_json_bytes
                if explained > MAX_EXPLANATION_BYTES:
                    raise RequestError(
                        413,
                        f"the explanations would take more than {MAX_EXPLANATION_BYTES // 1_000_000} MB; ask for fewer "
                        "labels (parameters.top_k), or for fewer or shorter texts at once",
                    )
                told = [json.dumps(reasons[text].explain(place), default=vars, ensure_ascii=False) for place in best]
                cells = [
                    f'{starts[place]}{format_score(row[place])}, "explanation": {each}}}'
                    for place, each in zip(best, told, strict=True)
                ]
            else:
                cells = [f"{starts[place]}{format_score(row[place])}}}" for place in best]
            rows.append(f"[{', '.join(cells)}]")
        return (rows[0] if flat and request.single else f"[{', '.join(rows)}]").encode()


def apply_function(function: str, scores: Sequence[float]) -> list[float]:
    """Return a text's scores after softmax, sigmoid or nothing."""
    if function == "softmax":
        highest = max(scores)
        powers = [exp(score - highest) for score in scores]
        total = sum(powers)
        return [power / total for power in powers]
    if function == "sigmoid":
        return [1 / (1 + exp(-score)) if score > 0 else exp(score) / (1 + exp(score)) for score in scores]
    return list(scores)


def encode_error(message: str) -> bytes:
    """Return the JSON body of an error."""
    return json.dumps({"error": message}, ensure_ascii=False).encode("utf-8", "replace")
