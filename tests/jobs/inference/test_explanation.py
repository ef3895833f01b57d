"""Why a text has its scores."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.inference.classifier import Classifier
from jobs.inference.explanation import Explainer, Explanation
from tests.support.checkpoints import WORDS, checkpoint_of

CLASSIFIER = Classifier(checkpoint_of("multichannel"))


def explain(classifier: Classifier, text: str) -> list[Explanation]:
    reasons = Explainer(classifier, text)
    return [reasons.explain(label) for label in range(len(classifier.labels))]


@given(st.lists(st.sampled_from([*WORDS[:20], "unseen", "İstanbul", "don't", "!!!!!", "’s", "\n"]), max_size=30))
def test_the_parts_add_up_to_the_score(words: list[str]) -> None:
    """For every class, bias and shares; each phrase stands where it says."""
    text = " ".join(words)
    [scores] = CLASSIFIER.predict_logits([text])
    for score, found in zip(scores, explain(CLASSIFIER, text), strict=True):
        assert found.score == pytest.approx(score, abs=1e-5)
        assert found.bias + sum(phrase.share for phrase in found.phrases) == pytest.approx(score, abs=1e-5)
        for phrase in found.phrases:
            assert text[phrase.start : phrase.end] == phrase.text
            assert len(phrase.text.split()) <= 8
        shares = [abs(phrase.share) for phrase in found.phrases]
        assert shares == sorted(shares, reverse=True)


def test_the_word_that_decides_is_named() -> None:
    """As it is written in the text, with where it stands."""
    checkpoint = checkpoint_of("rand", **{"model.filter_widths": [1]})
    checkpoint.weights["vectors"][WORDS.index("word5") + 2] *= 50
    classifier = Classifier(checkpoint)
    text = "word1 word2 WORD5 word3"
    for found in explain(classifier, text):
        first = found.phrases[0]
        assert (first.text, first.start, first.end) == ("WORD5", 12, 17)
        assert all(abs(phrase.share) < abs(first.share) for phrase in found.phrases[1:])


def test_only_what_was_read_is_explained() -> None:
    """A text that is cut off is explained up to there."""
    classifier = Classifier(checkpoint_of("rand", **{"text.max_tokens": 3}))
    for found in explain(classifier, "word1 word2 word3 word4 word5"):
        assert max(phrase.end for phrase in found.phrases) == len("word1 word2 word3")
