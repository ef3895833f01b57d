"""Blocks of rows of jsonl files: those of the reader of the format, or its errors."""

import itertools
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.config.settings import DataSettings
from jobs.datasets.formats.rows import InvalidRow, ReadOptions, SourceFile
from tests.support.row_blocks import check_blocks, count_fast_rows, iter_blocks

pytestmark = pytest.mark.usefixtures("small_blocks")

BLOCK_BYTES = 60
TEXTS = st.text(st.sampled_from('a \t\n\r\0\x7f"\\/bué\u0301\u20ac\ufeff\U0001f600'), max_size=6)
LABELS = st.sampled_from(["x", " x", "y", "é", "e\u0301", 1, 0, -0.0, 1.0, "1.0", 0.1, 1e300, True, "true", 10**30])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "text"]), values),
    max_leaves=6,
)
# What is invalid, or another spelling, at any place of a line.
PIECES = ["", " ", "\t", "\r", "\n", ",", ":", "{", "}", "[", "]", '"', "\\", "\\u", "\\ud83d", "\\ude00", "\\u00e9",
          "\\u0000", "\\x", "0", "-", ".", "e", "1e5", "NaN", "-NaN", "Inf", "Infinity", "null", "true", "nul", "\0",
          "\x1f", "é", "\ufeff", "\u3000", "\udcff", '"text":"b",', '"label":"z",', '"a":1,"a":2,', '"a":{"b":1,"b":2},'
          '"e\u0301":1,"é":2,', '"te\\u0078t":"c",', '"text":null,', '"label":[1],', "[[[[" * 5]  # fmt: skip


@st.composite
def draw_line(draw: st.DrawFn) -> str:
    """Return a row as JSON, in one of several spellings, rarely with a piece inserted, or characters removed."""
    row = {"text": draw(TEXTS), "label": draw(LABELS), **draw(st.dictionaries(st.sampled_from("abc"), VALUES))}
    keys = draw(st.permutations(list(row)))
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", "\r: ")]))
    line = json.dumps({key: row[key] for key in keys}, ensure_ascii=draw(st.booleans()), separators=separators)
    if draw(st.integers(0, 9)) == 0:
        position = draw(st.integers(0, len(line)))
        line = line[:position] + draw(st.sampled_from(PIECES)) + line[position + draw(st.integers(0, 2)) :]
    return line


@settings(deadline=None, max_examples=300)
@given(lines=st.lists(draw_line() | st.sampled_from(["", " \t", "\u3000"]), max_size=8), is_bom=st.booleans())
def test_rows_and_errors_are_those_of_the_reader(path: Path, lines: list[str], is_bom: bool) -> None:
    """Escapes, nested values, white space, keys that occur twice, invalid JSON."""
    path.write_bytes(b"\xef\xbb\xbf" * is_bom + "\n".join(lines).encode("utf-8", "surrogateescape"))
    check_blocks(path, "jsonl", DataSettings())


def test_every_change_of_a_line_is_read_as_the_reader_reads_it(path: Path) -> None:
    """Each piece, at random positions of a row with all kinds of values."""
    row = '{"a": [1, -0.5e+3, {"text": "b"}, []], "text": "c\\"\\ud83d\\ude00 é", "b": null, "label": "x", "c": {}}'
    generator = random.Random(0)
    for piece in PIECES:
        for _ in range(12):
            position, removed = generator.randrange(len(row) + 1), generator.randrange(3)
            line = row[:position] + piece + row[position + removed :]
            path.write_bytes(f"{row}\n{line}\r\n{row}".encode("utf-8", "surrogateescape"))
            check_blocks(path, "jsonl", DataSettings())


