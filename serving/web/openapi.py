"""OpenAPI description of the service, built from the models that parse its requests."""

from collections.abc import Sequence
from typing import Any

import msgspec

from serving.web.protocol import Body, Limits

_INPUTS = [
    {"type": "string"},
    {"type": "array", "items": {"type": "string"}, "minItems": 1},
    {
        "type": "array",
        "items": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 1},
        "minItems": 1,
    },
]
_TOP_K = [{"type": "integer", "minimum": 1}, {"type": "null"}]
_SCORE = {
    "type": "object",
    "required": ["label", "score"],
    "properties": {
        "label": {"type": "string", "description": "A class of the checkpoint."},
        "score": {"type": "number", "description": "The logit after the function of the request."},
        "explanation": {"$ref": "#/components/schemas/Explanation"},
        "above_threshold": {
            "type": "boolean",
            "description": "Whether the text gets the label; only with several labels per text, of sigmoid scores.",
        },
    },
}
_EXPLANATION = {
    "type": "object",
    "description": "The phrases that the score consists of; only with `explain`.",
    "required": ["label", "score", "bias", "phrases"],
    "properties": {
        "label": {"type": "string", "description": "The class of the score."},
        "score": {"type": "number", "description": "The logit: the sum of `bias` and all shares."},
        "bias": {"type": "number", "description": "The bias of the class."},
        "phrases": {
            "type": "array",
            "description": "Those with a share, the largest share first.",
            "items": {
                "type": "object",
                "required": ["text", "start", "end", "share"],
                "properties": {
                    "text": {"type": "string", "description": "The phrase, as in the text."},
                    "start": {"type": "integer", "description": "Its start in the text, in characters (code points)."},
                    "end": {"type": "integer", "description": "Its end in the text, in characters (code points)."},
                    "share": {"type": "number", "description": "Its contribution to the logit."},
                },
            },
        },
    },
}
_DECISION = {
    "type": "object",
    "description": "Only with `abstain`.",
    "required": ["label", "scores"],
    "properties": {
        "label": {"type": ["string", "null"], "description": "The best class; null if its score is too low."},
        "scores": {"$ref": "#/components/schemas/Labels"},
    },
}
_HEADERS = {
    "X-Checkpoint": {"description": "Name of the checkpoint that responded", "schema": {"type": "string"}},
    "X-Unknown-Words": {
        "description": "Share of the words of all texts that are not in the vocabulary",
        "schema": {"type": "number", "minimum": 0, "maximum": 1},
    },
}
_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}


_NAME = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "A name of `user_config.models`.",
    "schema": {"type": "string"},
}
_MODELS = {
    "application/json": {
        "schema": {
            "type": "object",
            "required": ["models", "bytes", "max_bytes"],
            "properties": {
                "models": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["name", "checkpoint", "state", "bytes", "refused"],
                        "properties": {
                            "name": {"type": "string"},
                            "checkpoint": {"type": "string"},
                            "state": {"enum": ["open", "closed", "refused"]},
                            "bytes": {"type": "integer", "description": "Memory of the model; 0 if it is not open."},
                            "refused": {"type": ["string", "null"], "description": "Why it could not be opened."},
                        },
                    },
                },
                "bytes": {"type": "integer", "description": "Memory of the open models of the replica."},
                "max_bytes": {"type": "integer", "description": "Limit of that memory."},
            },
        }
    }
}


_UNAVAILABLE = {
    "description": "Too many requests are waiting, or a model cannot be opened; Retry-After is the number of seconds "
    "to wait"
}
_CLASSIFY_SUMMARY = "Responds like the hosted Hugging Face API: a list per text"
_PREDICT_SUMMARY = "Responds like text-embeddings-inference: one list for one text"
_LABELS, _LABEL_LISTS, _DECISION_OF_TEXT, _DECISIONS = (
    {"$ref": f"#/components/schemas/{name}"} for name in ("Labels", "LabelsOfEach", "Decision", "Decisions")
)
_FLAT = {"anyOf": [_LABELS, _LABEL_LISTS, _DECISION_OF_TEXT, _DECISIONS]}
_NESTED = {"anyOf": [_LABEL_LISTS, _DECISIONS]}
_JSON_OBJECT: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
_HTML = {"text/html": {"schema": {"type": "string"}}}

Operation = dict[str, Any]


