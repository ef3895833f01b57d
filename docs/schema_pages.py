"""Reference pages of settings and of the HTTP API, from the JSON schemas of their pydantic models."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import yaml

from jobs.config.experiment import Experiment
from serving.web.openapi import build_openapi
from serving.web.protocol import Limits, RequestError, encode_error, encode_response, parse_request

Schema = Mapping[str, Any]

GENERATED_NOTE = "This page is generated from the code."
BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "pattern": "matching {}",
}

EXAMPLE_TEXT = "Why was my card charged twice?"
EXAMPLE_SCORES = {"billing": 0.9463573903, "delivery": 0.0473969180, "technical": 0.0062456917}
EXAMPLES: list[tuple[str, str, dict[str, Any]]] = [
    ("One text", "/predict", {"inputs": EXAMPLE_TEXT}),
    ("The best label of each text", "/predict", {"inputs": [EXAMPLE_TEXT], "parameters": {"top_k": 1}}),
    ("One text, as the hosted inference API", "/", {"inputs": EXAMPLE_TEXT}),
    ("An invalid value", "/predict", {"inputs": EXAMPLE_TEXT, "parameters": {"top_k": 0}}),
]


def render_settings() -> str:
    """Return the page of all settings, a heading each."""
    schema = Experiment.model_json_schema()
    models = schema["$defs"]
    lines = [
        "# Settings",
        f"{GENERATED_NOTE} An experiment file is YAML with the keys below; every key has a default, and an unknown key "
        "is an error that suggests the nearest valid one. On the command line a setting is its dotted path, as in "
        "`train.epochs=20`. `finetune-cnn show EXPERIMENT` prints all settings of an experiment.",
        "## Experiment",
    ]
    sections = []
    for name, field in schema["properties"].items():
        if "$ref" in field:
            sections.append((name, models[field["$ref"].rpartition("/")[2]]))
        else:
            lines += _render_setting(name, field)
    for section, model in sections:
        lines += [f"## {section}", _join_lines(model["description"])]
        for name, field in model["properties"].items():
            lines += _render_setting(f"{section}.{name}", field)
    return "\n\n".join(lines) + "\n"


def _render_setting(path: str, schema: Schema) -> list[str]:
    kind, default = describe_type(schema), schema["default"]
    lines = [f"### {path} {{ #{path} }}", _join_lines(schema["description"])]
    if not isinstance(default, dict):
        return [*lines, f"Type: {kind}. Default: `{_to_yaml(default)}`."]
    text = yaml.safe_dump(default, sort_keys=False, default_flow_style=None)
    return [*lines, f"Type: {kind}. Default:", f"```yaml\n{text}```"]


def describe_type(schema: Schema) -> str:
    """Return the type of a JSON schema with its constraints in words, such as "integer, at least 1; or `null`"."""
    options = schema.get("anyOf", [schema])
    values = [value for option in options for value in option.get("enum", ())]
    if values:
        values += ["null"] * ({"type": "null"} in options)
        return "one of " + ", ".join(f"`{value}`" for value in values)
    texts = [", ".join(_describe_noun(option)) for option in options]
    return ("; or " if any("," in text for text in texts) else " or ").join(texts)


def _describe_noun(schema: Schema) -> list[str]:
    """Return the name of a type, and its constraints."""
    kind = schema.get("type", "any value")
    if kind == "null":
        return ["`null`"]
    if kind == "array":
        noun, *constraints = _describe_noun(schema.get("items", {}))
        plural = noun if noun == "any value" else re.sub(r"^\w+", r"\g<0>s", noun)
        size = schema.get("minItems", 0), schema.get("maxItems")
        sizes = {(1, None): ["not empty"], (1, 1): ["of one item"]}.get(size, [])
        return [f"list of {plural}", *([f"each {', '.join(constraints)}"] if constraints else []), *sizes]
    bounds = [text.format(_format_bound(schema[key])) for key, text in BOUNDS.items() if key in schema]
    return [kind, *bounds]


def _format_bound(value: object) -> str:
    return f"{value:,g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else f"`{value}`"


def _to_yaml(value: object) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


def render_http() -> str:
    """Return the page of the HTTP API: endpoints, fields, statuses and examples."""
    description = build_openapi(Limits(), require_key=True)
    schemas = description["components"]["schemas"]
    lines = [
        "# HTTP",
        f"{GENERATED_NOTE} A running service describes itself in the same way at `GET /openapi.json`, as OpenAPI "
        f"{description['openapi']}.",
        "## Endpoints",
    ]
    rows = ["| endpoint | response | API key |", "|---|---|---|"]
    statuses: dict[str, str] = {}
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            key = "if keys are configured" if operation.get("security") else "no"
            rows.append(f"| `{method.upper()} {path}` | {operation['summary']} | {key} |")
            for status, response in operation["responses"].items():
                meaning = response["description"].partition(":")[0]  # the values of limits follow below
                statuses[status] = "The request succeeded" if status == "200" else meaning
    lines += ["\n".join(rows), "An API key is sent as `Authorization: Bearer KEY`."]
    lines += ["## Request", "The body of `POST` is a JSON object. Fields that are not listed are ignored."]
    lines.append(_render_fields(schemas["Body"], schemas))
    lines += ["## Response", "For each text the response has a list of labels, the best first. A label is an object:"]
    lines.append(_render_fields(schemas["Score"], schemas))
    lines += ["The body of an error is an object with one field, `error`: the reason, as text.", "## Statuses"]
    rows = ["| status | meaning |", "|---|---|"]
    rows += [f"| {status} | {_escape(text)} |" for status, text in sorted(statuses.items())]
    lines += [
        "\n".join(rows),
        "## Limits",
        "`args.limits` in `service.yaml` sets them. Beyond a limit the status is 413.",
    ]
    rows = ["| limit | default | description |", "|---|---|---|"]
    for name, field in Limits.model_json_schema()["properties"].items():
        rows.append(f"| `{name}` | {field['default']:,} | {field['description']} |")
    labels = ", ".join(f"`{label}`" for label in EXAMPLE_SCORES)
    lines += ["\n".join(rows), "## Examples", f"The checkpoint of these examples has the labels {labels}."]
    for title, path, body in EXAMPLES:
        command = f"curl http://127.0.0.1:8000{path} \\\n    -d '{json.dumps(body)}'"
        response = _respond(path, body).replace("}, {", "},\n {")  # so that the lines are short
        lines += [f"{title}:", f"```console\n{command}\n```", f"```json\n{response}\n```"]
    return "\n\n".join(lines) + "\n"


def _respond(path: str, body: dict[str, Any]) -> str:
    """Return the response of the service's own encoder to an example."""
    try:
        request = parse_request(json.dumps(body).encode(), Limits())
        scores = np.array([list(EXAMPLE_SCORES.values())] * len(request.texts))
        response = encode_response(request, list(EXAMPLE_SCORES), scores, [], flat=path == "/predict")
    except RequestError as error:
        response = encode_error(str(error))
    return json.dumps(json.loads(response), ensure_ascii=False)  # with spaces


