"""Sides of the table `jsonl` of benchmarks/ingest.py: blocks of rows to the bytes of texts and the numbers of labels.

Each side takes the bytes of whole lines, and returns the texts in UTF-8, one after the other, their offsets, the
distinct labels and the number of each row's label, on one thread.

The project's readers reject a line that is not valid JSON or UTF-8, that lacks a key, an object that has a key twice, a
text that is no string, and a label that is null, a list or NaN. All sides but the reader in Python check first whether
the block is UTF-8.

`msgspec` decodes the two keys alone, and does not see keys that occur twice. `msgspec, all keys` decodes complete
objects and counts the keys before and after: one that occurs twice is one key afterwards. `pyarrow` reads the two keys
as columns of strings, so it rejects labels that are numbers, and does not see a key that occurs twice in another value.
`pyarrow, all keys` reads the others too, and rejects a block in which the values of one have different types.
"""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.json

from benchmarks.reporting import Row
from jobs.config.settings import DataSettings
from jobs.datasets.formats.encoded_texts import encode_column
from jobs.datasets.formats.json_lines import read_jsonl
from jobs.datasets.formats.labels import LabelParser
from jobs.datasets.formats.rows import DataError, FilePart, ReadOptions, SourceFile
from jobs.datasets.prepared.blocks import BLOCK_BYTES, find_parser
from jobs.datasets.prepared.row_blocks import is_utf8
from jobs.datasets.prepared.row_kernel import UNUSUAL
from jobs.datasets.tokenization.code_points import encode_texts
from jobs.datasets.tokenization.word_index import WordIndex

PROJECT = "this project"
Encoded = tuple[bytes, np.ndarray, list[Any], np.ndarray]
FILE, OPTIONS = SourceFile("rows.jsonl", "jsonl"), ReadOptions(DataSettings())
SCHEMA = pa.schema({"text": pa.string(), "label": pa.string()})
KINDS = ["plain", "escaped", "nested"]
KEY = re.compile(rb'"[ \t\r]*:')  # the end of a key, and what looks like one in a string
ESCAPED_KEY_END = re.compile(rb"\\u00(22|3[aA])")  # msgspec writes these characters without an escape
VALID = b'{"text": "a", "label": "x"}\n'
INVALID = [
    b'{"text": "a", "text": "b", "label": "x"}', b'{"text": "a", "label": "x", "c": {"d": 1, "d": 2}}',
    b'{"text": "a", "label": "x", "c": "\xff"}', b'{"text": "\\ud800", "label": "x"}', b'{"text": null, "label": "x"}',
    b'{"text": "a", "label": null}', b'{"text": "a", "label": ["x"]}', b'{"text": "a", "label": NaN}',
    b'{"text": "a"}', b'{"text": "a", "label": "x"', b'{"text": "a", "label": "x", "c": [1,]}', b'["a", "x"]',
]  # fmt: skip


class LabelledText(msgspec.Struct):
    """A row; other keys are ignored."""

    text: str
    label: str | int | float | bool


_decode_rows = msgspec.json.Decoder(LabelledText).decode_lines
_decode_objects = msgspec.json.Decoder(dict[str, Any]).decode_lines


def parse_with_kernel(block: bytes) -> Encoded:
    """Return the rows with the compiled kernel, as row_blocks.py; ValueError if one is unusual."""
    found = find_parser(FILE, OPTIONS)
    assert found is not None
    _check_utf8(block)
    parser, content = found[0], np.frombuffer(block, np.uint8)
    num_lines = block.count(b"\n") + 1
    texts, labels = np.empty((2, len(content)), np.uint8)
    text_offsets, label_offsets = np.zeros((2, num_lines + 1), np.int64)
    rows = (texts, text_offsets[1:], labels, label_offsets[1:], np.empty(num_lines, np.int64))
    count = parser.read(content, parser.columns, rows)
    if count == UNUSUAL:
        raise ValueError
    text_offsets, label_offsets, index = text_offsets[: count + 1], label_offsets[: count + 1], WordIndex()
    encoded = np.frombuffer(labels[: label_offsets[-1]].tobytes(), np.uint8)
    indices = index.add_encoded(encoded, label_offsets)
    names = LabelParser(FILE, "label", OPTIONS.data)
    words = [names.parse(0, parser.parse_label(word)) for word in index.list_words()]
    return texts[: text_offsets[-1]].tobytes(), text_offsets, words, indices


def parse_with_python(block: bytes) -> Encoded:
    """Return the rows with the project's reader of small files."""
    file = replace(FILE, part=FilePart(0, len(block), 0, content=block))
    _, texts, labels, _ = zip(*read_jsonl(file, OPTIONS), strict=True)
    return _encode(texts, labels)


def parse_with_msgspec(block: bytes) -> Encoded:
    """Return the rows with msgspec, which reads no other keys."""
    _check_utf8(block)
    rows = _decode_rows(block)
    return _encode([row.text for row in rows], [row.label for row in rows])


