"""Model cards: what the Hub reads of them, and what they say of the model."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

import finetune_cnn
from jobs.config.experiment import Experiment
from jobs.config.text_distribution import EDGES, count_distribution
from jobs.estimator.text_cnn import TextCNNClassifier
from jobs.evaluation.metrics import bootstrap_intervals
from jobs.evaluation.multi_label.bootstrap import bootstrap_f1
from jobs.model.checkpoint import load_checkpoint, save_checkpoint, verify_sizes
from jobs.portable.model_card import render_model_card
from jobs.training.run_files.snapshot import capture
from tests.support.checkpoints import checkpoint_of
from tests.support.documents import read_code_blocks
from tests.support.loops import make_loop, train_checkpoint

METRICS = {
    "epoch": 3, "rows": 900, "validation_rows": 100, "accuracy": 0.9, "macro_f1": 0.875, "loss": 0.3,
    "versions": {"finetune-cnn": "1.0", "python": "3.11.9"}, "quantization": {"bits": 4},
    "started_from": {"checkpoint": "s3://key:secret@bucket/runs/earlier", "manifest": "ab"},
}  # fmt: skip


def card_of(**settings: object) -> str:
    checkpoint = checkpoint_of("non-static", name="tickets", **settings)
    return render_model_card(replace(checkpoint, metrics=METRICS))


def read_section(card: str, heading: str) -> str:
    """Return the section of a card under a heading."""
    return card.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def test_the_hub_reads_the_metadata() -> None:
    """The licence is left to the owner, with a hint where to write it."""
    card = ModelCard(card_of())
    data = card.data.to_dict()
    assert (data["library_name"], data["pipeline_tag"]) == ("finetune-cnn", "text-classification")
    assert data["metrics"] == ["accuracy", "f1"]
    assert "word2vec" in data["tags"]
    assert "license" not in data
    assert "# license: the owner of the model chooses it" in card_of()
    results = {(result.metric_type, result.metric_name): result.metric_value for result in card.data.eval_results}
    assert results == {("accuracy", "accuracy"): 0.9, ("f1", "macro F1"): 0.875}


def test_the_card_says_how_its_reader_is_installed() -> None:
    """The name `finetune-cnn` alone may be that of another project at the package index."""
    assert '\npip install "git+URL-OF-THE-REPOSITORY"\n' in card_of()
    card = render_model_card(checkpoint_of("rand"), "hf://owner/tickets")
    assert '\npip install "git+URL-OF-THE-REPOSITORY" huggingface_hub\n' in card


def test_the_card_says_what_the_model_is_and_where_it_is_from() -> None:
    card = card_of(**{"data.train": ["/home/someone/a.csv", "s3://key:secret@bucket/b.csv?region=x"], "seed": 7})
    for text in (
        "# tickets\n", "one label per text", "9 filters of each of the widths 2, 1, 4", "3: `a`, `b`, `c`",
        "| 100 of the validation part | accuracy | 0.9000 | 0.8256 to 0.9448 |",
        "Texts: `a.csv`, `b.csv`; 900 training rows, 100 validation rows.",
        "Word vectors are quantized to 4 bits", "Epoch 3 of at most 10, seed 7.", "started from `earlier`",
        "finetune-cnn 1.0, python 3.11.9",
    ):  # fmt: skip
        assert text in card, text
    for secret in ("someone", "secret", "bucket"):
        assert secret not in card


def test_the_card_says_what_the_model_is_for() -> None:
    """Which labels, which texts, and when not to rely on it."""
    lengths = [0] * (len(EDGES["length"]) + 1)
    lengths[5], lengths[8], lengths[-1] = 90, 6, 4  # of 5 or 6, 13 to 16, and more than 512 tokens
    distribution = count_distribution(*np.zeros((4, 100)).astype(np.int64), 3) | {"length": lengths}
    checkpoint = checkpoint_of("rand", name="tickets", **{"data.train": "/home/someone/a.csv"})
    checkpoint.metrics.update(distribution=distribution, abstention={"thresholds": {"retention": 0.5}})
    use = read_section(render_model_card(checkpoint), "Intended use")
    assert "it assigns to a text one of 3 labels, the most likely one." in use
    assert "as the training texts, `a.csv`. At least 95 % of the validation texts have at most 16 tokens." in use
    assert "Out-of-scope use: texts of another kind, subject, language or time" in use
    assert '`classifier.predict(texts, abstain="retention")` returns None' in use
    lengths[5] -= 2
    lengths[-1] += 2
    checkpoint.metrics.pop("abstention")
    use = read_section(render_model_card(checkpoint), "Intended use")
    assert "`a.csv`.\n" in use
    assert "abstain" not in use
    several = read_section(render_model_card(checkpoint_of("rand", **{"data.multi_label": True})), "Intended use")
    assert "those of 3 labels whose score reaches the threshold of the label: several, one or none." in several


@pytest.mark.parametrize("interval", [None, "0.8", [0.8], [0.8, "0.9"], {"low": 0.8}])
def test_a_malformed_interval_is_left_out(interval: object) -> None:
    """That of macro F1 is read; a checkpoint of an earlier version has none."""
    checkpoint = checkpoint_of("rand")
    card = render_model_card(replace(checkpoint, metrics=METRICS | {"macro_f1_interval": [0.8, 0.9]}))
    assert "| macro F1 | 0.8750 | 0.8000 to 0.9000 |" in card
    card = render_model_card(replace(checkpoint, metrics=METRICS | {"macro_f1_interval": interval}))
    assert "| macro F1 | 0.8750 | - |" in card


@pytest.mark.parametrize("is_multi_label", [False, True])
def test_training_measures_the_intervals_of_f1(
    make_experiment: Callable[..., Experiment], tmp_path: Path, is_multi_label: bool
) -> None:
    """They are those of `evaluate`: a bootstrap of the validation rows, around the metric of the same predictions."""
    own = {"data.multi_label": True, "data.label_separator": ";", "train.metric": "micro_f1"} if is_multi_label else {}
    loop = train_checkpoint(make_experiment(**own), tmp_path / "first", epochs=1)
    metrics = load_checkpoint(str(tmp_path / "first")).metrics
    validation = loop.validation
    assert validation is not None
    names = ("micro_f1", "macro_f1") if is_multi_label else ("macro_f1",)
    if is_multi_label:
        expected = bootstrap_f1(loop.corpus.validation.labels, validation.predicted)
    else:
        expected = (bootstrap_intervals(loop.corpus.validation.labels, validation.predicted)["macro_f1"],)
    assert tuple(tuple(metrics[f"{name}_interval"]) for name in names) == expected
    card = (tmp_path / "first" / "README.md").read_text()
    for name, (low, high) in zip(names, expected, strict=True):
        assert low <= metrics[name] <= high
        row = f"| {name.replace('_f1', ' F1')} | {metrics[name]:.4f} | {low:.4f} to {high:.4f} |"
        assert row in card


def test_an_epoch_that_is_not_the_best_has_no_intervals(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """Its checkpoint is removed before long, so nothing is computed for it."""
    experiment = make_experiment()
    loop = make_loop(experiment)
    epochs = loop.train_epochs()
    next(epochs)
    next(epochs)
    loop.progress.best = 1
    capture(experiment, loop.corpus, loop, resumable=False)(tmp_path / "second")
    assert "macro_f1_interval" not in load_checkpoint(str(tmp_path / "second")).metrics


def test_a_linear_classifier_is_described() -> None:
    """And which parts of the training texts its weights show."""
    card = card_of(**{"model.linear": "words-and-pairs"})
    assert "a linear classifier over words and pairs of words" in card
    assert "pairs of adjacent words that they have twice or more. Texts and their labels are not in" in card
    assert "linear" not in card_of()


def test_several_labels_per_text_and_many_labels_are_described() -> None:
    checkpoint = checkpoint_of("rand", **{"data.multi_label": True})
    labels = [f"label `{number}`\n" for number in range(60)]
    card = render_model_card(replace(checkpoint, labels=labels, metrics={"epoch": 1}))
    assert "several labels per text" in card
    assert "multi-label" in ModelCard(card).data.to_dict()["tags"]
    assert "60: `label '0'`, `label '1'`" in card
    assert "and 10 more in labels.json" in card
    assert "None were measured." in card


def test_the_code_of_the_card_loads_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = checkpoint_of("rand")
    save_checkpoint(tmp_path / "FOLDER", checkpoint, card=render_model_card(checkpoint))
    monkeypatch.chdir(tmp_path)
    blocks = read_code_blocks(tmp_path / "FOLDER" / "README.md")
    [block] = [block for block in blocks if block.language == "python"]
    names: dict[str, object] = {}
    exec(block.text, names)
    assert isinstance(names["classifier"], finetune_cnn.Classifier)


def test_training_and_the_estimator_write_a_card(make_experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    train_checkpoint(make_experiment(), tmp_path / "trained", epochs=1)
    texts, labels = ["good", "bad"] * 10, ["yes", "no"] * 10
    TextCNNClassifier(embedding="rand", epochs=1).fit(texts, labels).save(str(tmp_path / "saved"))
    for name, count in {"trained": "97 training rows", "saved": "18 training rows"}.items():
        assert count in (tmp_path / name / "README.md").read_text()
        assert "README.md" in json.loads((tmp_path / name / "manifest.json").read_text())["files"]


def test_an_edited_or_deleted_card_leaves_the_checkpoint_complete(tmp_path: Path) -> None:
    checkpoint = checkpoint_of("rand")
    save_checkpoint(tmp_path, checkpoint, card=render_model_card(checkpoint))
    (tmp_path / "README.md").write_text("edited")
    verify_sizes(str(tmp_path))
    (tmp_path / "README.md").unlink()
    verify_sizes(str(tmp_path))
    assert load_checkpoint(str(tmp_path)).labels == checkpoint.labels
