"""HTTP protocol of the service: that of Hugging Face's clients for text classification. No Ray, no network here.

`POST /` responds like the hosted inference API, always with a list of lists; `POST /predict` like
text-embeddings-inference, with a flat list for a single text. A list of texts is a batch on both, as in the hosted
API. text-embeddings-inference would read a list of two as a pair, which a classifier of single texts cannot use, and
its clients send a batch as lists of one text. Its `truncate` and `truncation_direction` are ignored: a long text is cut
after its first words, as in training. Other options that Hugging Face's clients send are
ignored too. An unknown field is an error: a misspelled one would have no effect.
"""

import json
from collections.abc import Sequence
from difflib import get_close_matches
from math import exp
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from jobs.inference.explanation import Explainer

# Maximum size of the explanations of one response; without it a small request could ask for gigabytes.
MAX_EXPLANATION_BYTES = 8_000_000
SCORE_DIGITS = 9  # significant digits of a score: as many as distinguish float32 values


class RequestError(Exception):
    """A request that is rejected; `status` is the HTTP status of the response (4xx), `headers` belong to it."""

    def __init__(self, status: int, message: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers


class Limits(BaseModel):
    """Limits of one request; beyond them the response is 413."""

    model_config = ConfigDict(extra="forbid")

    max_body_bytes: int = Field(1 << 20, ge=1, description="Size of the body, in bytes.")
    max_texts: int = Field(256, ge=1, description="Number of texts.")
    max_text_length: int = Field(100_000, ge=1, description="Length of a text, in characters (code points).")
    max_explained_texts: int = Field(16, ge=1, description="Number of texts of a request with `explain`.")


def _convert_integral_float(value: object) -> object:
    """Return 3 for 3.0, which JSON does not distinguish."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# An option of other services that Hugging Face's clients send.
Ignored = Annotated[Any, Field(description="Accepted and ignored.")]


class Parameters(BaseModel):
    """Options of a response; null means the default."""

    model_config = ConfigDict(extra="forbid")

    top_k: Annotated[
        Annotated[int, Field(ge=1, strict=True)] | None,
        BeforeValidator(_convert_integral_float),
        Field(description="Number of labels for a text; all by default."),
    ] = None
    function_to_apply: Annotated[
        Literal["softmax", "sigmoid", "none"] | None, Field(description="From logits to scores; softmax by default.")
    ] = None
    threshold: Annotated[
        float | None, Field(strict=True, allow_inf_nan=False, description="Labels below this score are left out.")
    ] = None
    explain: Annotated[bool | None, Field(strict=True, description="Return an explanation of each score.")] = None
    truncation: Ignored = None
    padding: Ignored = None
    max_length: Ignored = None


SingleTextList = Annotated[list[str], Field(min_length=1, max_length=1)]


class Body(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(extra="forbid")

    inputs: Annotated[
        str | Annotated[list[str], Field(min_length=1)] | Annotated[list[SingleTextList], Field(min_length=1)],
        Field(union_mode="left_to_right", description="A text, a list of texts, or a list of lists of one text."),
    ]
    parameters: Parameters | None = None
    raw_scores: Annotated[
        bool | None, Field(strict=True, description="As text-embeddings-inference: the logits, no function applied.")
    ] = None
    explain: Annotated[bool | None, Field(strict=True, description="As parameters.explain.")] = None
    truncate: Ignored = None
    truncation_direction: Ignored = None
    options: Ignored = None


class ClassificationRequest(NamedTuple):
    """A parsed request. single: `inputs` is a text, not a list. top_k: None for all labels."""

    texts: list[str]
    single: bool
    top_k: int | None
    function: str
    threshold: float | None
    explain: bool


_validate = Body.__pydantic_validator__.validate_json
_DEFAULTS = Parameters()
_FIELDS = {*Body.model_fields, *Parameters.model_fields}
# The path of each field that has an effect, by its name.
_PATHS = {
    name: f"{prefix}{name}"
    for model, prefix in ((Parameters, "parameters."), (Body, ""))
    for name, field in model.model_fields.items()
    if field.description != "Accepted and ignored."
}


def parse_request(body: bytes, limits: Limits) -> ClassificationRequest:
    """Return the request in a body.

    Raises:
        RequestError: 413 over a limit, 400 not JSON, 422 a missing or invalid field.
    """
    try:
        parsed: Body = _validate(body)
    except ValidationError as error:
        raise _describe_invalid_body(error) from error
    inputs = parsed.inputs
    single = isinstance(inputs, str)
    # text-embeddings-inference wraps each text of a batch in a list.
    texts = [inputs] if isinstance(inputs, str) else [item if isinstance(item, str) else item[0] for item in inputs]
    parameters = parsed.parameters or _DEFAULTS
    explain = bool(parameters.explain or parsed.explain)
    if len(texts) > limits.max_texts:
        raise RequestError(413, f"inputs: {len(texts)} texts; at most {limits.max_texts} are allowed")
    if explain and len(texts) > limits.max_explained_texts:
        raise RequestError(
            413, f"inputs: {len(texts)} texts; at most {limits.max_explained_texts} are allowed with explain"
        )
    for text in texts:
        if len(text) > limits.max_text_length:
            raise RequestError(
                413, f"inputs: a text has {len(text)} characters; at most {limits.max_text_length} are allowed"
            )
    function = parameters.function_to_apply or ("none" if parsed.raw_scores else "softmax")
    return ClassificationRequest(texts, single, parameters.top_k, function, parameters.threshold, explain)


def _describe_invalid_body(error: ValidationError) -> RequestError:
    """Return an error that names the first unknown or else the first invalid field."""
    problems = error.errors(include_url=False, include_input=False)
    problem = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    if problem["type"] == "extra_forbidden":
        return RequestError(422, _describe_unknown_field([str(part)[:100] for part in problem["loc"]]))
    if problem["type"] == "json_invalid":
        return RequestError(400, f"the body is not valid JSON: {problem['ctx']['error']}")
    if problem["loc"][:1] == ("inputs",) and problem["type"] != "missing":
        return RequestError(
            422,
            "inputs: must be a text, or a non-empty list of texts or of lists of one text; "
            "pairs of texts are not supported",
        )
    field = ".".join(str(part) for part in problem["loc"] if isinstance(part, int) or part in _FIELDS)
    return RequestError(422, f"{field or 'the body'}: {problem['msg']}")


def _describe_unknown_field(path: list[str]) -> str:
    """Return an error message that names the nearest known field."""
    name = path[-1]
    nearest = get_close_matches(name, _PATHS, 1)
    hint = f"did you mean {_PATHS[nearest[0]]}?" if nearest else f"the fields are {', '.join(_PATHS.values())}"
    return f"{'.'.join(path)}: unknown field; {hint}"


def format_score(score: float) -> str:
    """Return the JSON of a score, always with a decimal point or an exponent."""
    text = f"{score:.{SCORE_DIGITS}g}"
    return text if "." in text or "e" in text else f"{text}.0"


def encode_label_prefix(label: str) -> str:
    """Return the JSON before the score of a label."""
    return f'{{"label": {json.dumps(label, ensure_ascii=False)}, "score": '


class ResponseEncoder:
    """Encoder of responses with a classifier's labels."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._prefixes = [encode_label_prefix(label) for label in labels]

    def encode(
        self, request: ClassificationRequest, scores: list[list[float]], explainers: list[Explainer], *, flat: bool
    ) -> bytes:
        """Return the JSON response.

        Args:
            scores: after the function is applied, `(texts, classes)`.
            explainers: of each text, if the request asks for explanations.
            flat: return a list for a single text, not a list of one list.

        Raises:
            RequestError: 413 if the explanations would be too long.
        """
        prefixes, rows, explanation_bytes = self._prefixes, [], 0
        for index, row in enumerate(scores):
            best = sorted(range(len(row)), key=row.__getitem__, reverse=True)[: request.top_k]
            if request.threshold is not None:
                best = [label for label in best if row[label] >= request.threshold]
            if request.explain:
                explainer = explainers[index]
                explanation_bytes += len(best) * explainer.estimated_json_bytes
                if explanation_bytes > MAX_EXPLANATION_BYTES:
                    raise RequestError(
                        413,
                        f"the explanations would take more than {MAX_EXPLANATION_BYTES // 1_000_000} MB; request fewer "
                        "labels (parameters.top_k), or fewer or shorter texts",
                    )
                explanations = [
                    json.dumps(explainer.explain(label), default=vars, ensure_ascii=False) for label in best
                ]
                cells = [
                    f'{prefixes[label]}{format_score(row[label])}, "explanation": {explanation}}}'
                    for label, explanation in zip(best, explanations, strict=True)
                ]
            else:
                cells = [f"{prefixes[label]}{format_score(row[label])}}}" for label in best]
            rows.append(f"[{', '.join(cells)}]")
        return (rows[0] if flat and request.single else f"[{', '.join(rows)}]").encode()


def apply_function(function: str, logits: Sequence[float]) -> list[float]:
    """Return a text's scores: its logits after softmax, sigmoid or none."""
    if function == "softmax":
        highest = max(logits)
        powers = [exp(logit - highest) for logit in logits]
        total = sum(powers)
        return [power / total for power in powers]
    if function == "sigmoid":
        return [1 / (1 + exp(-logit)) if logit > 0 else exp(logit) / (1 + exp(logit)) for logit in logits]
    return list(logits)


def encode_error(message: str) -> bytes:
    """Return the JSON body of an error."""
    return json.dumps({"error": message}, ensure_ascii=False).encode("utf-8", "replace")