def _render_fields(schema: Schema, schemas: Schema) -> str:
    rows = ["| field | type | required | description |", "|---|---|---|---|"]
    for path, field, required in iter_fields(schema, schemas):
        description = _join_lines(field.get("description", ""))
        rows.append(f"| `{path}` | {_escape(describe_type(field))} | {'yes' if required else 'no'} | {description} |")
    return "\n".join(rows)


def iter_fields(schema: Schema, schemas: Schema, prefix: str = "") -> Iterator[tuple[str, Schema, bool]]:
    """Yield path, schema and necessity of all fields of a JSON object, also of nested ones."""
    required = schema.get("required", ())
    for name, field in schema["properties"].items():
        field, nested = _resolve(field, schemas)
        yield f"{prefix}{name}", field, name in required
        if nested:
            suffix = "[]." if field.get("type") == "array" else "."
            yield from iter_fields(nested, schemas, f"{prefix}{name}{suffix}")


def _resolve(field: Schema, schemas: Schema) -> tuple[Schema, Schema | None]:
    """Return a field without reference, and the schema of the objects that it contains."""
    for option in (field, *field.get("anyOf", ())):
        if "$ref" in option:
            target = schemas[option["$ref"].rpartition("/")[2]]
            kind = {"anyOf": [{"type": "object"}, {"type": "null"}]} if option is not field else {"type": "object"}
            return {"description": target.get("description", ""), **kind}, target
    if field.get("type") == "array" and field["items"].get("type") == "object":
        return field, field["items"]
    return field, None


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _join_lines(text: str) -> str:
    return " ".join(text.split())
