"""Documents of the quality filter: texts of installed Python packages, of which the prose is to be kept.

A function's docstring starts with prose. Its sections, such as parameters and examples, and its code are to be dropped.
"""

import ast
import csv
import random
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from jobs.datasets.docstrings import MAX_WORDS, MIN_WORDS, compile_name_pattern, extract_passage, find_source_files

PACKAGES = ("networkx", "scipy", "sklearn")
KEEP, DROP = "keep", "drop"
LABELLED_ROWS = 1000  # of each label, in the training file
FILE_ROWS, GROUP_ROWS = 1_000_000, 50_000

_SECTION = re.compile(r"^\s*(Parameters|Returns|Examples?|Attributes|Notes|See Also|Raises)\s*$", re.MULTILINE)

Document = tuple[str, str]
"""Label and text."""


def collect_documents(packages: Sequence[str]) -> list[Document]:
    """Return the different documents of packages, in a random order that is always the same."""
    pattern = compile_name_pattern(packages)
    documents: dict[str, str] = {}
    for package in packages:
        for path in find_source_files(package):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escape sequences in the source
                tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef) and (docstring := ast.get_docstring(node)):
                    if passage := extract_passage(docstring, pattern):
                        documents.setdefault(passage, KEEP)
                    for text in _extract_rest(docstring, node):
                        documents.setdefault(text, DROP)
    rows = [(label, text) for text, label in documents.items()]
    random.Random(0).shuffle(rows)
    return rows


def _extract_rest(docstring: str, node: ast.FunctionDef) -> Iterator[str]:
    section = _SECTION.search(docstring)
    code = "\n".join(map(ast.unparse, node.body[1:]))
    for text in (docstring[section.start() :] if section else "", code):
        words = text.split()[:MAX_WORDS]
        if len(words) >= MIN_WORDS:
            yield " ".join(words)


def write_documents(folder: Path, documents: Sequence[Document], num_documents: int) -> None:
    """Write labelled.csv, and documents/*.parquet with `num_documents` of the others, which are repeated.

    The column `expected` of the latter has the right label, to see what the filter does. The folder `documents` gets
    its name when all files are complete.
    """
    import pyarrow as pa
    import pyarrow.parquet

    others: list[Document] = []
    with (folder / "labelled.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["label", "text"])
        counts = {KEEP: 0, DROP: 0}
        for label, text in documents:
            if counts[label] < LABELLED_ROWS:
                counts[label] += 1
                writer.writerow([label, text])
            else:
                others.append((label, text))
    labels, texts = (pa.array(column) for column in zip(*others, strict=True))
    part = folder / "documents.part"
    shutil.rmtree(part, ignore_errors=True)  # of an interrupted run
    part.mkdir()
    for number, first in enumerate(range(0, num_documents, FILE_ROWS)):
        path, end = part / f"{number:05}.parquet", min(first + FILE_ROWS, num_documents)
        schema = pa.schema({"id": pa.int64(), "expected": pa.string(), "text": pa.string()})
        with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
            for start in range(first, end, GROUP_ROWS):
                ids = range(start, min(start + GROUP_ROWS, end))
                rows = pa.array([number % len(others) for number in ids])
                writer.write_table(pa.table([pa.array(ids), labels.take(rows), texts.take(rows)], schema=schema))
    part.rename(folder / "documents")
