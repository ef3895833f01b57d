"""Experiment files that are written for a file of labelled texts."""

import gzip
from pathlib import Path

import pytest

from jobs.config.experiment import ExperimentError, load_experiment
from jobs.config.new_experiment import read_start, write_experiment
from jobs.config.settings import DataSettings

TEXTS = ["Where is my parcel; it is late, again", "The invoice, is wrong", "Thank you", "My card was charged twice"]
LABELS = ["delivery", "billing", "other", "billing"]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


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
    assert read_start(Path("my data.csv")).delimiter == delimiter
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
        ("x.csv.gz", "text,label", "x.csv.gz: cannot be read"),
        ("x.txt", "a", "x.txt: the name must end in .csv, .tsv or .jsonl"),
        ("none.csv", None, "none.csv: no such file"),
    ],
)
def test_errors_name_the_file(name: str, content: str | None, message: str) -> None:
    if content is not None:
        Path(name).write_text(content)
    with pytest.raises(ExperimentError) as error:
        write_experiment(name, None, [])
    assert message in str(error.value)
    assert not list(Path().glob("*.yaml"))


def test_uris_are_refused() -> None:
    """No local folder of their name is created; the message names a command that works."""
    write_rows("x.csv", ",", ["text", "label"], [[text, label] for text, label in zip(TEXTS, LABELS, strict=True)])
    with pytest.raises(ExperimentError, match=r"s3://bucket/x\.yaml: is a URI"):
        write_experiment("x.csv", "s3://bucket/x.yaml", [])
    with pytest.raises(ExperimentError, match=r"`finetune-cnn init ROWS\.csv data\.train=s3://bucket/y\.csv`"):
        write_experiment("s3://bucket/y.csv", None, [])
    assert [path.name for path in Path().iterdir()] == ["x.csv"]
    _, experiment = write_experiment("x.csv", None, ["data.train=s3://bucket/y.csv"])
    assert experiment.data.train == "s3://bucket/y.csv"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my data.csv", "is a file of texts, not an experiment; `finetune-cnn init 'my data.csv'` writes"),
        ("x.JSONL.gz", "is a file of texts, not an experiment"),
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
