"""A plain question is answered in compiled code exactly as on the ordinary road, and anything else is left to it."""

import hashlib
import json
import re
import string
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.datasets import tokenizer as text
from jobs.inference import scoring_kernel as kernel
from jobs.inference.classifier import Classifier
from jobs.model import checkpoint
from serving.web import fast_path as plain_road
from serving.web import served_models as models
from serving.web.fast_path import FastPath, _write_number, compile_entry
from serving.web.metrics import ModelCounters
from serving.web.protocol import (
    SCORE_DIGITS,
    Limits,
    RequestError,
    ResponseEncoder,
    apply_function,
    format_score,
    parse_request,
)
from tests.support.checkpoints import checkpoint_of

LONGEST = 200
LABELS = ["a", 'b"\\', "ü"]


def saved() -> checkpoint.Checkpoint:
    """A checkpoint whose labels are not easily written."""
    return replace(checkpoint_of("non-static"), labels=LABELS)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(saved())


@pytest.fixture(scope="module")
def plain(classifier: Classifier) -> FastPath:
    return FastPath(classifier, LONGEST)


def ordinary(classifier: Classifier, body: bytes, *, flat: bool) -> bytes:
    """The answer of the ordinary road."""
    question = parse_request(body, Limits(max_text_length=LONGEST))
    scores = [apply_function(question.function, row) for row in classifier.predict_logits(question.texts).tolist()]
    return ResponseEncoder(classifier.labels).encode(question, scores, [], flat=flat)


def same(found: bytes, expected: bytes) -> bool:
    """Tell whether answers are the same, but for the ninth digit of a score: what follows it may be all but a half."""
    parts, others = (re.split(rb"(?<=: )([0-9.e-]+)", answer) for answer in (found, expected))
    scores, expected_scores = ([float(score) for score in each[1::2]] for each in (parts, others))
    return parts[::2] == others[::2] and scores == pytest.approx(expected_scores, rel=2e-9, abs=0)


PIECES = st.sampled_from(["word1", "WORD2", "don't", " ", "\t", '"', "\\", "/", "\n", "\r", "\b", "\f", "!!!!", "\x7f"])
TEXTS = st.lists(PIECES, max_size=30).map("".join) | st.text(string.printable, max_size=60)


@settings(max_examples=300)
@given(
    text=TEXTS, flat=st.booleans(), more=st.sampled_from([{}, {"parameters": {}}]), indent=st.sampled_from([None, 1])
)
def test_answers_are_those_of_the_ordinary_road(
    classifier: Classifier, plain: FastPath, text: str, flat: bool, more: dict, indent: int | None
) -> None:
    """Texts with escapes, with white space between the fields, with either bracket."""
    body = json.dumps({"inputs": text, **more}, indent=indent).encode()
    found = plain.try_classify(body, flat=flat)
    if "\\u" in json.dumps(text):
        assert found is None
    elif len(text) > LONGEST:
        assert found is None
        with pytest.raises(RequestError, match="characters"):
            ordinary(classifier, body, flat=flat)
    else:
        assert found is not None
        assert same(found, ordinary(classifier, body, flat=flat))


GOOD = b'{"inputs": "word1", "parameters": {}}'


@settings(max_examples=1000)
@given(
    place=st.integers(0, len(GOOD)), gone=st.integers(0, 3), put=st.binary(max_size=3) | st.sampled_from([b'"', b"{}"])
)
def test_what_is_not_quite_valid_is_left(
    classifier: Classifier, plain: FastPath, place: int, gone: int, put: bytes
) -> None:
    """What is answered would be answered on the ordinary road, and so."""
    body = GOOD[:place] + put + GOOD[place + gone :]
    for cut in (body, body.replace(b', "parameters": {}', b"")):
        found = plain.try_classify(cut, flat=True)
        if found is not None:
            assert same(found, ordinary(classifier, cut, flat=True))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"inputs": "x"',
        b'{"inputs": "x',
        b'{"inputs": "x\\',
        b'{"inputs": "x\\"}',
        b'{"inputs": "\\u0041"}',
        b'{"inputs": "a\x00b"}',
        b'{"inputs": "a\nb"}',
        '{"inputs": "ü"}'.encode(),
        b'{"inputs": ["x"]}',
        b'{"inputs": 5}',
        b'{"input": "x"}',
        b'{"inputs": "x", "inputs": "y"}',
        b'{"inputs": "x", "explain": true}',
        b'{"inputs": "x", "parameters": {"top_k": 1}}',
        b'{"inputs": "x", "parameters": null}',
        b'{"inputs": "x",}',
        b'{"inputs": "x"} x',
        b'\xef\xbb\xbf{"inputs": "x"}',
        b'{"inputs": "' + b"x" * (LONGEST + 1) + b'"}',
    ],
)
def test_anything_else_is_left(plain: FastPath, body: bytes) -> None:
    """Nothing is counted of it."""
    plain.flush_counts(ModelCounters(len(LABELS)))
    assert plain.try_classify(body, flat=True) is None
    tally = ModelCounters(len(LABELS))
    plain.flush_counts(tally)
    assert tally.label_counts == [0] * len(LABELS)


