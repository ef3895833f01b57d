"""Explanations: phrases and shares that add up to a text's scores."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.inference.classifier import Classifier
from jobs.inference.explanation import Explainer, Explanation
from jobs.model.linear.tensors import PAIRS, SQUARES, WEIGHT
from tests.support.checkpoints import WORDS, checkpoint_of

CLASSIFIERS = [
    Classifier(checkpoint_of("multichannel", **{"model.linear": linear}), table_dtype=dtype)
    for dtype, linear in (("int16", "none"), ("float32", "none"), ("float32", "words-and-pairs"))
]


def explain(classifier: Classifier, text: str) -> list[Explanation]:
    explainer = Explainer(classifier, text)
    return [explainer.explain(label) for label in range(len(classifier.labels))]


@settings(deadline=None)  # compiled code may be slow on a loaded machine
@given(st.lists(st.sampled_from([*WORDS[:20], "unseen", "İstanbul", "don't", "!!!!!", "’s", "\n"]), max_size=30))
def test_bias_and_shares_add_up_to_the_score(words: list[str]) -> None:
    """This holds for every class and type of table; start and end of each phrase are those of its text."""
    text = " ".join(words)
    scores = [score for classifier in CLASSIFIERS for score in classifier.predict_logits([text])[0]]
    explanations = [explanation for classifier in CLASSIFIERS for explanation in explain(classifier, text)]
    for score, explanation in zip(scores, explanations, strict=True):
        assert explanation.score == pytest.approx(score, abs=1e-5)
        total = explanation.bias + sum(phrase.share for phrase in explanation.phrases)
        assert total == pytest.approx(score, abs=1e-5)
        for phrase in explanation.phrases:
            assert text[phrase.start : phrase.end] == phrase.text
            assert len(phrase.text.split()) <= 8
        shares = [abs(phrase.share) for phrase in explanation.phrases]
        assert shares == sorted(shares, reverse=True)


def test_the_decisive_word_is_first() -> None:
    """The word is spelled as in the text, and has its start and end."""
    checkpoint = checkpoint_of("rand", **{"model.filter_widths": [1]})
    checkpoint.weights["vectors"][WORDS.index("word5") + 2] *= 50
    classifier = Classifier(checkpoint)
    text = "word1 word2 WORD5 word3"
    for explanation in explain(classifier, text):
        first = explanation.phrases[0]
        assert (first.text, first.start, first.end) == ("WORD5", 12, 17)
        assert all(abs(phrase.share) < abs(first.share) for phrase in explanation.phrases[1:])


def test_phrases_end_at_max_tokens() -> None:
    """The rest of a text is not read, so it is not explained."""
    classifier = Classifier(checkpoint_of("rand", **{"text.max_tokens": 3}))
    for explanation in explain(classifier, "word1 word2 word3 word4 word5"):
        assert max(phrase.end for phrase in explanation.phrases) == len("word1 word2 word3")


def test_shares_of_the_linear_classifier_are_of_words_and_pairs() -> None:
    """Their own weights decide them; a repeated word has a share for each occurrence."""
    checkpoint = checkpoint_of("rand", **{"model.linear": "words-and-pairs"})
    weights, pairs = checkpoint.weights, checkpoint.weights[PAIRS]
    first, second = (WORDS[word - 2] for word in pairs[20].tolist())
    word_row, pair_row = pairs[20, 0], len(weights[SQUARES]) - len(pairs) + 20
    weights["output.weight"][:] = 0
    weights[WEIGHT][:] = 0
    weights[WEIGHT][[word_row, pair_row], 0] = 3, 5
    text = f"{first} {second} unseen {first}"
    explanation = explain(Classifier(checkpoint), text)[0]
    assert [phrase.text for phrase in explanation.phrases] == [f"{first} {second}", first, first]
    assert [phrase.start for phrase in explanation.phrases] == [0, 0, len(text) - len(first)]
    assert explanation.phrases[0].share / explanation.phrases[1].share == pytest.approx(5 / 3, abs=1e-4)
