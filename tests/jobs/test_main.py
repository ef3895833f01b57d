"""The commands as a person types them: mistakes are one line, and files are labelled."""

import csv
import gzip
from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from gensim.models import KeyedVectors

from cluster.package import REPOSITORY
from jobs.__main__ import main
from jobs.config.experiment import Experiment
from jobs.datasets.dataset import load_dataset
from jobs.evaluation import metrics
from jobs.evaluation.evaluate import evaluate
from jobs.evaluation.report import Evaluation, plot_confusion_matrix
from jobs.inference.predict import predict_proba
from jobs.model import checkpoint
from jobs.model.network import Network
from jobs.training import snapshot
from jobs.training.loop import Loop
from tests.conftest import make_test_corpus, read_jsonl


@pytest.fixture
def trained(make_experiment: Callable[..., Experiment], tmp_path: Path) -> Path:
    """A checkpoint of the toy data, trained in this process."""
    experiment = make_experiment(train__epochs=12, train__patience=12)
    corpus = make_test_corpus(experiment)
    loop = Loop(Network(experiment.model, corpus.vectors, 2, 0), corpus, experiment.train, 0)
    list(loop.train_epochs())
    folder = tmp_path / "run" / "checkpoint"
    snapshot.capture(experiment, corpus, loop, resumable=False)(folder)
    return folder


