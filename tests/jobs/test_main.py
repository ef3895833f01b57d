"""The commands of jobs: results, files that they write, and one-line errors."""

import csv
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import matplotlib.image
import numpy as np
import pytest
import yaml
from gensim.models import KeyedVectors

from cluster import UsageError
from cluster.package import REPOSITORY
from jobs.__main__ import main
from jobs.config import experiment_words
from jobs.config.experiment import Experiment
from jobs.datasets.dataset import load_dataset
from jobs.evaluation import metrics
from jobs.evaluation.evaluate import evaluate
from jobs.evaluation.reports.report import Evaluation, plot_confusion_matrix
from jobs.model import checkpoint
from jobs.search import tune
from jobs.training import cross_validation, train
from jobs.training.corpora.corpus import Corpus
from jobs.training.loop import Loop, create_loop
from jobs.training.run_files import snapshot
from tests.support.commands import run_command
from tests.support.torch_network import predict_proba
from tests.support.toy_data import make_test_corpus, read_jsonl


@pytest.fixture(scope="module")
def finished_loops() -> list[tuple[Corpus, Loop]]:
    """The corpus and the loop of the toy data, once a test has trained them."""
    return []


@pytest.fixture
def trained(
    make_experiment: Callable[..., Experiment], finished_loops: list[tuple[Corpus, Loop]], tmp_path: Path
) -> Path:
    """A checkpoint of the toy data of this test; all tests share one training in this process."""
    experiment = make_experiment(train__epochs=12, train__patience=12)
    if not finished_loops:
        corpus = make_test_corpus(experiment)
        loop = create_loop(experiment, corpus)
        list(loop.train_epochs())
        finished_loops.append((corpus, loop))
    folder = tmp_path / "run" / "checkpoint"
    snapshot.capture(experiment, *finished_loops[0], resumable=False)(folder)
    return folder


def test_show_prints_the_whole_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    """The output contains the settings of the command line."""
    assert main(["show", "model.dropout=0.25"]) == 0
    assert "dropout: 0.25" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "none.yaml"], "error: none.yaml: no such experiment file"),
        (["train", "model.dropuot=1"], "did you mean 'model.dropout'?"),
        (["tune", "data.train=x.csv", "tune.space={}"], "error: tune.space: is empty"),
        (["show", "a.yaml", "b.yaml"], "error: 2 experiment files: a.yaml, b.yaml; name one"),
        (["show", "model.dropout", "=", "0.3"], "write settings without spaces around '='"),
        (["show", "model.dropout=", "0.3"], "write settings without spaces around '='"),
        (["show", "data.text_column=the", "text"], "needs quotes: 'data.text_column=the text'"),
        (["show", "model.dropout"], "error: model.dropout: is a setting; write model.dropout=VALUE"),
        (["train", "x.csv"], "error: x.csv: is a file of texts, not an experiment; `finetune-cnn init x.csv`"),
        (["train", "epochs=3"], "did you mean 'train.epochs' or 'tune.epochs'"),
        (["init", "none.csv"], "error: none.csv: no such file"),
        (["runs", "none"], "error: none: no such experiment file"),
        (["clean", "jobs/config"], "jobs/config: contains no runs of train, tune or cross-validate"),
        (["evaluate", "nowhere"], "contains neither a checkpoint nor a best.json"),
        (["predict", "nowhere", "x.csv"], "contains neither a checkpoint nor a best.json"),
    ],
)
def test_a_usage_error_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error is one line without a traceback."""
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("command", ["train", "tune", "cross-validate"])
@pytest.mark.parametrize("words", [[], ["train.epochs=3", "seed=1"]])
def test_training_needs_a_file_or_data(command: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody trains on docstrings by accident; the message names the experiment that does."""
    assert main([command, *words]) == 2
    error = capsys.readouterr().err
    assert "no experiment is named" in error
    assert "experiments/docstrings.yaml" in error
    assert "`finetune-cnn init FILE`, or set data.train=FILE" in error