def build_openapi(
    limits: Limits, *, require_key: bool, models: Sequence[str] | None = None, root_path: str = ""
) -> dict[str, Any]:
    """Return the description, OpenAPI 3.1.

    Args:
        require_key: requests need an API key.
        models: names of the further models; None to leave them open.
        root_path: path under which the service responds, without a slash at its end.
    """
    security: dict[str, Any] = {"security": [{"key": []}]} if require_key else {}
    unauthorized = {"401": _describe_error("No key, or a wrong one")} if require_key else {}
    errors = {**_describe_errors(limits), **unauthorized}
    classify = _describe_classification("classify", _CLASSIFY_SUMMARY, _NESTED, errors, **security)
    predict = _describe_classification("predict", _PREDICT_SUMMARY, _FLAT, errors, **security)
    info = _describe_get("info", "Labels, metrics and origin", _JSON_OBJECT, unauthorized, **security)
    listing = _describe_get("models", "Further models and their memory", _MODELS, unauthorized, **security)
    further = {} if models is not None and not models else _describe_models(models, errors, unauthorized, security)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Text classification", "version": "1"},
        **({"servers": [{"url": root_path}]} if root_path else {}),
        "paths": {
            "/": {"get": _describe_get("page", "Web page to try the service", _HTML), "post": classify},
            "/predict": {"post": predict},
            "/info": {"get": info},
            "/models": {"get": listing},
            **further,
            "/health": {"get": _describe_get("health", "Health check", _JSON_OBJECT)},
            "/openapi.json": {"get": _describe_get("openapi", "This description", _JSON_OBJECT)},
        },
        "components": {
            "schemas": _build_schemas(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _build_schemas() -> dict[str, Any]:
    _, schemas = msgspec.json.schema_components([Body], ref_template="#/components/schemas/{name}")
    # What `parse_request` checks and the types cannot express.
    schemas["Body"]["properties"]["inputs"]["anyOf"] = _INPUTS
    schemas["Parameters"]["properties"]["top_k"]["anyOf"] = _TOP_K
    return {
        **schemas,
        "Labels": {"type": "array", "items": {"$ref": "#/components/schemas/Score"}},
        "LabelsOfEach": {"type": "array", "items": _LABELS},
        "Decision": _DECISION,
        "Decisions": {"type": "array", "items": _DECISION_OF_TEXT},
        "Score": _SCORE,
        "Explanation": _EXPLANATION,
        "Error": _ERROR,
    }


def _describe_errors(limits: Limits) -> dict[str, Any]:
    """Return the responses to classification requests that are rejected, by status."""
    return {
        "400": _describe_error("Not JSON, or damaged gzip"),
        "408": _describe_error("The body did not arrive in time"),
        "409": _describe_error("`abstain`, but the checkpoint has no threshold for it"),
        "413": _describe_error("Over a limit: " + ", ".join(f"{name} {value}" for name, value in limits)),
        "415": _describe_error("A Content-Encoding other than gzip"),
        "422": _describe_error("A field is missing, invalid or unknown"),
        "503": _UNAVAILABLE,
    }


def _describe_models(
    names: Sequence[str] | None, errors: Operation, unauthorized: Operation, security: Operation
) -> dict[str, Any]:
    """Return the paths of the further models; arguments as of `build_openapi` and of the operations."""
    parameter = _NAME if names is None else {**_NAME, "schema": {"type": "string", "enum": list(names)}}
    more: dict[str, Any] = {**security, "parameters": [parameter]}
    model_errors = {"404": _describe_error("No such model"), "503": _UNAVAILABLE}
    errors = {**errors, **model_errors}
    nested = _describe_classification(
        "classify_with_model", "As `POST /`, with a further model", _NESTED, errors, **more
    )
    flat = _describe_classification("predict_with_model", "As `/predict`, with a further model", _FLAT, errors, **more)
    responses = {**model_errors, **unauthorized}
    info = _describe_get("info_of_model", "As `/info`, of a further model", _JSON_OBJECT, responses, **more)
    return {
        "/models/{name}": {"post": nested},
        "/models/{name}/predict": {"post": flat},
        "/models/{name}/info": {"get": info},
    }


def _describe_classification(
    operation: str, summary: str, response: Operation, errors: Operation, **more: Any
) -> Operation:
    """Return a POST request; response: schema of its labels, errors: responses by status, more: further fields."""
    return {
        "operationId": operation,
        "summary": summary,
        "requestBody": {
            "description": "May be compressed, with `Content-Encoding: gzip`",
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Body"}}},
        },
        "responses": {
            "200": _describe_response("Labels with scores, the best first", response) | {"headers": _HEADERS},
            **errors,
        },
        **more,
    }


def _describe_get(
    operation: str, summary: str, content: Operation, errors: Operation | None = None, **more: Any
) -> Operation:
    """Return a GET request; content: of its response by media type, errors and more as of a classification."""
    return {
        "operationId": operation,
        "summary": summary,
        "responses": {"200": {"description": summary, "content": content}, **(errors or {})},
        **more,
    }


def _describe_response(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _describe_error(description: str) -> dict[str, Any]:
    return _describe_response(description, {"$ref": "#/components/schemas/Error"})
