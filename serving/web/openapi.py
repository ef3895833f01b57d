"""The service's OpenAPI description, from the models that read its requests."""

from typing import Any

from serving.web.protocol import Body, Limits

_SCORE = {
    "type": "object",
    "required": ["label", "score"],
    "properties": {
        "label": {"type": "string"},
        "score": {"type": "number"},
        "explanation": {"$ref": "#/components/schemas/Explanation"},
    },
}
_EXPLANATION = {
    "type": "object",
    "description": "`score` is the logit: `bias` and the phrases' shares add up to it.",
    "required": ["score", "bias", "phrases"],
    "properties": {
        "score": {"type": "number"},
        "bias": {"type": "number"},
        "phrases": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["text", "start", "end", "share"],
                "properties": {
                    "text": {"type": "string"},
                    "start": {"type": "integer", "description": "In characters (code points) of the text."},
                    "end": {"type": "integer"},
                    "share": {"type": "number"},
                },
            },
        },
    },
}
_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}


def build_openapi(limits: Limits, *, require_key: bool) -> dict[str, Any]:
    """Return the description, OpenAPI 3.1; keys: a request needs one."""
    body = Body.model_json_schema(ref_template="#/components/schemas/{model}")
    models = body.pop("$defs")
    one, many = {"$ref": "#/components/schemas/Labels"}, {"$ref": "#/components/schemas/LabelsOfEach"}
    secured = {"security": [{"key": []}]} if require_key else {}
    refused = {"401": _answer("No key, or a wrong one", "Error")} if require_key else {}
    questions = {
        "400": _answer("Not JSON", "Error"),
        "408": _answer("The body did not arrive in time", "Error"),
        "413": _answer(f"Over a limit: {limits.model_dump()}", "Error"),
        "422": _answer("Not what the contract asks for", "Error"),
        "503": {"description": "Too many requests wait; Retry-After says for how many seconds to wait"},
        **refused,
    }

    def question(name: str, summary: str, answer: dict[str, Any]) -> dict[str, Any]:
        return {
            "post": {
                "operationId": name,
                "summary": summary,
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Body"}}},
                },
                "responses": {"200": _content("Labels with scores, the best first", answer), **questions},
                **secured,
            }
        }

    def look(name: str, summary: str, content: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {
            "operationId": name,
            "summary": summary,
            "responses": {"200": {"description": summary, "content": content}, **more.pop("responses", {})},
            **more,
        }

    anything = {"application/json": {"schema": {"type": "object"}}}
    page = look("page", "A page to try the service on", {"text/html": {"schema": {"type": "string"}}})
    return {
        "openapi": "3.1.0",
        "info": {"title": "Text classification", "version": "1"},
        "paths": {
            "/": {"get": page, **question("classify", "As the hosted Hugging Face API answers: a list a text", many)},
            "/predict": question(
                "predict", "As text-embeddings-inference answers: one list for one text", {"anyOf": [one, many]}
            ),
            "/info": {"get": look("info", "Labels, figures and origin", anything, responses=refused, **secured)},
            "/health": {"get": look("health", "Whether it answers", anything)},
            "/openapi.json": {"get": look("openapi", "This description", anything)},
        },
        "components": {
            "schemas": {
                **models,
                "Body": body,
                "Labels": {"type": "array", "items": {"$ref": "#/components/schemas/Score"}},
                "LabelsOfEach": {"type": "array", "items": one},
                "Score": _SCORE,
                "Explanation": _EXPLANATION,
                "Error": _ERROR,
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _content(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _answer(description: str, name: str) -> dict[str, Any]:
    return _content(description, {"$ref": f"#/components/schemas/{name}"})