@pytest.mark.parametrize(
    ("command", "suggestion"),
    [("train", "train.epochs=3"), ("tune", "tune.epochs=3"), ("show", "train.epochs=3 or tune.epochs=3")],
)
def test_an_option_suggests_the_setting(command: str, suggestion: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--epochs", "3"])
    assert f"settings are written without dashes: {suggestion}" in capsys.readouterr().err


def test_init_writes_an_experiment_that_show_reads(
    toy_csv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(toy_csv.parent)
    assert main(["init", "toy.csv", "train.epochs=3"]) == 0
    wrote, then = capsys.readouterr().out.splitlines()
    assert wrote == "wrote toy.yaml: texts in 'text', labels in 'label'; check the settings in it"
    assert then == "next: finetune-cnn train toy.yaml"
    assert main(["show", "toy.yaml"]) == 0
    output = capsys.readouterr().out
    assert yaml.safe_load(output)["data"]["train"] == "toy.csv"
    assert yaml.safe_load(output)["train"]["epochs"] == 3
    assert "# Maximum number of passes over the training rows; see patience." in output
    assert main(["init", "toy.csv"]) == 2
    assert "toy.yaml: exists and is not overwritten" in capsys.readouterr().err


def test_show_prints_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "--schema"]) == 0
    assert "train" in json.loads(capsys.readouterr().out)["properties"]


@pytest.mark.parametrize(
    ("settings", "last_line"),
    [
        ([], "loading torch and Ray"),
        (["data.text_column=nowhere"], "error: toy.csv: has no column 'nowhere'"),
        (["vectors.path=none.bin", "model.embedding=static"], "error: none.bin: no such vectors file"),
    ],
)
@pytest.mark.parametrize("command", ["train", "tune", "cross-validate"])
def test_input_files_are_checked_before_torch_and_ray_are_imported(
    command: str, settings: list[str], last_line: str, toy_csv: Path
) -> None:
    """The experiment is announced at once; importing torch and Ray takes seconds."""
    script = (
        "import builtins, sys, jobs.__main__ as commands\n"
        "original = builtins.__import__\n"
        "def stop(name, *arguments):\n"
        "    if name.split('.')[0] in ('torch', 'ray', 'gensim', 'sklearn'): sys.exit(3)\n"
        "    return original(name, *arguments)\n"
        "builtins.__import__ = stop\n"
        f"sys.exit(commands.main({[command, 'data.train=toy.csv', *settings]}))\n"
    )
    result = run_command("python", "-c", script, cwd=toy_csv.parent, env={"PYTHONPATH": str(REPOSITORY)})
    first, *_, last = (result.stdout + result.stderr).splitlines()
    assert first == "experiment toy: toy.csv; its runs are in runs/toy"
    assert last.startswith(last_line)
    assert result.returncode == (2 if settings else 3)


def test_evaluate_measures_the_test_part_and_writes_a_report(
    trained: Path, make_experiment: Callable[..., Experiment], capsys: pytest.CaptureFixture[str]
) -> None:
    """The metrics agree with the predictions; table, plots and JSON are written."""
    assert main(["evaluate", str(trained)]) == 0
    output = capsys.readouterr().out
    evaluation = evaluate(str(trained), [], None)
    test = load_dataset(make_experiment()).test
    loaded = checkpoint.load_checkpoint(str(trained))
    predicted = [loaded.labels[best] for best in predict_proba(loaded, test.texts).argmax(axis=1)]
    accuracy = np.mean([label == expected for label, expected in zip(predicted, test.labels, strict=True)])
    assert evaluation.accuracy == pytest.approx(accuracy)
    assert evaluation.accuracy > 0.7
    assert f"accuracy {evaluation.accuracy:.4f}" in output
    report = trained.parent / "report"
    assert f"**{evaluation.accuracy:.4f}**" in (report / "report.md").read_text()
    image = matplotlib.image.imread(report / "confusion.png")  # (height, width, 4)
    assert min(image.shape[:2]) > 200
    assert image[..., :3].std() > 0.01
    assert (report / "evaluation.json").exists()
    assert evaluation.confusion.sum() == len(test)