def test_show_prints_the_whole_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    """With the settings given."""
    assert main(["show", "model.dropout=0.25"]) == 0
    assert "dropout: 0.25" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "none.yaml"], "error: none.yaml: no such experiment file"),
        (["train", "model.dropuot=1"], "did you mean 'model.dropout'?"),
        (["tune", "tune.space={}"], "error: tune.space: is empty"),
        (["show", "a.yaml", "b.yaml"], "error: one experiment file at a time"),
        (["evaluate", "nowhere"], "holds neither a checkpoint nor a best.json"),
        (["predict", "nowhere", "x.csv"], "holds neither a checkpoint nor a best.json"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Never a traceback."""
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_evaluate_measures_the_test_part_and_writes_a_report(
    trained: Path, make_experiment: Callable[..., Experiment], capsys: pytest.CaptureFixture[str]
) -> None:
    """The figures agree with the predictions; table, pictures and JSON are there."""
    assert main(["evaluate", str(trained)]) == 0
    shown = capsys.readouterr().out
    found = evaluate(str(trained), [], None)
    test = load_dataset(make_experiment()).test
    loaded = checkpoint.load_checkpoint(str(trained))
    predicted = [loaded.labels[best] for best in predict_proba(loaded, test.texts).argmax(axis=1)]
    right = np.mean([said == true for said, true in zip(predicted, test.labels, strict=True)])
    assert found.accuracy == pytest.approx(right)
    assert found.accuracy > 0.7
    assert f"accuracy {found.accuracy:.4f}" in shown
    report = trained.parent / "report"
    assert f"**{found.accuracy:.4f}**" in (report / "report.md").read_text()
    picture = matplotlib.image.imread(report / "confusion.png")  # (height, width, 4)
    assert min(picture.shape[:2]) > 200
    assert picture[..., :3].std() > 0.01
    assert (report / "evaluation.json").exists()
    assert found.confusion.sum() == len(test)


def test_rows_drawn_anew_are_not_taken_for_unseen_ones(
    trained: Path, toy_csv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row was added to the file, or another seed asked for: the test part would hold rows that were trained on."""
    assert main(["evaluate", str(trained), "seed=1"]) == 2
    assert "not those that training left out" in capsys.readouterr().err
    with toy_csv.open("a") as stream:
        stream.write("good,a new row\n")
    assert main(["evaluate", str(trained)]) == 2
    assert "name unseen texts with data.test=FILE" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The figures are shown all the same."""
    (tmp_path / "file").write_text("")
    assert main(["evaluate", str(trained), "--out", str(tmp_path / "file" / "report")]) == 2
    shown = capsys.readouterr()
    assert "accuracy" in shown.out
    assert "cannot be written" in shown.err
    source = tmp_path / "texts.csv"
    source.write_text("text\na great film\n")
    assert main(["predict", str(trained), str(source), "--out", str(tmp_path / "file" / "x.csv")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_any_label_can_be_drawn(tmp_path: Path) -> None:
    """Formulas, long ones, other scripts."""
    labels = ["$_$ broken", "x " * 200, "\u732b"]
    found = Evaluation(
        "c", "s", 3, 1.0, 1.0, labels, metrics.per_class_metrics(np.arange(3), np.arange(3), 3), np.eye(3, dtype=int)
    )
    plot_confusion_matrix(tmp_path / "confusion.png", found)
    height, width, _ = matplotlib.image.imread(tmp_path / "confusion.png").shape
    assert width > 200 < height


def test_evaluate_on_another_file(trained: Path, tmp_path: Path) -> None:
    """Any labelled file will do; a label that the checkpoint does not know is an error."""
    (tmp_path / "other.csv").write_text("label,text\ngood,a great film\nbad,an awful film\ngood,lovely and warm\n")
    found = evaluate(str(trained), [f"data.test={tmp_path}/other.csv"], str(tmp_path / "out"))
    assert found.rows == 3
    assert (tmp_path / "out" / "report.md").exists()
    (tmp_path / "other.csv").write_text("label,text\nso-so,a film\n")
    assert main(["evaluate", str(trained), f"data.test={tmp_path}/other.csv"]) == 2


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_predict_labels_a_file(trained: Path, tmp_path: Path, suffix: str) -> None:
    """Every row in its order, the empty text too; no label column is needed."""
    source = tmp_path / "texts.csv"
    source.write_text('id,text\n1,"a great, lovely film"\n2,awful and dull\n3,\n4,"two\nlines great"\n')
    out = tmp_path / f"out{suffix}"
    assert main(["predict", str(trained), str(source), "--out", str(out)]) == 0
    if suffix == ".jsonl":
        rows = read_jsonl(out)
    else:
        with out.open(newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t" if suffix == ".tsv" else ","))
    assert [row["label"] for row in rows[:2]] == ["good", "bad"]
    assert len(rows) == 4
    assert rows[0]["text"] == "a great, lovely film"
    expected = predict_proba(
        checkpoint.load_checkpoint(str(trained)), ["a great, lovely film", "awful and dull", "", "two\nlines great"]
    )
    np.testing.assert_allclose([float(row["score"]) for row in rows], expected.max(axis=1), atol=1e-6)


def test_predict_to_standard_output_and_its_mistakes(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """jsonl by default; a wrong file or column is one line."""
    source = tmp_path / "texts.csv"
    source.write_text("body\na great film\n")
    assert main(["predict", str(trained), str(source), "--text-column", "body"]) == 0
    assert '"label": "good"' in capsys.readouterr().out
    assert main(["predict", str(trained), str(source)]) == 2
    assert "has no column 'text'" in capsys.readouterr().err
    assert main(["predict", str(trained), str(source), "--out", "x.pdf"]) == 2
    assert not Path("x.pdf").exists()


def test_texts_are_cut_off_where_training_cuts_them_off(trained: Path) -> None:
    """Words past `text.max_tokens` change nothing."""
    loaded = checkpoint.load_checkpoint(str(trained))
    whole = loaded.experiment.text.max_tokens
    first, longer = predict_proba(loaded, ["the " * whole, "the " * whole + "great " * 9])
    np.testing.assert_array_equal(first, longer)


def test_vectors_are_trained_on_files_of_any_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines, a csv column, a jsonl field, gzipped; settings in any place; progress to the end."""
    (tmp_path / "a.txt").write_text("The cat sat\n\nthe dog sat\n" * 20)
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"id,body\n1,a bird sat\n" + b"2,a bird sang\n" * 9))
    (tmp_path / "c.jsonl").write_text('{"body": "a fish swam"}\n' * 9)
    files = [str(tmp_path / name) for name in ("a.txt", "b.csv.gz", "c.jsonl")]
    out = tmp_path / "new" / "out.bin"
    command = ["vectors", "train", *files, "--text-column", "body", "--out", str(out), "--threads", "1"]
    settings = ["vectors.dimensions=6", "vectors.epochs=2", "vectors.min_count=10", "vectors.negative=0"]
    assert main([*command, *settings]) == 0
    shown = capsys.readouterr()
    assert "59 texts, 177 words, 9 of them different" in shown.out
    assert f"wrote {out}: 6 words x 6 dimensions" in shown.out
    assert "word2vec, 1 threads: 100%, 354 words" in shown.out
    assert "reading texts: 100%" in shown.out
    first = KeyedVectors.load_word2vec_format(str(out), binary=True)
    assert set(first.index_to_key) == {"the", "cat", "sat", "dog", "a", "bird"}
    assert [path.name for path in out.parent.iterdir()] == ["out.bin"]  # no scraps
    assert main([*command, *settings]) == 0
    again = KeyedVectors.load_word2vec_format(str(out), binary=True)
    np.testing.assert_array_equal(again.vectors, first.vectors)  # one thread, so repeatable


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "none.txt", "--out", "x.bin"], "error: none.txt: no such file"),
        (["train", "vectors.epochs=1", "--out", "x.bin"], "error: no file to train on"),
        (["train", "README.md", "--out", "s3://b/x.bin"], "error: s3://b/x.bin: is written to a path"),
        (["train", "README.md", "--out", "jobs"], "error: jobs: is a folder"),
        (["train", "README.md", "--out", "README.md"], "error: README.md: is one of the files to train on"),
        (["train", "/dev/null", "--out", "x.bin"], "no such file"),
        (["train", "tests/__init__.py", "--out", "x.bin"], "error: tests/__init__.py: no word to train on"),
        (["train", "experiments/trec.yaml", "--out", "x.bin"], "is no file of texts"),
        (["train", "README.md", "train.epochs=3", "--out", "x.bin"], "error: train.epochs is no setting of this verb"),
        (["train", "README.md", "--out", "x.bin", "vectors.path=v"], "error: vectors.path=v is a file to read"),
        (["train", "README.md", "--out", "README.md/x.bin"], "error: README.md/x.bin: cannot be written"),
        (["train", "README.md", "--out", "x.bin", "vectors.min_count=99999"], "lower vectors.min_count"),
        (["export", "nowhere", "x.bin"], "holds neither a checkpoint nor a best.json"),
        (["drift", "nowhere"], "holds neither a checkpoint nor a best.json"),
    ],
)
def test_a_mistake_with_vectors_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves no file."""
    monkeypatch.chdir(REPOSITORY)
    assert main(["vectors", *arguments]) == 2
    error = capsys.readouterr().err.splitlines()
    assert message in error[-1]
    assert sum(line.startswith("error") for line in error) == 1
    assert not Path("x.bin").exists()


def test_drift_and_export_are_commands(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And an evaluation's report has the drift in it."""
    assert main(["vectors", "drift", str(trained), "--words", "great", "awful", "--top", "2"]) == 0
    assert "nearest neighbours" in capsys.readouterr().out
    assert main(["vectors", "drift", str(trained), "--words", "zebra"]) == 2
    assert "'zebra' is not among the" in capsys.readouterr().err
    assert main(["vectors", "export", str(trained), str(tmp_path / "out.bin")]) == 0
    assert len(KeyedVectors.load_word2vec_format(str(tmp_path / "out.bin"), binary=True)) == 23
    assert main(["evaluate", str(trained)]) == 0
    report = (trained.parent / "report" / "report.md").read_text()
    assert "## What fine-tuning did to the word vectors" in report
    assert "![how far each word moved](drift.png)" in report
    assert (trained.parent / "report" / "drift.png").exists()


