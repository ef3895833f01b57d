"""The classifier says what the torch network says, without torch."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cluster.package import REPOSITORY
from jobs.datasets.tokenizer import Vocabulary, encode, tokenize
from jobs.inference.classifier import Classifier
from jobs.inference.predict import build_network, predict_logits
from jobs.model.checkpoint import Checkpoint, CheckpointError, save_checkpoint
from tests.support.checkpoints import WORDS, checkpoint_of


def texts(count: int) -> list[str]:
    choose = np.random.default_rng(1)
    lengths = [0, 1, 2, 3, 700, *choose.integers(0, 40, count)]
    return [" ".join(choose.choice([*WORDS, "unseen", "!"], length)) for length in lengths]


@pytest.mark.parametrize("table_bytes", [0, 4000, 1 << 20])
@pytest.mark.parametrize("embedding", ["rand", "static", "non-static", "multichannel"])
def test_scores_are_those_of_the_torch_network(embedding: str, table_bytes: int) -> None:
    """To 1e-5, for the empty text and the long one, with all words, some or none in the table."""
    checkpoint = checkpoint_of(embedding)
    some = texts(50)
    settings = checkpoint.experiment.text
    tokens = encode((tokenize(text) for text in some), Vocabulary(WORDS), settings.max_tokens)
    expected = predict_logits(build_network(checkpoint), tokens, np.arange(len(tokens))).numpy()
    classifier = Classifier(checkpoint, table_bytes)
    assert classifier.table_bytes <= table_bytes
    found = classifier.predict_logits(some)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([classifier.predict_logits([text]) for text in some]), found, atol=1e-6)


def test_case_is_as_in_training() -> None:
    """A cased experiment tells Word1 from word1."""
    lowered, cased = Classifier(checkpoint_of("rand")), Classifier(checkpoint_of("rand", **{"text.lowercase": False}))
    assert np.array_equal(lowered.predict_logits(["WORD1"]), lowered.predict_logits(["word1"]))
    assert not np.array_equal(cased.predict_logits(["WORD1"]), cased.predict_logits(["word1"]))


def test_lists_of_all_kinds_of_texts() -> None:
    """Texts in ASCII, with other letters and with words beyond the table, in any order."""
    rows = 4 * 9 * (1 + 2 + 4) * (len(WORDS) // 2)
    whole, half = Classifier(checkpoint_of("rand")), Classifier(checkpoint_of("rand"), rows)
    assert 0 < half.table_bytes < whole.table_bytes
    some = ["word1 word199", "über word2", "", "word3", "“word4” — word5", "word199 ß", "word0"]
    expected = np.concatenate([whole.predict_logits([text]) for text in some])
    for classifier in (whole, half):
        np.testing.assert_allclose(classifier.predict_logits(some), expected, atol=1e-5)
        np.testing.assert_allclose(classifier.predict_logits(some[::-1]), expected[::-1], atol=1e-5)
    scored = half.score_texts([*some, "never seen"])
    assert (scored.num_tokens, scored.num_unknown) == (15, 7)


def test_words_beyond_ascii_are_found() -> None:
    """A word with an accent has its own vector, and the unknown word is another."""
    checkpoint = checkpoint_of("rand")
    checkpoint.words[7] = "café"
    found = Classifier(checkpoint)
    assert found.score_texts(["café"]).num_unknown == 0
    assert not np.array_equal(found.predict_logits(["café"]), found.predict_logits(["cafe"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.weights.pop("output.bias"), "output.bias is missing"),
        (lambda c: c.weights.update({"vectors": np.zeros((5, 6), np.float32)}), "vectors is float32 of \\(5, 6\\)"),
        (lambda c: c.weights.update({"filters.1": c.weights["filters.1"].astype(np.float64)}), "filters.1 is float64"),
        (lambda c: c.weights["output.bias"].fill(np.nan), "output.bias holds values that are not finite"),
        (lambda c: c.labels.append("a"), "labels.json: names something twice"),
        (lambda c: c.labels.clear(), "labels.json: is empty"),
        (lambda c: c.words.append(5), "vocabulary.json: is not a list of strings"),
        (lambda c: c.words.append("more"), "vectors is float32 of"),
    ],
)
def test_a_checkpoint_whose_parts_do_not_fit_is_refused(change: Callable[[Checkpoint], object], message: str) -> None:
    """Before a text could be scored with it."""
    checkpoint = checkpoint_of("non-static")
    change(checkpoint)
    with pytest.raises(CheckpointError, match=message):
        Classifier(checkpoint)


def test_no_torch_in_the_replica(tmp_path: Path) -> None:
    """Reading a checkpoint and classifying import neither torch nor the training code."""
    save_checkpoint(tmp_path / "c", checkpoint_of("non-static"))
    script = (
        "import sys\n"
        "from jobs.model import checkpoint\n"
        "from jobs.inference.classifier import Classifier\n"
        f"print(Classifier(checkpoint.load_checkpoint({str(tmp_path / 'c')!r})).predict_logits(['word1 word2']).shape)\n"
        "print({'torch', 'gensim', 'sklearn', 'jobs.training.loop'} & set(sys.modules))\n"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout == "(1, 3)\nset()\n"


def test_a_classifier_whose_table_holds_all_words_keeps_no_vectors() -> None:
    """Nor a view, which would keep them all."""
    classifier = Classifier(checkpoint_of("static"))
    assert classifier._vectors.base is None
    assert classifier._vectors.nbytes == 0


def test_a_checkpoint_that_reads_texts_of_any_length_takes_no_more_memory_than_a_text() -> None:
    """Its max_tokens may be anything."""
    classifier = Classifier(checkpoint_of("rand", **{"text.max_tokens": 1 << 60}))
    usual = Classifier(checkpoint_of("rand"))
    for some in (["word1 word2"], ["word1", "word2 word3"]):
        np.testing.assert_array_equal(classifier.predict_logits(some), usual.predict_logits(some))
