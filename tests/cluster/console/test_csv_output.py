"""csv files that every reader divides into the rows that were written."""

import csv
import io

import pandas as pd
import pytest

from cluster.console.csv_output import create_csv_writer


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_field_with_any_line_end_stays_one_field(delimiter: str) -> None:
    """Rows end in a line feed."""
    rows = [["text", "label"], ["first line\rsecond", "a"], ["one\ntwo\r\n", 'b "b"'], ["x;y,z", "c"]]
    stream = io.StringIO(newline="")
    writer = create_csv_writer(stream, delimiter)
    writer.writerow(rows[0])
    writer.writerows(rows[1:])
    text = stream.getvalue()
    assert text.startswith(f"text{delimiter}label\n")
    assert [*csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)] == rows
    table = pd.read_csv(io.StringIO(text, newline=""), sep=delimiter, lineterminator="\n")
    assert table.to_numpy().tolist() == rows[1:]
