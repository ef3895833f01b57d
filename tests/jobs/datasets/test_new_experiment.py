"""Experiment files that are written for a file of labelled texts."""

import gzip
from pathlib import Path

import fsspec
import pyarrow
import pytest

from jobs.config.experiment import ExperimentError, load_experiment
from jobs.config.settings import DataSettings
from jobs.datasets.new_experiment import write_experiment
from jobs.datasets.readers import DataError
from jobs.datasets.samples import read_sample
from tests.support.text_formats import encode_table

TEXTS = ["Where is my parcel; it is late, again", "The invoice, is wrong", "Thank you", "My card was charged twice"]
LABELS = ["delivery", "billing", "other", "billing"]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_columns_of_dates_are_no_labels() -> None:
    """`train` would refuse them, whatever their names."""
    table = pyarrow.table(
        {
            "message": ["one two three", "four five six"] * 9,
            "queue": pyarrow.array([1, 2] * 9, pyarrow.timestamp("ms")),
            "kind": ["x", "y"] * 9,
        }
    )
    Path("rows.parquet").write_bytes(encode_table(table, ".parquet"))
    assert write_experiment("rows.parquet", None, [])[1].data.label_column == "kind"


def write_rows(name: str, delimiter: str, header: list[str], rows: list[list[str]], encoding: str = "utf-8") -> None:
    lines = [delimiter.join(f'"{value}"' if delimiter in value else value for value in row) for row in [header, *rows]]
    content = "\n".join(lines).encode(encoding)
    Path(name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    ("header", "text", "label"),
    [
        (["id", "text", "label"], "text", "label"),
        (["number", "Customer message", "queue"], "Customer message", "queue"),
        (["a", "b", "c"], "b", "c"),
    ],
)
def test_columns_and_delimiter_are_guessed(delimiter: str, header: list[str], text: str, label: str) -> None:
    """By the names of the columns, or else by their values."""
    rows = [[str(index), *values] for index, values in enumerate(zip(TEXTS, LABELS, strict=True))]
    write_rows("my data.csv", delimiter, header, rows)
    path, experiment = write_experiment("my data.csv", None, [])
    assert (path, experiment.name, experiment.data.train) == ("my data.yaml", "my-data", "my data.csv")
    assert (experiment.data.text_column, experiment.data.label_column) == (text, label)
    assert load_experiment(path) == experiment
    assert read_sample("my data.csv").delimiter == delimiter
    if "delimiter" in DataSettings.model_fields and delimiter != ",":
        assert getattr(experiment.data, "delimiter", None) == delimiter


@pytest.mark.parametrize("name", ["x.jsonl", "x.JSONL.gz"])
def test_jsonl(name: str) -> None:
    content = b'\n{"intent": 1, "utterance": "a b"}\n{"intent": 2, "utterance": "c"}\n'
    Path(name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    _, experiment = write_experiment(name, "new/x.yaml", ["train.epochs=3", "name=other"])
    assert (experiment.data.text_column, experiment.data.label_column) == ("utterance", "intent")
    assert (experiment.train.epochs, experiment.name) == (3, "other")
    assert load_experiment("new/x.yaml") == experiment


def test_a_named_column_is_not_guessed() -> None:
    write_rows("x.csv", ",", ["text", "label"], [["a", "b c d"], ["b", "e"], ["a", "f"]])
    _, experiment = write_experiment("x.csv", None, ["data.text_column=label"])
    assert (experiment.data.text_column, experiment.data.label_column) == ("label", "text")


def test_a_named_column_must_exist() -> None:
    write_rows("x.csv", ",", ["text", "label"], [["a", "b"]])
    with pytest.raises(ExperimentError, match=r"x\.csv: has no column 'labels'; it has text, label"):
        write_experiment("x.csv", None, ["data.label_column=labels"])
    assert not Path("x.yaml").exists()


def test_the_encoding_is_guessed() -> None:
    write_rows("x.csv", ",", ["text", "label"], [["caf\u00e9", "a"], ["th\u00e9", "b"]], "cp1252")
    assert write_experiment("x.csv", None, [])[1].data.encoding == "cp1252"
    write_rows("y.csv", ",", ["text", "label"], [["caf\u00e9", "a"], ["th\u00e9", "b"]], "utf-8-sig")
    experiment = write_experiment("y.csv", None, [])[1]
    assert (experiment.data.encoding, experiment.data.text_column) == ("utf-8", "text")


def test_a_file_is_never_overwritten() -> None:
    write_rows("x.csv", ",", ["text", "label"], [["a", "b"]])
    Path("x.yaml").write_text("name: mine")
    with pytest.raises(ExperimentError, match=r"x\.yaml: exists and is not overwritten; name another file with --out"):
        write_experiment("x.csv", None, [])
    assert Path("x.yaml").read_text() == "name: mine"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "", "x.csv: is empty"),
        ("x.csv", "text\na\n", "x.csv: has the single column 'text'"),
        ("x.csv", "a,b\n1,2\n3,4\n5,6\n7,8\n9,0\n", "no column looks like labels; it has a, b; name it with"),
        ("x.csv", "text,label\n", "x.csv: has no rows below the header"),
        ("x.jsonl", "[]\n", "x.jsonl, row 1: is not a JSON object"),
        ("x.jsonl", "{\n", "x.jsonl, row 1: not valid JSON"),
        ("x.csv.gz", "\x1f\x8btext,label", "x.csv.gz: cannot be read"),
        ("x.parquet", "PAR1", "x.parquet: cannot be read as parquet"),
        ("x.pdf", "a", "x.pdf: the name must end in .csv, .tsv, .jsonl"),
        ("x.txt", "a b", "x.txt, line 1: has no label; a line of fastText starts with __label__NAME"),
        ("none.csv", None, "none.csv: no such file"),
    ],
)
def test_errors_name_the_file(name: str, content: str | None, message: str) -> None:
    if content is not None:
        Path(name).write_text(content, encoding="latin-1")
    with pytest.raises((ExperimentError, DataError)) as error:
        write_experiment(name, None, [])
    assert message in str(error.value)
    assert not list(Path().glob("*.yaml"))


