"""HTTP protocol of the service: that of Hugging Face's clients for text classification. No Ray, no network here.

`POST /` responds like the hosted inference API, always with a list of lists; `POST /predict` like
text-embeddings-inference, with a flat list for a single text. A list of texts is a batch on both, as in the hosted
API. text-embeddings-inference would read a list of two as a pair, which a classifier of single texts cannot use, and
its clients send a batch as lists of one text. Its `truncate` and `truncation_direction` are ignored: a long text is cut
after its first words, as in training. Other options that Hugging Face's clients send are ignored too. An unknown field
is an error: a misspelled one would have no effect.

With `abstain`, which other services do not have, each text has an object with its label, or null, and its scores.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from jobs.config.abstention import DEFAULT_OBJECTIVE, OBJECTIVES, AbstentionRule, Objective
from jobs.inference.explanation import Explainer, Explanation

# Maximum size of the explanations of one response; without it a small request could ask for gigabytes.
MAX_EXPLANATION_BYTES = 8_000_000
TOO_LONG = f"the explanations would take more than {MAX_EXPLANATION_BYTES / 1e6:g} MB; request fewer labels or texts"
FEW_LABELS = 64  # Python sorts so few faster than numpy selects some of them
TOO_MANY_SCORES = "the response would have more than {} scores; request fewer labels (parameters.top_k), or fewer texts"
FUNCTIONS = ("softmax", "sigmoid", "none")


class RequestError(Exception):
    """A request that is rejected; `status` is the HTTP status of the response (4xx or 503), `headers` belong to it."""

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
    max_scores: int = Field(100_000, ge=1, description="Number of scores of a response: labels of all texts.")


Abstain = Annotated[
    bool | Objective | None,
    Meta(
        description="Return an object for each text: its label, null if its score is below the checkpoint's threshold, "
        "and its scores. true: the threshold that keeps the label of most texts, retention."
    ),
]
# An option of other services that Hugging Face's clients send.
Ignored = Annotated[Any, Meta(description="Accepted and ignored.")]


class Parameters(Struct, forbid_unknown_fields=True):
    """Options of a response; null means the default."""

    # JSON does not distinguish 3.0 from 3.
    top_k: Annotated[
        Annotated[int, Meta(ge=1)] | Annotated[float, Meta(ge=1)] | None,
        Meta(description="Number of labels for a text; all by default."),
    ] = None
    function_to_apply: Annotated[
        Literal["softmax", "sigmoid", "none"] | None,
        Meta(description="From logits to scores; softmax by default, sigmoid with several labels per text."),
    ] = None
    threshold: Annotated[float | None, Meta(description="Labels below this score are left out.")] = None
    explain: Annotated[bool | None, Meta(description="Return an explanation of each score.")] = None
    abstain: Abstain = None
    truncation: Ignored = None
    padding: Ignored = None
    max_length: Ignored = None


SingleTextList = Annotated[list[str], Meta(min_length=1, max_length=1)]


class Body(Struct, forbid_unknown_fields=True):
    """The body of a request."""

    # msgspec allows one type of lists, so `parse_request` refuses a list of both.
    inputs: Annotated[
        str | Annotated[list[str | SingleTextList], Meta(min_length=1)],
        Meta(description="A text, a list of texts, or a list of lists of one text."),
    ]
    parameters: Parameters | None = None
    raw_scores: Annotated[
        bool | None, Meta(description="As text-embeddings-inference: the logits, no function applied.")
    ] = None
    explain: Annotated[bool | None, Meta(description="As parameters.explain.")] = None
    abstain: Abstain = None
    truncate: Ignored = None
    truncation_direction: Ignored = None
    options: Ignored = None


class Score(Struct, omit_defaults=True):
    """A label of a response. explanation: None if the request asks for none.

    above_threshold: with several labels per text, whether the text gets the label; None for other scores than sigmoid.
    """

    label: str
    score: float
    explanation: Explanation | None = None
    above_threshold: bool | None = None


class Decision(Struct):
    """The labels of a text in a response to a request with `abstain`. label: None if the classifier abstains."""

    label: str | None
    scores: list[Score]


class ClassificationRequest(Struct):
    """A parsed request. single: `inputs` is a text, not a list. top_k: None for all labels. abstain: None for no."""

    texts: list[str]
    single: bool
    explain: bool
    function: str
    top_k: int | None = None
    threshold: float | None = None
    abstain: Objective | None = None


_decode = msgspec.json.Decoder(Body).decode
_encode = msgspec.json.Encoder().encode
_get_score = attrgetter("score")
# The path of each field that has an effect, by its name.
_PATHS = {
    field.name: f"{prefix}{field.name}"
    for struct, prefix in ((Parameters, "parameters."), (Body, ""))
    for field in msgspec.structs.fields(struct)
    if field.type is not Ignored
}
_INVALID_INPUTS = (
    "inputs: must be a text, or a non-empty list of texts or of lists of one text; pairs of texts are not supported"
)


def parse_request(body: bytes, limits: Limits, default_function: str = "softmax") -> ClassificationRequest:
    """Return the request in a body.

    Args:
        default_function: of a request that names none.

    Raises:
        RequestError: 413 over a limit, 400 not JSON, 422 a missing or invalid field.
    """
    try:
        parsed = _decode(body)
    except (ValueError, RecursionError) as error:
        raise _describe_invalid_body(body, error) from error
    inputs, parameters = parsed.inputs, parsed.parameters
    single = isinstance(inputs, str)
    texts = [inputs] if isinstance(inputs, str) else _flatten(inputs)
    request = ClassificationRequest(
        texts, single, bool(parsed.explain), "none" if parsed.raw_scores else default_function
    )
    if parameters is not None:
        _apply_parameters(request, parameters)
    if abstain := parsed.abstain or (parameters.abstain if parameters is not None else None):
        if request.function != "softmax":
            is_own = default_function != "softmax"  # with several labels per text
            hint = "this checkpoint has several" if is_own else "leave out function_to_apply and raw_scores"
            raise RequestError(422, f"abstain: thresholds are of softmax, with one label per text; {hint}")
        request.abstain = DEFAULT_OBJECTIVE if abstain is True else abstain
    _check_limits(request, limits)
    return request


def _apply_parameters(request: ClassificationRequest, parameters: Parameters) -> None:
    """Set the options of a request."""
    if parameters.top_k is not None:
        request.top_k = int(parameters.top_k)
        if request.top_k != parameters.top_k:
            raise RequestError(422, "parameters.top_k: must be a whole number")
    if parameters.function_to_apply is not None:
        request.function = parameters.function_to_apply
    if parameters.explain:
        request.explain = True
    request.threshold = parameters.threshold


def _check_limits(request: ClassificationRequest, limits: Limits) -> None:
    """Raise RequestError if a request is over a limit."""
    texts, count = request.texts, len(request.texts)
    if count > limits.max_texts:
        raise RequestError(413, f"inputs: {count} texts; at most {limits.max_texts} are allowed")
    if request.explain and count > limits.max_explained_texts:
        raise RequestError(413, f"inputs: {count} texts; at most {limits.max_explained_texts} are allowed with explain")
    if (size := max(map(len, texts))) > limits.max_text_length:
        raise RequestError(413, f"inputs: a text has {size} characters; at most {limits.max_text_length} are allowed")


def _flatten(inputs: Sequence[str | list[str]]) -> list[str]:
    """Return the texts of a list; text-embeddings-inference wraps each in a list."""
    if isinstance(inputs[0], str):
        texts = [text for text in inputs if isinstance(text, str)]
    else:
        texts = [item[0] for item in inputs if not isinstance(item, str)]
    if len(texts) < len(inputs):
        raise RequestError(422, _INVALID_INPUTS)
    return texts


def _describe_invalid_body(body: bytes, error: Exception) -> RequestError:
    """Return an error that names the first invalid field; 400 if the body, or what follows that field, is not JSON."""
    try:
        msgspec.json.decode(body)
    except msgspec.ValidationError:  # a number that is too large
        pass
    except RecursionError:
        return RequestError(400, "the body is not valid JSON: it is nested too deeply")
    except ValueError as syntax_error:
        return RequestError(400, f"the body is not valid JSON: {syntax_error}")
    # The messages of msgspec: "Expected `int` >= 1 - at `$.parameters.top_k`", and without the end about the body.
    message, separator, field = str(error).rpartition(" - at `$.")
    message, field = (message, field.removesuffix("`")) if separator else (field, "")
    if message.startswith("Object contains unknown field `"):
        name = message.removeprefix("Object contains unknown field `").removesuffix("`")
        return RequestError(422, _describe_unknown_field([*([field[:100]] if field else []), name[:100]]))
    if field.startswith("inputs"):
        return RequestError(422, _INVALID_INPUTS)
    if message == "Object missing required field `inputs`":
        return RequestError(422, "inputs: Field required")
    if field.endswith("abstain"):
        message = f"must be true, false, {', '.join(OBJECTIVES[:-1])} or {OBJECTIVES[-1]}"
    elif message.startswith("Invalid enum value"):
        message = f"must be {', '.join(FUNCTIONS[:-1])} or {FUNCTIONS[-1]}"
    return RequestError(422, f"{field or 'the body'}: {message}")


def _describe_unknown_field(path: list[str]) -> str:
    """Return an error message that names the nearest known field."""
    name = path[-1]
    nearest = get_close_matches(name, _PATHS, 1)
    hint = f"did you mean {_PATHS[nearest[0]]}?" if nearest else f"the fields are {', '.join(_PATHS.values())}"
    return f"{'.'.join(path)}: unknown field; {hint}"


def encode_response(
    request: ClassificationRequest,
    labels: Sequence[str],
    scores: NDArray[np.float64],
    explainers: Sequence[Explainer],
    *,
    flat: bool,
    max_scores: int = Limits().max_scores,
    thresholds: Sequence[float] | None = None,
    abstention: AbstentionRule | None = None,
) -> bytes:
    """Return the JSON response.

    Args:
        labels: of the classes.
        scores: after the function is applied, `(texts, classes)`.
        explainers: of each text, if the request asks for explanations.
        flat: return a list for a single text, not a list of one list.
        max_scores: maximum number of scores of the response.
        thresholds: of the labels, with several labels per text.
        abstention: decides which texts have no label, if the request asks for it.

    Raises:
        RequestError: 413 if there would be too many scores, or the explanations would be too long.
    """
    rows, count, few = [], 0, len(labels) <= FEW_LABELS
    minima = dict(zip(labels, thresholds, strict=True)) if thresholds and request.function == "sigmoid" else {}
    for row in scores.tolist() if few else scores:
        best = list(map(Score, labels, row) if few else map(Score, *_select_labels(labels, row, request)))
        best.sort(key=_get_score, reverse=True)
        if few and request.threshold is not None:
            best = [score for score in best if score.score >= request.threshold]
        del best[request.top_k or len(best) :]
        for score in best if minima else ():
            score.above_threshold = score.score >= minima[score.label]
        rows.append(best)
        count += len(best)
        if count > max_scores:
            raise RequestError(413, TOO_MANY_SCORES.format(max_scores))
    if request.explain:
        _explain(rows, labels, explainers)
    if abstention is not None:
        classes = abstention.apply(scores)[0].tolist()
        decisions = list(map(Decision, (labels[index] if index >= 0 else None for index in classes), rows))
        return _encode(decisions[0] if flat and request.single else decisions)
    return _encode(rows[0] if flat and request.single else rows)


def _select_labels(
    labels: Sequence[str], scores: NDArray[np.float64], request: ClassificationRequest
) -> tuple[Sequence[str], list[float]]:
    """Return the labels that a text's response may have, in the order of the classes, and their scores."""
    top_k, minimum = request.top_k, request.threshold
    if top_k is not None and top_k < len(labels):
        minimum = max(np.partition(scores, -top_k)[-top_k], -np.inf if minimum is None else minimum)
    if minimum is None:
        return labels, scores.tolist()
    classes = np.flatnonzero(scores >= minimum)
    return [labels[index] for index in classes.tolist()], scores[classes].tolist()


def _explain(rows: list[list[Score]], labels: Sequence[str], explainers: Sequence[Explainer]) -> None:
    """Add the explanations to the scores of each text."""
    size = 0
    classes = {label: index for index, label in enumerate(labels)}
    for row, explainer in zip(rows, explainers, strict=True):
        size += len(row) * explainer.estimated_json_bytes
        if size > MAX_EXPLANATION_BYTES:
            raise RequestError(413, TOO_LONG)
        for score in row:
            score.explanation = explainer.explain(classes[score.label])


def encode_error(message: str) -> bytes:
    """Return the JSON body of an error."""
    return _encode({"error": message.encode("utf-8", "replace").decode()})