def test_a_word_that_the_table_lacks_is_left(classifier: Classifier) -> None:
    """The ordinary road projects it."""
    some = FastPath(Classifier(saved(), table_bytes=20 * 4 * classifier.num_columns), LONGEST)
    assert some.try_classify(b'{"inputs": "word1 word2"}', flat=True) is not None
    assert some.try_classify(b'{"inputs": "word1 word150"}', flat=True) is None


def test_what_was_answered_is_counted_once(classifier: Classifier) -> None:
    """Labels, confidence, tokens and unknown ones, until they are asked for."""
    plain, tally = FastPath(classifier, LONGEST), ModelCounters(len(LABELS))
    answers = [
        json.loads(plain.try_classify(b'{"inputs": "%s"}' % text, flat=True)) for text in (b"word1 zzz", b"word2", b"")
    ]
    plain.flush_counts(tally)
    best = [answer[0] for answer in answers]
    assert tally.label_counts == [sum(each["label"] == label for each in best) for label in LABELS]
    assert tally.confidence_sum == pytest.approx(sum(each["score"] for each in best), abs=1e-8)
    assert (tally.tokens, tally.unknown_tokens) == (3, 1)
    again = ModelCounters(len(LABELS))
    plain.flush_counts(again)
    assert (again.label_counts, again.tokens, again.confidence_sum) == ([0] * len(LABELS), 0, 0.0)


def written(value: float) -> str:
    """What compiled code writes for a number."""
    out = np.zeros(40, np.uint8)
    return out[: _write_number(value, out, 0)].tobytes().decode()


EXACT = [0.0, 1.0, 0.1, 1e-4, 1e-5, 0.00012345, 5e-324, 2.2e-308, 0.99999999999, 9.9999999999e-5]


@settings(max_examples=2000)
@given(st.floats(0, 1) | st.floats(-330, 0).map(lambda power: 10.0**power))
def test_numbers_are_written_as_python_writes_them(value: float) -> None:
    """To nine digits; the last one may be another where what follows is a half but for rounding."""
    assert [written(each) for each in EXACT] == [format_score(each) for each in EXACT]
    found, expected = written(value), format_score(value)
    assert float(found) == pytest.approx(float(expected), rel=2e-9, abs=0)
    assert isinstance(json.loads(found), float)


def test_nine_digits_tell_every_score_apart() -> None:
    """The scores of the network are of single precision."""
    values = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    assert (np.array([format_score(float(value)) for value in values]).astype(np.float32) == values).all()


def test_constants_that_are_compiled_are_those_of_the_ordinary_road() -> None:
    """numba would not see a change of them in another file."""
    assert (kernel.PADDING, kernel.UNKNOWN) == (text.PADDING, text.UNKNOWN)
    assert plain_road.SCORE_DIGITS == SCORE_DIGITS


def test_of_many_labels_the_answer_is_left(classifier: Classifier) -> None:
    """Ours sorts them one by one."""
    some = checkpoint_of("static")
    count = plain_road.MAX_LABELS + 1
    weights = some.weights | {
        "output.weight": np.tile(some.weights["output.weight"][:1], (count, 1)),
        "output.bias": np.zeros(count, np.float32),
    }
    many = replace(some, labels=[f"label {number}" for number in range(count)], weights=weights)
    assert FastPath(Classifier(many), LONGEST).try_classify(b'{"inputs": "word1"}', flat=True) is None


def test_a_model_answers_with_the_limits_it_was_loaded_with(tmp_path: Path) -> None:
    """A longer text is left, and so refused."""
    checkpoint.save_checkpoint(tmp_path / "a", saved())
    choice = models.parse_user_config({"checkpoint": str(tmp_path / "a")})
    main = models.load_models(choice, max_text_length=5).primary
    assert main.try_fast_path(b'{"inputs": "word1"}', flat=True) is not None
    assert main.try_fast_path(b'{"inputs": "word1!"}', flat=True) is None
    tally = main.take_counters()
    assert (sum(tally.label_counts), len(tally.latencies_s)) == (1, 1)


def test_what_was_compiled_for_another_kernel_is_not_taken() -> None:
    """numba looks at the file of a function alone, and at what the function encloses."""
    entry, _ = compile_entry()
    assert entry.__wrapped__.__closure__ is not None
    held = [cell.cell_contents for cell in entry.__wrapped__.__closure__]
    assert held == [hashlib.sha256(Path(kernel.__file__).read_bytes()).hexdigest()]