def test_an_experiment_is_not_written_to_a_uri() -> None:
    """No local folder of its name is created."""
    write_rows("x.csv", ",", ["text", "label"], [[text, label] for text, label in zip(TEXTS, LABELS, strict=True)])
    with pytest.raises(ExperimentError, match=r"s3://bucket/x\.yaml: is a URI"):
        write_experiment("x.csv", "s3://bucket/x.yaml", [])
    assert [path.name for path in Path().iterdir()] == ["x.csv"]
    _, experiment = write_experiment("x.csv", None, ["data.train=s3://bucket/y.csv"])
    assert experiment.data.train == "s3://bucket/y.csv"


def test_texts_may_be_at_a_uri(tmp_path: Path) -> None:
    """The experiment is named after the file, and has the URI as it was given."""
    table = pyarrow.table({"Queue": LABELS, "Message": TEXTS})
    fsspec.filesystem("memory").pipe({"/my data.parquet": encode_table(table, ".parquet")})
    path, experiment = write_experiment("memory:///my data.parquet", None, [])
    assert (path, experiment.name) == ("my data.yaml", "my-data")
    data = experiment.data
    assert (data.train, data.text_column, data.label_column) == ("memory:///my data.parquet", "Message", "Queue")


@pytest.mark.parametrize(
    ("source", "name"), [("parts", "parts"), ("parts/", "parts"), ("parts/*.jsonl.zst", "experiment"), ("p*", "p")]
)
def test_texts_may_be_in_several_files(source: str, name: str) -> None:
    """The start of the first one is read."""
    Path("parts").mkdir()
    for number, label in enumerate("ab"):
        content = f'{{"intent": "{label}", "utterance": "a b"}}\n' * 3
        Path(f"parts/{number}.jsonl.zst").write_bytes(pyarrow.compress(content.encode(), "zstd", asbytes=True))
    path, experiment = write_experiment(source, None, ["data.label_column=intent"])
    assert (path, experiment.name, experiment.data.train) == (f"{name}.yaml", name, source.rstrip("/"))
    assert (experiment.data.text_column, experiment.data.label_column) == ("utterance", "intent")
    assert load_experiment(path) == experiment


def test_lines_of_fasttext_have_no_columns_to_guess() -> None:
    Path("train.ft").write_text("__label__a b c\n__label__d e\n")
    _, experiment = write_experiment("train.ft", None, [])
    assert (experiment.data.text_column, experiment.data.label_column) == ("text", "label")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my data.csv", "is a file of texts, not an experiment; `finetune-cnn init 'my data.csv'` writes"),
        ("x.JSONL.gz", "is a file of texts, not an experiment"),
        ("x.parquet", "is a file of texts, not an experiment"),
        ("x.csv.zst", "is a file of texts, not an experiment"),
        ("folder", "is a folder; name an experiment file, such as folder/experiment.yaml"),
        ("best.json", "names a checkpoint; experiments are the experiment.yaml of run folders"),
        ("list.yaml", "must contain keys and values, not a list; `finetune-cnn show` prints an example"),
    ],
)
def test_another_file_as_experiment(name: str, message: str) -> None:
    """The message says what to do with it."""
    Path("folder").mkdir()
    Path("folder/experiment.yaml").touch()
    Path("list.yaml").write_text("- a")
    with pytest.raises(ExperimentError) as error:
        load_experiment(name)
    assert message in str(error.value)