def test_a_test_part_with_training_rows_is_an_error(
    trained: Path, toy_csv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With another seed, or another row in the file, rows of the training part would be in the test part."""
    assert main(["evaluate", str(trained), "seed=1"]) == 2
    assert "not those that training left out" in capsys.readouterr().err
    with toy_csv.open("a") as stream:
        stream.write("good,a new row\n")
    assert main(["evaluate", str(trained)]) == 2
    assert "name a file of unseen texts: finetune-cnn evaluate CHECKPOINT FILE" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The metrics are printed all the same."""
    (tmp_path / "file").write_text("")
    assert main(["evaluate", str(trained), "--out", str(tmp_path / "file" / "report")]) == 2
    output, error = capsys.readouterr()
    assert "accuracy" in output
    assert "cannot be written" in error
    source = tmp_path / "texts.csv"
    source.write_text("text\na great film\n")
    assert main(["predict", str(trained), str(source), "--out", str(tmp_path / "file" / "x.csv")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_any_label_can_be_plotted(tmp_path: Path) -> None:
    """Labels have the syntax of formulas, are long, or are in another script."""
    labels = ["$_$ broken", "x " * 200, "\u732b"]
    evaluation = Evaluation(
        "c", "s", 3, 1.0, 1.0, labels, metrics.per_class_metrics(np.arange(3), np.arange(3), 3), np.eye(3, dtype=int)
    )
    plot_confusion_matrix(tmp_path / "confusion.png", evaluation, "x")
    height, width, _ = matplotlib.image.imread(tmp_path / "confusion.png").shape
    assert width > 200 < height


def test_evaluate_on_another_file(trained: Path, tmp_path: Path) -> None:
    """Any labelled file is accepted; a label that the checkpoint does not have is an error."""
    (tmp_path / "other.csv").write_text("label,text\ngood,a great film\nbad,an awful film\ngood,lovely and warm\n")
    evaluation = evaluate(str(trained), [f"data.test={tmp_path}/other.csv"], str(tmp_path / "out"))
    assert evaluation.rows == 3
    assert (tmp_path / "out" / "report.md").exists()
    (tmp_path / "other.csv").write_text("label,text\nso-so,a film\n")
    assert main(["evaluate", str(trained), f"data.test={tmp_path}/other.csv"]) == 2


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_predict_labels_a_file(trained: Path, tmp_path: Path, suffix: str) -> None:
    """Every row in order, the empty text too; no label column is needed."""
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


def test_predict_replaces_a_file_only_on_request(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At a path or a URI."""
    source, out = tmp_path / "texts.csv", tmp_path / "out.csv"
    source.write_text("text\ngreat\n")
    out.write_text("mine")
    for target in (str(out), f"file://{out}"):
        assert main(["predict", str(trained), str(source), "--out", target]) == 2
        assert f"{target}: exists and is not replaced; name another file, or add --force" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main(["predict", str(trained), str(source), "--out", str(out), "--force"]) == 0
    assert out.read_text().startswith("text,label,score")


def test_predict_to_standard_output_and_its_errors(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """jsonl by default; a wrong file or column is an error of one line."""
    source = tmp_path / "texts.csv"
    source.write_text("body\na great film\n")
    assert main(["predict", str(trained), str(source), "--text-column", "body"]) == 0
    assert '"label": "good"' in capsys.readouterr().out
    assert main(["predict", str(trained), str(source)]) == 2
    assert "has no column 'text'" in capsys.readouterr().err
    assert main(["predict", str(trained), str(source), "--out", "x.pdf"]) == 2
    assert not Path("x.pdf").exists()


def test_texts_are_truncated_as_in_training(trained: Path) -> None:
    """Words after `text.max_tokens` change nothing."""
    loaded = checkpoint.load_checkpoint(str(trained))
    limit = loaded.experiment.text.max_tokens
    full, longer = predict_proba(loaded, ["the " * limit, "the " * limit + "great " * 9])
    np.testing.assert_array_equal(full, longer)


def test_vectors_are_trained_on_files_of_any_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines, a csv column, a jsonl field, gzipped; settings after options; progress up to 100%."""
    (tmp_path / "a.txt").write_text("The cat sat\n\nthe dog sat\n" * 20)
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"id,body\n1,a bird sat\n" + b"2,a bird sang\n" * 9))
    (tmp_path / "c.jsonl").write_text('{"body": "a fish swam"}\n' * 9)
    files = [str(tmp_path / name) for name in ("a.txt", "b.csv.gz", "c.jsonl")]
    out = tmp_path / "new" / "out.bin"
    command = ["vectors", "train", *files, "--text-column", "body", "--out", str(out), "--threads", "1"]
    settings = ["vectors.dimensions=6", "vectors.epochs=2", "vectors.min_count=10", "vectors.negative=0"]
    assert main([*command, *settings]) == 0
    output = capsys.readouterr().out
    assert "59 texts, 177 words, 9 of them different" in output
    assert f"wrote {out}: 6 words x 6 dimensions" in output
    assert f"next: finetune-cnn train EXPERIMENT.yaml vectors.path={out}" in output
    assert "word2vec, 1 threads: 100%, 354 words" in output
    assert "reading texts: 100%" in output
    first = KeyedVectors.load_word2vec_format(str(out), binary=True)
    assert set(first.index_to_key) == {"the", "cat", "sat", "dog", "a", "bird"}
    assert [path.name for path in out.parent.iterdir()] == ["out.bin"]  # no temporary files
    assert main([*command, *settings]) == 2
    assert "out.bin: exists and is not replaced; name another file, or add --force" in capsys.readouterr().err
    assert main([*command, "--force", *settings]) == 0
    second = KeyedVectors.load_word2vec_format(str(out), binary=True)
    np.testing.assert_array_equal(second.vectors, first.vectors)  # with one thread


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "none.txt", "--out", "x.bin"], "error: none.txt: no such file"),
        (["train", "vectors.epochs=1", "--out", "x.bin"], "error: no file to train on"),
        (["train", "README.md", "--out", "s3://b/x.bin"], "error: s3://b/x.bin: is written to a path"),
        (["train", "README.md", "--out", "jobs"], "error: jobs: is a folder"),
        (["train", "README.md", "--out", "x.bin.gz"], "error: x.bin.gz: is written as word2vec binary"),
        (["train", "README.md", "--out", "x.txt"], "error: x.txt: is written as word2vec binary"),
        (["train", "README.md", "--out", "README.md"], "error: README.md: is one of the files to train on"),
        (["train", "/dev/null", "--out", "x.bin"], "no such file"),
        (["train", "tests/__init__.py", "--out", "x.bin"], "error: tests/__init__.py: no word to train on"),
        (["train", "experiments/trec.yaml", "--out", "x.bin"], "is not a file of texts"),
        (["train", "README.md", "train.epochs=3", "--out", "x.bin"], "error: train.epochs: is not a setting of"),
        (["train", "README.md", "--out", "x.bin", "vectors.path=v"], "error: vectors.path=v is a file to read"),
        (["train", "README.md", "--out", "README.md/x.bin"], "error: README.md/x.bin: cannot be written"),
        (["train", "README.md", "--out", "x.bin", "vectors.min_count=99999"], "lower vectors.min_count"),
        (["export", "nowhere", "x.bin"], "contains neither a checkpoint nor a best.json"),
        (["drift", "nowhere"], "contains neither a checkpoint nor a best.json"),
    ],
)
def test_a_usage_error_of_vectors_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file is written."""
    monkeypatch.chdir(REPOSITORY)
    assert main(["vectors", *arguments]) == 2
    error = capsys.readouterr().err.splitlines()
    assert message in error[-1]
    assert sum(line.startswith("error") for line in error) == 1
    assert not Path("x.bin").exists()


def test_drift_and_export_are_commands(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The report of an evaluation has the drift too."""
    assert main(["vectors", "drift", str(trained), "--words", "great", "awful", "--top", "2"]) == 0
    assert "nearest neighbours" in capsys.readouterr().out
    assert main(["vectors", "drift", str(trained), "--words", "zebra"]) == 2
    assert "'zebra' is not among the" in capsys.readouterr().err
    assert main(["vectors", "export", str(trained), str(tmp_path / "out.bin")]) == 0
    assert len(KeyedVectors.load_word2vec_format(str(tmp_path / "out.bin"), binary=True)) == 23
    (tmp_path / "out.bin").write_text("mine")
    assert main(["vectors", "export", str(trained), str(tmp_path / "out.bin")]) == 2
    assert "exists and is not replaced" in capsys.readouterr().err
    assert (tmp_path / "out.bin").read_text() == "mine"
    assert main(["vectors", "export", str(trained), str(tmp_path / "out.bin"), "--force"]) == 0
    assert (tmp_path / "out.bin").stat().st_size > 4
    assert main(["evaluate", str(trained)]) == 0
    report = (trained.parent / "report" / "report.md").read_text()
    assert "## What fine-tuning did to the word vectors" in report
    assert "![how far each word moved](drift.png)" in report
    assert (trained.parent / "report" / "drift.png").exists()