@pytest.mark.parametrize(
    "others",
    [
        {},
        {"meta": {"source": {"text": "other"}, "tags": ["a", {"b": [[]]}]}, "score": -1.5e-7, "ok": None, "id": 7},
        {"url": 'https://example.org/\u00e9?a="b"\n', "empty": {}, "größe": [1, "a"]},
    ],
)
@pytest.mark.parametrize("is_ascii", [True, False])
def test_usual_rows_are_not_read_by_the_reader(path: Path, others: dict[str, Any], is_ascii: bool) -> None:
    """The reader in Python is not called for usual rows."""
    rows = [{"label": label, "text": f'a "é" \U0001f600\n{label}', **others} for label in ["x", 1, 1.0, False] * 5]
    path.write_text("\ufeff" + "\n\n".join(json.dumps(row, ensure_ascii=is_ascii) for row in rows))
    assert count_fast_rows(path, "jsonl") == 20
    assert check_blocks(path, "jsonl", DataSettings()) == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"label": "x", "text": null}', "'text' must be a string, not None"),
        ('{"label": "x", "text": ["a"]}', "'text' must be a string, not ['a']"),
        ('{"label": null, "text": "a"}', "the label in 'label' is empty"),
        ('{"label": [1], "text": "a"}', "the label in 'label' is a list"),
        ('{"text": "a"}', "has no 'label'"),
        ('["text", "label"]', "must be a JSON object, not a list"),
        ('{"label": "x", "text": "a"}{"label": "x", "text": "a"}', "not valid JSON"),
        ('{"label": "x", "text": "a", "b": Inf}', "not valid JSON"),
        ('\ufeff{"label": "x", "text": "a"}', "not valid JSON"),
        ('{"label": "x", "text": "a", "b": [{"c": 1, "c": 2}]}', "an object has a key twice: c"),
        ('{"label": "x", "text": "a", "é": 1, "e\u0301": 2}', "an object has a key twice: é"),
        (r'{"label": "x", "text": "a", "b": [{"\u00e9": 1, "e\u0301": 2}]}', "an object has a key twice: é"),
    ],
)
def test_invalid_rows_are_errors_of_their_line(path: Path, line: str, message: str) -> None:
    """The second line starts a block, as the first one has nearly as many bytes as a block."""
    row = json.dumps({"label": "x", "text": "a" * (BLOCK_BYTES - 30)})
    path.write_text(f"{row}\n{line}\n{row}\n")
    assert re.search(f"line 2: .*{re.escape(message)}", check_blocks(path, "jsonl", DataSettings()))


@pytest.mark.parametrize("value", ["null", "[1]", "{}", '" "', "1e999"])
def test_invalid_labels_are_left_to_the_reader(path: Path, value: str) -> None:
    """It passes them on to `on_invalid_row`, and its rows before and after are those of the block."""
    path.write_text(f'{{"label":1,"text":"a"}}\n{{"label":{value},"text":"b"}}\n{{"label":1,"text":"c"}}\n')
    invalid: list[InvalidRow] = []
    options = ReadOptions(DataSettings(), on_invalid_row=invalid.append)
    assert list(iter_blocks(SourceFile(str(path), "jsonl"), options)) == [(1, "a", "1"), (3, "c", "1")]
    assert [row.number for row in invalid] == [2]


@pytest.mark.parametrize("values", [*itertools.permutations(["1", "1.0", "true", '"1"', '" 1"'], 2)])
def test_labels_of_a_block_that_python_compares_as_equal_differ(path: Path, values: tuple[str, str]) -> None:
    path.write_text("".join(f'{{"label":{value},"text":""}}\n' for value in values))
    assert path.stat().st_size <= BLOCK_BYTES
    assert count_fast_rows(path, "jsonl") == 2
    check_blocks(path, "jsonl", DataSettings())


@pytest.mark.parametrize(
    "text", [r"\ud83d", r"\ude00", r"\ude00\ude00", r"\ud83d\ud83d\ude00", r"\ud83d\n", r"\ud83dx"]
)
def test_lone_surrogates_are_errors(path: Path, text: str) -> None:
    path.write_text(f'{{"label": 1, "text": "a"}}\n{{"label": 1, "text": "{text}"}}\n')
    assert "line 2: contains a lone surrogate" in check_blocks(path, "jsonl", DataSettings())


def test_limits_are_left_to_the_reader(path: Path) -> None:
    """Deep values, many keys, and integers that Python does not convert."""
    many = ", ".join(f'"key {number}": {number}' for number in range(1000))
    for value in ("[" * 500 + "]" * 500, f"{{{many}}}", "1" * 4300, "1" * 4301, "0." + "1" * 5000):
        path.write_text(f'{{"label": 1, "other": {value}, "text": "a"}}\n' * 2)
        assert ("not valid JSON" in check_blocks(path, "jsonl", DataSettings())) == (value == "1" * 4301)


@pytest.mark.parametrize(
    "settings", [{"text_column": "label"}, {"label_column": "té"}, {"text_column": "a"}, {"encoding": "latin-1"}]
)
def test_settings_of_the_data_are_followed(path: Path, settings: dict[str, str]) -> None:
    path.write_bytes('{"label": "x", "te\u0301": "z", "text": "é"}\n'.encode() * 3)
    assert ("has no 'a'" in check_blocks(path, "jsonl", DataSettings(**settings))) == ("a" in settings.values())
