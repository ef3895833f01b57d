"""Lines of fastText: a text and its label, or labels, which start with `__label__`.

    __label__billing Why was my card charged twice?

As in fastText, a label may stand anywhere in its line, between spaces. The names of the columns do not matter.
"""

import re
from collections.abc import Iterator

from jobs.datasets.formats.labels import SINGLE_LABEL, LabelParser
from jobs.datasets.formats.rows import DataError, Label, ReadOptions, Row, SourceFile
from jobs.datasets.formats.text_lines import check_decoded, iter_lines

LABEL_PREFIX = "__label__"

_FIRST_LABEL = re.compile(rf"{LABEL_PREFIX}(\S*)")
_LABEL = re.compile(rf"(?:^|(?<=\s)){LABEL_PREFIX}(\S*)")


def read_fasttext(file: SourceFile, options: ReadOptions) -> Iterator[Row]:
    """Yield the rows of a file of lines; without `labelled`, labels are removed from the texts, and may be missing.

    Raises:
        DataError: a line has no label or several, without `data.multi_label`, or errors as of `iter_lines`.
    """
    parser = LabelParser(file, LABEL_PREFIX, options.data)
    for number, line in enumerate(iter_lines(file, options), start=file.first_number):
        line = line.rstrip("\r\n")
        if options.on_invalid_row:
            try:
                check_decoded(file, options, number, line)
            except DataError as error:
                options.reject(file, number, error)
                continue
        labels, text = _split(line)
        label: Label = ""
        if options.labelled:
            if not labels and not line.strip():
                continue
            several = options.data.is_multi_label
            if len(labels) != 1 and not several:
                raise DataError(f"{file.describe_position(number)}: {_describe_labels(labels)}")
            label = parser.parse(number, labels if several else labels[0])
        record = None
        if options.with_records:
            record = {"text": text} | ({"label": " ".join(labels)} if labels else {})
        yield number, text, label, record


def _split(line: str) -> tuple[list[str], str]:
    """Return the labels of a line, and its text."""
    match = _FIRST_LABEL.match(line)
    text = line[match.end() :] if match else line
    if LABEL_PREFIX not in text:  # nearly every line; the search below takes longer than everything else
        return ([match[1]], text.strip()) if match else ([], line)
    labels = _LABEL.findall(line)
    return labels, _LABEL.sub("", line).strip() if labels else line


def _describe_labels(labels: list[str]) -> str:
    if labels:
        return f"has {len(labels)} labels, {', '.join(labels)}; {SINGLE_LABEL}"
    return f"has no label; a line of fastText starts with {LABEL_PREFIX}NAME"