def test_settings_are_accepted_after_options(capsys: pytest.CaptureFixture[str]) -> None:
    """Other unknown arguments are an error."""
    assert main(["train", "--address", "127.0.0.1:1", "model.dropuot=1"]) == 2
    assert "did you mean 'model.dropout'?" in capsys.readouterr().err
    assert main(["predict", "a", "b", "x=1"]) == 2
    assert "b: there is no such file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", "--nonsense", "x=1"])
    assert "unrecognized arguments" in capsys.readouterr().err
    for wrong in (["vectors", "train", "a", "--out", "b", "--threads", "-1"], ["vectors", "drift", "a", "--top", "0"]):
        with pytest.raises(SystemExit):
            main(wrong)
        assert "must be 1 or more" in capsys.readouterr().err


def test_a_file_may_have_an_equals_sign_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a word is a setting only if no such file exists, and if it has the form of a setting."""
    monkeypatch.chdir(tmp_path)
    Path("a=b").write_text("the cat sat\n" * 9)
    assert main(["vectors", "train", "a=b", "--out", "v.bin", "vectors.epochs=1"]) == 0
    assert Path("v.bin").exists()


def test_evaluate_measures_a_checkpoint_of_an_earlier_version(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has no initial vectors to compare with, so the report has no such section."""
    checkpoint.save_checkpoint(tmp_path / "old" / "checkpoint", checkpoint.load_checkpoint(str(trained)))
    assert main(["evaluate", str(tmp_path / "old" / "checkpoint")]) == 0
    assert "word vectors" not in (tmp_path / "old" / "report" / "report.md").read_text()
    assert main(["vectors", "drift", str(tmp_path / "old" / "checkpoint")]) == 2
    assert "an earlier version made it" in capsys.readouterr().err