def test_a_setting_may_stand_behind_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    """Anything else that is not known is still an error."""
    assert main(["train", "--address", "127.0.0.1:1", "model.dropuot=1"]) == 2
    assert "did you mean 'model.dropout'?" in capsys.readouterr().err
    for wrong in (["predict", "a", "b", "x=1"], ["train", "--nonsense", "x=1"]):
        with pytest.raises(SystemExit):
            main(wrong)
        assert "unrecognized arguments" in capsys.readouterr().err
    for wrong in (["vectors", "train", "a", "--out", "b", "--threads", "-1"], ["vectors", "drift", "a", "--top", "0"]):
        with pytest.raises(SystemExit):
            main(wrong)
        assert "must be 1 or more" in capsys.readouterr().err


def test_a_file_may_have_an_equals_sign_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a setting only where no such file exists, and where it looks like one."""
    monkeypatch.chdir(tmp_path)
    Path("a=b").write_text("the cat sat\n" * 9)
    assert main(["vectors", "train", "a=b", "--out", "v.bin", "vectors.epochs=1"]) == 0
    assert Path("v.bin").exists()


def test_evaluate_measures_a_checkpoint_of_an_earlier_version(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It kept nothing to compare vectors with, so the report has no such section."""
    checkpoint.save_checkpoint(tmp_path / "old" / "checkpoint", checkpoint.load_checkpoint(str(trained)))
    assert main(["evaluate", str(tmp_path / "old" / "checkpoint")]) == 0
    assert "word vectors" not in (tmp_path / "old" / "report" / "report.md").read_text()
    assert main(["vectors", "drift", str(tmp_path / "old" / "checkpoint")]) == 2
    assert "an earlier version made it" in capsys.readouterr().err