def parse_with_complete_msgspec(block: bytes) -> Encoded:
    """Return the rows with msgspec; the reader in Python reads a block in which a key may occur twice."""
    _check_utf8(block)
    objects = _decode_objects(block)
    is_unique = len(KEY.findall(block)) == msgspec.json.encode(objects).count(b'":')
    if not is_unique or ESCAPED_KEY_END.search(block) or not all(map(str.isascii, set().union(*objects))):
        return parse_with_python(block)
    texts, labels = [row["text"] for row in objects], [row["label"] for row in objects]
    if not {str} >= set(map(type, texts)):
        raise ValueError
    names = LabelParser(FILE, "label", OPTIONS.data)
    if set(map(type, labels)) == {str}:
        spelled = {label: names.parse(0, label) for label in dict.fromkeys(labels)}
        return _encode(texts, map(spelled.__getitem__, labels))
    return _encode(texts, [names.parse(0, label) for label in labels])


def parse_with_pyarrow(block: bytes, other_keys: Literal["ignore", "infer"] = "ignore") -> Encoded:
    """Return the rows with pyarrow, whose labels are strings."""
    _check_utf8(block)
    table = pyarrow.json.read_json(
        pa.BufferReader(block),
        read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(block) + 1),
        parse_options=pyarrow.json.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior=other_keys),
    ).combine_chunks()
    if table["text"].null_count or table["label"].null_count:
        raise ValueError
    texts, labels = encode_column(table["text"].chunk(0)), table["label"].chunk(0).dictionary_encode()
    return bytes(texts.content), texts.offsets, labels.dictionary.to_pylist(), labels.indices.to_numpy()


def _check_utf8(block: bytes) -> None:
    if not is_utf8(np.frombuffer(block, np.uint8)):
        raise ValueError


def _encode(texts: Sequence[str], labels: Iterable[Any]) -> Encoded:
    content, offsets = encode_texts(texts)
    names: dict[Any, int] = {}
    indices = np.array([names.setdefault(label, len(names)) for label in labels], np.int32)
    return content.tobytes(), offsets, list(names), indices


SIDES: dict[str, Callable[[bytes], Encoded]] = {
    PROJECT: parse_with_kernel,
    "msgspec": parse_with_msgspec,
    "msgspec, all keys": parse_with_complete_msgspec,
    "pyarrow": parse_with_pyarrow,
    "pyarrow, all keys": partial(parse_with_pyarrow, other_keys="infer"),
    "this project, in Python": parse_with_python,
}


def measure_json_parsing(num_rows: int, rounds: int) -> list[Row]:
    """Return the speed of all sides for each kind of rows, by the time of the processor; the fastest round counts.

    The sides take turns. `relative time` is that of the project; `accepted` counts the lines of `INVALID` that a side
    does not reject.
    """
    accepted = {side: sum(_accepts(parse, line) for line in INVALID) for side, parse in SIDES.items()}
    table = []
    for kind in KINDS:
        blocks = list(make_blocks(kind, num_rows))
        num_bytes = sum(map(len, blocks))
        check_sides(blocks[-1])
        seconds = dict.fromkeys(SIDES, float("inf"))
        for _ in range(rounds):
            for side, parse in SIDES.items():
                start = time.process_time()
                for block in blocks:
                    parse(block)
                seconds[side] = min(seconds[side], time.process_time() - start)
        for side, value in seconds.items():
            table.append(
                {"rows": kind, "side": side, "MB/s": num_bytes / value / 1e6, "rows/s": num_rows / value,
                 "relative time": value / seconds[PROJECT], "accepted": accepted[side]}
            )  # fmt: skip
    return table


def make_blocks(kind: str, num_rows: int) -> Iterator[bytes]:
    """Yield blocks of whole lines of rows of twenty words, with four labels."""
    random = np.random.default_rng(0)
    words = [f"wd{number}" + ("\u00e9" if kind == "escaped" and number % 4 == 0 else "") for number in range(60_000)]
    block = bytearray()
    for number in range(num_rows):
        numbers = (len(words) ** random.random(20) - 1).astype(int).tolist()  # Zipf's law
        row: dict[str, Any] = {"text": " ".join([words[index] for index in numbers]), "label": f"c{number % 4}"}
        if kind == "nested":
            source = {"name": "crawl", "url": f"https://example.org/{number}", "tags": ["a", "b"]}
            row = {"id": number, "source": source, "score": 0.25, "reviewed": None} | row
        block += json.dumps(row).encode() + b"\n"
        if len(block) >= BLOCK_BYTES or number == num_rows - 1:
            yield bytes(block)
            block.clear()


def check_sides(block: bytes) -> None:
    """Raise an error if a side returns other rows than the reader in Python."""
    expected, offsets, *labels = parse_with_python(block)
    for side, parse in SIDES.items():
        content, bounds, names, indices = parse(block)
        same = content == expected and np.array_equal(bounds, offsets)
        if not same or [names[index] for index in indices] != [labels[0][index] for index in labels[1]]:
            raise ValueError(f"{side} returns other rows")


def _accepts(parse: Callable[[bytes], Encoded], line: bytes) -> bool:
    parse(VALID)
    try:
        parse(VALID + line + b"\n" + VALID)
    except (ValueError, KeyError, DataError, msgspec.MsgspecError):  # pyarrow's errors are ValueErrors
        return False
    return True