@pytest.mark.parametrize(("options", "folds"), [([], 10), (["--folds", "2"], 2), (["--folds", "100", "seed=3"], 100)])
def test_cross_validate_passes_the_experiment_and_the_folds(
    options: list[str],
    folds: int,
    toy_csv: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The command prints the path of the summary."""
    calls = []

    def cross_validate(experiment: Experiment, folds: int) -> str:
        calls.append((experiment, folds))
        return "runs/folds.json"

    monkeypatch.setattr(cross_validation, "cross_validate", cross_validate)
    assert main(["cross-validate", f"data.train={toy_csv}", "model.dropout=0.25", *options]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "wrote runs/folds.json"
    [(experiment, number)] = calls
    assert experiment.model.dropout == 0.25
    assert experiment.seed == (3 if "seed=3" in options else Experiment().seed)
    assert number == folds


@pytest.mark.parametrize("folds", ["1", "0", "-2", "101", "ten", "2.5"])
def test_the_number_of_folds_has_limits(folds: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The number of folds is from 2 to 100."""
    with pytest.raises(SystemExit) as stop:
        main(["cross-validate", f"--folds={folds}"])
    assert stop.value.code == 2
    assert f"must be between 2 and 100, not {folds}" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--promote"]])
@pytest.mark.parametrize(("module", "command"), [(train, "train"), (tune, "tune")])
def test_commands_pass_whether_the_run_is_to_be_promoted(
    module: ModuleType, command: str, options: list[str], toy_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def run(experiment: Experiment, *, promote: bool, inputs: None = None) -> str:
        calls.append(promote)
        return "runs/toy/best.json"

    monkeypatch.setattr(module, command, run)
    assert main([command, *options, f"data.train={toy_csv}"]) == 0
    assert calls == [bool(options)]


def test_train_names_the_next_command(
    toy_csv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`train` trains once; cross-validation is a command of its own."""
    monkeypatch.setattr(train, "train", lambda experiment, promote, inputs: "runs/toy/best.json")
    assert main(["train", f"data.train={toy_csv}", "name=toy"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"experiment toy: {toy_csv}; its runs are in runs/toy",
        "loading torch and Ray",
        "wrote runs/toy/best.json",
        "next: finetune-cnn evaluate runs/toy",
    ]


@pytest.mark.parametrize(
    ("module", "name", "arguments", "message"),
    [
        (train, "train", ["train", "data.train=toy.csv"], "interrupted; the same command resumes from here\n"),
        (tune, "tune", ["tune", "data.train=toy.csv"], "interrupted; the same command resumes from here\n"),
        (
            cross_validation,
            "cross_validate",
            ["cross-validate", "data.train=toy.csv"],
            "interrupted; the same command resumes from here\n",
        ),
        (experiment_words, "load_experiment_words", ["show"], "interrupted\n"),
    ],
)
def test_ctrl_c_prints_whether_the_same_command_resumes(
    module: ModuleType,
    name: str,
    arguments: list[str],
    message: str,
    toy_csv: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The exit code is 130."""
    monkeypatch.chdir(toy_csv.parent)

    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, name, interrupt)
    assert main(arguments) == 130
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("previous", [None, "10.0.0.1:6379"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_address_of_a_command_ends_with_it(
    previous: str | None, fails: bool, toy_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RAY_ADDRESS has the value of --address during the command, and its previous value afterwards."""
    if previous is None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    else:
        monkeypatch.setenv("RAY_ADDRESS", previous)
    addresses = []

    def record_address(experiment: Experiment, promote: bool, inputs: None) -> str:
        addresses.append(os.environ.get("RAY_ADDRESS"))
        if fails:
            raise UsageError("no")
        return "best.json"

    monkeypatch.setattr(train, "train", record_address)
    assert main(["train", "--address", "10.0.0.2:6379", f"data.train={toy_csv}"]) == (2 if fails else 0)
    assert os.environ.get("RAY_ADDRESS") == previous
    main(["train", f"data.train={toy_csv}"])
    assert addresses == ["10.0.0.2:6379", previous]
