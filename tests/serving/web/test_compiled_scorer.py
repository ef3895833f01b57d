"""The compiled path scores and counts every text as the classifier does."""

import string
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobs.datasets import tokenizer
from jobs.inference import scoring_kernel
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import Checkpoint
from serving.web.compiled_scorer import CompiledScorer
from serving.web.metrics import ModelCounters
from serving.web.protocol import FUNCTIONS
from tests.support.checkpoints import checkpoint_of
from tests.support.scores import apply_function

MAX_TEXTS = 20
LABELS = ["a", "b", "ü"]


def make_checkpoint() -> Checkpoint:
    return replace(checkpoint_of("non-static"), labels=LABELS)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(make_checkpoint())


@pytest.fixture(scope="module")
def scorer(classifier: Classifier) -> CompiledScorer:
    scorer = CompiledScorer(classifier, MAX_TEXTS)
    scorer.score(["ü"], "none")  # compiled here, not in an example of Hypothesis
    return scorer


PIECES = st.sampled_from(["word1", "WORD2", "don't", " ", "\t", '"', "\\", "\n", "\0", "!!!!", "\x7f"])
ASCII_TEXTS = st.lists(PIECES, max_size=30).map("".join) | st.text(string.printable, max_size=60)
TEXTS = ASCII_TEXTS | st.text(max_size=30)


@settings(max_examples=300, deadline=None)
@example(texts=["word1"], function="softmax")
@example(texts=["word1", "wörd1", "", "word2 " * 40], function="softmax")
@example(texts=[""] * MAX_TEXTS, function="none")
@given(texts=st.lists(TEXTS, min_size=1, max_size=MAX_TEXTS), function=st.sampled_from(FUNCTIONS))
def test_scores_and_counts_are_those_of_the_classifier(
    classifier: Classifier, scorer: CompiledScorer, texts: list[str], function: str
) -> None:
    """For lists and single texts, in ASCII and not, and for every function."""
    scorer.flush_counts(ModelCounters(len(LABELS)))
    expected = classifier.score_texts(texts)
    scored = scorer.score(texts, function)
    logits = expected.logits.tolist()
    for row, text_logits in zip(scored.scores, logits, strict=True):
        assert row == pytest.approx(apply_function(function, text_logits), rel=1e-9)
    best = [row.index(max(row)) for row in logits]
    assert scorer.best[: len(texts)].tolist() == best
    counters = ModelCounters(len(LABELS))
    scorer.flush_counts(counters)
    assert counters.label_counts == [best.count(label) for label in range(len(LABELS))]
    assert counters.confidence_sum == pytest.approx(sum(max(apply_function("softmax", row)) for row in logits))
    tokens, unknown = expected.num_tokens, expected.num_unknown
    assert (counters.tokens, counters.unknown_tokens) == (tokens, unknown)
    assert scored.unknown_permille == (int(1000 * unknown / tokens + 0.5) if tokens else 0)


def test_the_temperature_applies_to_softmax_only(classifier: Classifier, scorer: CompiledScorer) -> None:
    """Raw logits, sigmoid and the best class are those without it, in the compiled path and in Python."""
    checkpoint = replace(make_checkpoint(), metrics={"temperature": 2.5})
    texts = ["word1 word2", "word3", "wörd1"]
    for calibrated in (Classifier(checkpoint), Classifier(checkpoint, table_bytes=0)):
        other = CompiledScorer(calibrated, MAX_TEXTS)
        softmax = other.score(texts, "softmax").scores
        np.testing.assert_allclose(softmax, calibrated.predict_proba(texts), atol=1e-6)
        assert np.abs(softmax - scorer.score(texts, "softmax").scores).max() > 0.01
        for function in ("none", "sigmoid"):
            expected = scorer.score(texts, function).scores
            np.testing.assert_allclose(other.score(texts, function).scores, expected, atol=1e-5)
            assert np.array_equal(other.best[: len(texts)], scorer.best[: len(texts)])


def test_texts_with_a_word_outside_of_the_table_are_scored_and_counted_once(classifier: Classifier) -> None:
    """The classifier projects the word."""
    small = CompiledScorer(
        Classifier(make_checkpoint(), table_bytes=20 * 4 * classifier.num_columns, table_dtype="float32"),
        MAX_TEXTS,
    )
    atol = classifier.max_rounding_error.max()
    for texts in (["word1 word2", "word1 word150"], ["word1 word150"]):
        expected = classifier.predict_logits(texts)
        assert small.score(texts, "none").scores == pytest.approx(expected, abs=1e-5 + atol)
    counters = ModelCounters(len(LABELS))
    small.flush_counts(counters)
    assert (sum(counters.label_counts), counters.tokens) == (3, 6)


def test_only_texts_that_are_not_normalized_are_left_to_python(
    classifier: Classifier, scorer: CompiledScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts of any script are scored in compiled code, alone and in lists."""
    expected = classifier.score_texts(["“wörd1” word2 слово 🙂", "word1"]).logits
    monkeypatch.setattr(classifier, "score_texts", None)
    for texts in (["“wörd1” word2 слово 🙂"], ["“wörd1” word2 слово 🙂", "word1"]):
        assert scorer.score(texts, "none").scores == pytest.approx(expected[: len(texts)], abs=1e-6)
    with pytest.raises(TypeError):
        scorer.score(["wo\u0308rd1"], "none")


def test_functions_of_large_logits_are_finite(classifier: Classifier) -> None:
    """And the first of equal labels is the best."""
    weights = checkpoint_of("static").weights
    for scale, softmax, sigmoid in ((0.0, [1 / 3] * 3, [0.5] * 3), (1e4, [0.0, 1.0, 0.0], [0.0, 1.0, 0.0])):
        bias = np.array([-1, 1, -1], np.float32) * np.float32(scale)
        output = {"output.weight": np.zeros_like(weights["output.weight"]), "output.bias": bias}
        scorer = CompiledScorer(
            Classifier(replace(checkpoint_of("static"), labels=LABELS, weights=weights | output)), 2
        )
        assert scorer.score(["word1"], "softmax").scores.tolist() == [pytest.approx(softmax)]
        assert scorer.best[0] == (1 if scale else 0)
        assert scorer.score(["word1"], "sigmoid").scores.tolist() == [pytest.approx(sigmoid)]
        assert scorer.score(["word1"], "none").scores.tolist() == [bias.tolist()]


def test_compiled_constants_are_those_of_the_tokenizer() -> None:
    """numba would not notice a change of these constants in another file."""
    for name in ("PADDING", "UNKNOWN"):
        assert getattr(scoring_kernel, name) == getattr(tokenizer, name)
