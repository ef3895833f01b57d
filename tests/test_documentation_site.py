"""Generated pages of the documentation site (docs/hooks.py): they are complete, and the site needs no other host."""

import argparse
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

import finetune_cnn
from cluster.console.cli import list_parsers
from cluster.package import REPOSITORY
from jobs.config.experiment import SETTING_KEYS, Experiment
from serving.web.openapi import build_openapi
from serving.web.protocol import Body, Limits, Parameters

DOCS = REPOSITORY / "docs"
DIAGRAMS = sorted((DOCS / "assets").glob("*.svg"))


@pytest.fixture(scope="module")
def docs_path() -> Iterator[None]:
    """The folder of the hook on sys.path, as while MkDocs loads it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS)
        yield


@pytest.fixture(scope="module")
def schema_pages(docs_path: None) -> ModuleType:
    return importlib.import_module("schema_pages")


@pytest.fixture(scope="module")
def code_pages(docs_path: None) -> ModuleType:
    return importlib.import_module("code_pages")


def split_sections(page: str, heading: str) -> dict[str, str]:
    """Return the sections of a Markdown page by the text of their headings, such as "## "."""
    parts = re.split(rf"^{heading}", page, flags=re.MULTILINE)[1:]
    return {part.partition("\n")[0].partition(" {")[0]: part.partition("\n")[2] for part in parts}


def test_every_setting_has_a_description_a_type_and_its_default(schema_pages):
    sections = split_sections(schema_pages.render_settings(), "### ")
    defaults = Experiment().model_dump()
    settings = [key for key in SETTING_KEYS if key not in defaults or not isinstance(defaults[key], dict)]
    assert list(sections) == settings
    for key, section in sections.items():
        description, details = section.strip().split("\n\n")[:2]
        assert len(description) > 10, key
        assert re.match(r"Type: .+\. Default:", details), key
    assert "Default: `[3, 4, 5]`" in sections["model.filter_widths"]
    assert "grid: [rand, static, non-static, multichannel]" in sections["tune.space"]


def test_units_are_in_the_descriptions_of_times_and_lengths(schema_pages):
    sections = split_sections(schema_pages.render_settings(), "### ")
    for key, unit in {
        "train.checkpoint_minutes": "minutes",
        "tune.minutes": "minutes",
        "text.max_tokens": "tokens",
        "vectors.window": "words",
        "model.filter_widths": "words",
    }.items():
        assert unit in sections[key].strip().split("\n\n")[0], key


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "integer", "minimum": 1}, "integer, at least 1"),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, "number, above 0, below 1"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string or `null`"),
        ({"anyOf": [{"type": "number", "minimum": 0.5}, {"type": "null"}]}, "number, at least 0.5; or `null`"),
        ({"enum": ["a", "b"], "type": "string"}, "one of `a`, `b`"),
        ({"anyOf": [{"enum": ["a"]}, {"type": "null"}]}, "one of `a`, `null`"),
        ({"type": "array", "items": {"type": "integer", "maximum": 50}}, "list of integers, each at most 50"),
        ({"type": "array", "items": {"type": "array", "items": {"type": "string"}}}, "list of lists of strings"),
        ({}, "any value"),
    ],
)
def test_a_type_is_described_in_words(schema_pages, schema, text):
    assert schema_pages.describe_type(schema) == text


def test_every_command_has_its_options_and_arguments(code_pages):
    parser = finetune_cnn.build_parser()
    sections = split_sections(code_pages.render_commands(parser), "## ")
    common = sections.pop("Options of all commands")
    commands = list_parsers(parser).values()
    assert list(sections) == [command.prog for command in commands]
    assert len(commands) > 15
    for command in commands:
        section = sections[command.prog]
        assert f"```console\n{command.prog}" in section
        for action in command._actions:
            if action.help == argparse.SUPPRESS:
                assert not any(option in section for option in action.option_strings)
                continue
            assert action.help, (command.prog, action.dest)
            for option in action.option_strings:
                assert f"`{option}" in section or f"`{option}" in common, (command.prog, option)
    assert str(REPOSITORY) not in "".join(sections.values())


def test_nested_commands_defaults_and_aliases_are_rendered(code_pages):
    parser = argparse.ArgumentParser(prog="tool")
    commands = parser.add_subparsers()
    commands.add_parser("first", help="the first | one")
    inner = commands.add_parser("group", help="a group").add_subparsers()
    nested = inner.add_parser("nested", help="a nested command", aliases=["n"])
    nested.add_argument("files", nargs="+", metavar="FILE | KEY=VALUE", help="files to read")
    nested.add_argument("--count", type=int, default=3, help="number of <rounds>")
    nested.add_argument("--out", required=True, help="file to write")
    nested.add_argument("--hidden", help=argparse.SUPPRESS)
    sections = split_sections(code_pages.render_commands(parser), "## ")
    assert list(sections) == ["Options of all commands", "tool first", "tool group nested"]
    assert "| `--count COUNT` | number of &lt;rounds> (default: 3) |" in sections["tool group nested"]
    assert "| `--out OUT` | file to write (required) |" in sections["tool group nested"]
    assert "hidden" not in sections["tool group nested"]


def test_all_endpoints_fields_statuses_and_limits_are_described(schema_pages):
    page = schema_pages.render_http()
    description = build_openapi(Limits(), require_key=True)
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            assert f"`{method.upper()} {path}`" in page
            assert all(f"| {status} |" in page for status in operation["responses"])
    fields = {*Body.__struct_fields__, *(f"parameters.{name}" for name in Parameters.__struct_fields__)}
    fields |= {*Limits.model_fields}
    for name in fields | {"label", "score", "explanation.phrases[].share"}:
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert row.split("|")[-2].strip(), f"{name} has no description"
    assert '[{"label": "billing", "score": 0.9463573903}' in page
    assert '{"error": "parameters.top_k' in page


@pytest.mark.parametrize("path", DIAGRAMS, ids=lambda path: path.stem)
def test_diagrams_have_a_title_and_refer_to_no_other_host(path):
    root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    title = root.find("{http://www.w3.org/2000/svg}title")
    assert title is not None
    assert title.text
    assert not re.search(r"(href|src|url\(|@import)[^>]*https?:", path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_strict_build_passes_and_loads_nothing_from_other_hosts(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    subprocess.run(command, cwd=REPOSITORY, check=True, timeout=120)
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<(script|img|iframe|link)[^>]*(src|href)=[\"']?(https?:)?//", text), page.name
    python = (tmp_path / "site/reference/python.html").read_text(encoding="utf-8")
    for name in (*finetune_cnn.__all__, "Classifier.predict_proba", "Client.classify"):
        assert f'id="finetune_cnn.{name}"' in python
    assert "one of its API keys, if it requires one." in python
    styles = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.css"))
    assert not re.search(r"@import|url\([\"']?(https?:)?//", styles)
    architecture = Path(tmp_path, "site/design/architecture.html").read_text(encoding="utf-8")
    assert '<svg xmlns="http://www.w3.org/2000/svg" id="filter-layout"' in architecture
