"""Lines of fastText: a text and its label, which starts with `__label__`.

    __label__billing Why was my card charged twice?

As in fastText, a label may stand anywhere in its line, between spaces. The names of the columns do not matter.
"""

import re
from collections.abc import Iterator

from jobs.datasets.formats.labels import LabelParser
from jobs.datasets.formats.rows import DataError, ReadOptions, Row, SourceFile
from jobs.datasets.formats.text_lines import iter_lines

LABEL_PREFIX = "__label__"

_LABEL = re.compile(rf"(?:^|(?<=\s)){LABEL_PREFIX}(\S*)")


def read_fasttext(file: SourceFile, options: ReadOptions) -> Iterator[Row]:
    """Yield the rows of a file of lines; without `labelled`, labels are removed from the texts, and may be missing.

    Raises:
        DataError: a line has no label or several, or errors as of `iter_lines`.
    """
    parser = LabelParser(file, LABEL_PREFIX)
    for number, line in enumerate(iter_lines(file, options), start=1):
        line = line.rstrip("\r\n")
        labels = _LABEL.findall(line) if LABEL_PREFIX in line else []
        text = _LABEL.sub("", line).strip() if labels else line
        label = ""
        if options.labelled:
            if not line.strip():
                continue
            label = parser.parse(number, _select_label(file, number, labels))
        record = None
        if options.with_records:
            record = {"text": text} | ({"label": " ".join(labels)} if labels else {})
        yield number, text, label, record


def _select_label(file: SourceFile, number: int, labels: list[str]) -> str:
    position = file.describe_position(number)
    if not labels:
        raise DataError(f"{position}: has no label; a line of fastText starts with {LABEL_PREFIX}NAME")
    if len(labels) > 1:
        raise DataError(f"{position}: has {len(labels)} labels, {', '.join(labels)}; one label per text is supported")
    return labels[0]
