"""Labelled texts in every format that is read, as files and as datasets saved to disk."""

import csv
import gzip
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet

Rows = Sequence[tuple[str, str]]
"""Labels and texts."""

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".arrow", ".feather", ".txt")


def encode_rows(rows: Rows, suffix: str) -> bytes:
    """Return a file of rows in the format of a suffix, with the columns `label` and `text`."""
    if suffix in (".csv", ".tsv"):
        stream = io.StringIO()
        csv.writer(stream, delimiter="\t" if suffix == ".tsv" else ",").writerows([("label", "text"), *rows])
        return stream.getvalue().encode()
    if suffix == ".jsonl":
        return "".join(json.dumps({"text": text, "label": label}) + "\n" for label, text in rows).encode()
    if suffix in (".txt", ".ft"):
        return "".join(f"__label__{label} {text}\n" for label, text in rows).encode()
    return encode_table(pyarrow.table({"label": [row[0] for row in rows], "text": [row[1] for row in rows]}), suffix)


def encode_table(table: pyarrow.Table, suffix: str) -> bytes:
    """Return a parquet file, an Arrow stream (.arrow) or a Feather file with a table in several batches."""
    stream = io.BytesIO()
    if suffix == ".parquet":
        pyarrow.parquet.write_table(table, stream, row_group_size=50)
    elif suffix == ".feather":
        pyarrow.feather.write_feather(table, stream, chunksize=50)
    else:
        with pyarrow.ipc.new_stream(stream, table.schema) as writer:
            writer.write_table(table, 50)
    return stream.getvalue()


def compress(content: bytes, suffix: str) -> bytes:
    """Return bytes compressed as a suffix says: .gz, .zst or none."""
    if suffix == ".gz":
        return gzip.compress(content)
    return pyarrow.compress(content, "zstd", asbytes=True) if suffix == ".zst" else content


def save_dataset(folder: Path, columns: Mapping[str, Sequence[object]], class_names: Sequence[str] = ()) -> Path:
    """Write a dataset as `datasets.Dataset.save_to_disk` does, in two Arrow streams; return its folder.

    Args:
        columns: values by column; class_names: names of the numbers in `label`.
    """
    features: dict[str, object] = {name: {"dtype": "string", "_type": "Value"} for name in columns}
    if class_names:
        features["label"] = {"names": list(class_names), "_type": "ClassLabel"}
    table = pyarrow.table(dict(columns))
    folder.mkdir(parents=True)
    half = len(table) // 2
    names = [f"data-0000{number}-of-00002.arrow" for number in range(2)]
    for name, part in zip(names, (table[:half], table[half:]), strict=True):
        (folder / name).write_bytes(encode_table(part, ".arrow"))
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train", "_fingerprint": "0"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    return folder
