"""Descriptions of the settings: as comments in the YAML of an experiment, and as a JSON schema for editors."""

import json
import textwrap
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from jobs.config.experiment import Experiment

COMMENT_WIDTH = 110
SCHEMA_DIALECT = "http://json-schema.org/draft-07/schema#"


def to_commented_yaml(experiment: Experiment, keys: Collection[str] | None = None) -> str:
    """Return settings as YAML, each below its description in comments.

    Args:
        keys: dotted paths of the settings; by default all.
    """
    lines = list(_render(Experiment, experiment.model_dump(), keys, ""))
    return "\n".join(lines).lstrip("\n") + "\n"


def build_json_schema() -> str:
    """Return the JSON schema of experiment files, which editors use to complete and check keys and values."""
    schema = {"$schema": SCHEMA_DIALECT, **Experiment.model_json_schema(), "title": "Experiment of finetune-cnn"}
    return json.dumps(schema, indent=1)


def _render(
    section: type[BaseModel], values: Mapping[str, Any], keys: Collection[str] | None, prefix: str
) -> Iterator[str]:
    indent = "  " * prefix.count(".")
    for name, field in section.model_fields.items():
        path = f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            lines = list(_render(field.annotation, values[name], keys, f"{path}."))
            if lines:
                description = field.annotation.__doc__ or ""
                yield from ("", *_comment(description, indent), f"{indent}{name}:", *lines)
        elif keys is None or path in keys:
            yield from _comment(field.description or "", indent)
            yield textwrap.indent(_dump(name, values[name]), indent)


def _dump(name: str, value: Any) -> str:
    # Lists of values are on one line. With the style None, a section with a single value would be too.
    style = None if isinstance(value, dict | list) else False
    text: str = yaml.safe_dump({name: value}, sort_keys=False, allow_unicode=True, default_flow_style=style, width=100)
    return text.rstrip("\n")


def _comment(text: str, indent: str) -> list[str]:
    # Names of settings are written as code in the documentation.
    return textwrap.wrap(
        " ".join(text.replace("`", "").split()),
        COMMENT_WIDTH,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}# ",
        break_long_words=False,
        break_on_hyphens=False,
    )
