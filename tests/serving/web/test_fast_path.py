"""The fast path gives the responses of the slow path, and leaves every other request to it."""

import hashlib
import inspect
import json
import re
import string
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobs.datasets import tokenizer
from jobs.inference import scoring_kernel
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import Checkpoint, save_checkpoint
from serving.web import compiled_json, protocol
from serving.web.compiled_json import write_score
from serving.web.fast_path import MAX_LABELS, FastPath, compile_entry
from serving.web.metrics import ModelCounters
from serving.web.protocol import Limits, RequestError, ResponseEncoder, apply_function, format_score, parse_request
from serving.web.served_models import load_models, parse_user_config
from tests.support.checkpoints import checkpoint_of

MAX_TEXT_LENGTH = 200
LABELS = ["a", 'b"\\', "ü"]  # some need escapes


def make_checkpoint() -> Checkpoint:
    return replace(checkpoint_of("non-static"), labels=LABELS)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(make_checkpoint())


@pytest.fixture(scope="module")
def fast_path(classifier: Classifier) -> FastPath:
    fast_path = FastPath(classifier, MAX_TEXT_LENGTH)
    write_score(0.5, np.zeros(40, np.uint8), 0)  # compiled here, not in an example of Hypothesis
    return fast_path


def respond_slowly(classifier: Classifier, body: bytes, *, flat: bool) -> bytes:
    """Return the response of the slow path."""
    request = parse_request(body, Limits(max_text_length=MAX_TEXT_LENGTH))
    scores = [apply_function(request.function, row) for row in classifier.predict_logits(request.texts).tolist()]
    return ResponseEncoder(classifier.labels).encode(request, scores, [], flat=flat)


def are_equal(response: bytes, expected: bytes) -> bool:
    """Return whether responses are equal except for the ninth digit of a score, which rounding may change."""
    parts, expected_parts = (re.split(rb"(?<=: )([0-9.e-]+)", content) for content in (response, expected))
    scores, expected_scores = ([float(score) for score in split[1::2]] for split in (parts, expected_parts))
    return parts[::2] == expected_parts[::2] and scores == pytest.approx(expected_scores, rel=2e-9, abs=0)


PIECES = st.sampled_from(["word1", "WORD2", "don't", " ", "\t", '"', "\\", "/", "\n", "\r", "\b", "\f", "!!!!", "\x7f"])
TEXTS = st.lists(PIECES, max_size=30).map("".join) | st.text(string.printable, max_size=60)


@settings(max_examples=300, deadline=None)
@example(text="\\u", flat=False, more={}, indent=None)
@example(text="\x7f\\\\u", flat=False, more={}, indent=None)
@given(
    text=TEXTS, flat=st.booleans(), more=st.sampled_from([{}, {"parameters": {}}]), indent=st.sampled_from([None, 1])
)
def test_responses_are_those_of_the_slow_path(
    classifier: Classifier, fast_path: FastPath, text: str, flat: bool, more: dict, indent: int | None
) -> None:
    """Texts have escapes, fields have white space between them, and responses have both formats."""
    body = json.dumps({"inputs": text, **more}, indent=indent).encode()
    response = fast_path.try_classify(body, flat=flat)
    if re.search(r"(?<!\\)(\\\\)*\\u", json.dumps(text)):  # an escape, and not a backslash followed by u
        assert response is None
    elif len(text) > MAX_TEXT_LENGTH:
        assert response is None
        with pytest.raises(RequestError, match="characters"):
            respond_slowly(classifier, body, flat=flat)
    else:
        assert response is not None
        assert are_equal(response, respond_slowly(classifier, body, flat=flat))


VALID_BODY = b'{"inputs": "word1", "parameters": {}}'


@settings(max_examples=1000, deadline=None)
@given(
    start=st.integers(0, len(VALID_BODY)),
    removed=st.integers(0, 3),
    inserted=st.binary(max_size=3) | st.sampled_from([b'"', b"{}"]),
)
def test_a_damaged_body_is_answered_only_if_the_slow_path_answers_it(
    classifier: Classifier, fast_path: FastPath, start: int, removed: int, inserted: bytes
) -> None:
    """A damaged body has the same response on both paths, or is left to the slow path."""
    damaged = VALID_BODY[:start] + inserted + VALID_BODY[start + removed :]
    for body in (damaged, damaged.replace(b', "parameters": {}', b"")):
        response = fast_path.try_classify(body, flat=True)
        if response is not None:
            assert are_equal(response, respond_slowly(classifier, body, flat=True))


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
        b'{"inputs": "' + b"x" * (MAX_TEXT_LENGTH + 1) + b'"}',
    ],
)
def test_other_bodies_are_left_to_the_slow_path(fast_path: FastPath, body: bytes) -> None:
    """Bodies that are left to the slow path are not counted."""
    fast_path.flush_counts(ModelCounters(len(LABELS)))
    assert fast_path.try_classify(body, flat=True) is None
    counters = ModelCounters(len(LABELS))
    fast_path.flush_counts(counters)
    assert counters.label_counts == [0] * len(LABELS)


def test_a_text_with_a_word_outside_of_the_table_is_left_to_the_slow_path(classifier: Classifier) -> None:
    """The slow path projects the word."""
    small = FastPath(Classifier(make_checkpoint(), table_bytes=20 * 4 * classifier.num_columns), MAX_TEXT_LENGTH)
    assert small.try_classify(b'{"inputs": "word1 word2"}', flat=True) is not None
    assert small.try_classify(b'{"inputs": "word1 word150"}', flat=True) is None


def test_each_response_is_counted_once(classifier: Classifier) -> None:
    """Labels, confidence, tokens and unknown tokens are counted until they are flushed."""
    fast_path, counters = FastPath(classifier, MAX_TEXT_LENGTH), ModelCounters(len(LABELS))
    texts = (b"word1 zzz", b"word2", b"")
    responses = [json.loads(fast_path.try_classify(b'{"inputs": "%s"}' % text, flat=True)) for text in texts]
    fast_path.flush_counts(counters)
    best = [response[0] for response in responses]
    assert counters.label_counts == [sum(row["label"] == label for row in best) for label in LABELS]
    assert counters.confidence_sum == pytest.approx(sum(row["score"] for row in best), abs=1e-8)
    assert (counters.tokens, counters.unknown_tokens) == (3, 1)
    again = ModelCounters(len(LABELS))
    fast_path.flush_counts(again)
    assert (again.label_counts, again.tokens, again.confidence_sum) == ([0] * len(LABELS), 0, 0.0)


def write(value: float) -> str:
    """Return the text that compiled code writes for a number."""
    out = np.zeros(40, np.uint8)
    return out[: write_score(value, out, 0)].tobytes().decode()


@pytest.mark.parametrize(
    "value", [0.0, 1.0, 0.1, 1e-4, 1e-5, 0.00012345, 5e-324, 2.2e-308, 0.99999999999, 9.9999999999e-5]
)
def test_special_numbers_are_written_as_on_the_slow_path(value: float) -> None:
    assert write(value) == format_score(value)


@settings(max_examples=2000, deadline=None)
@given(st.floats(0, 1) | st.floats(-330, 0).map(lambda power: 10.0**power))
def test_numbers_are_written_as_on_the_slow_path(value: float) -> None:
    """Numbers have nine digits; the last may differ where the further digits are nearly a half."""
    written, expected = write(value), format_score(value)
    assert float(written) == pytest.approx(float(expected), rel=2e-9, abs=0)
    assert isinstance(json.loads(written), float)


def test_nine_digits_distinguish_all_scores() -> None:
    """The scores of the network are float32."""
    values = np.random.default_rng(0).normal(size=10_000).astype(np.float32)
    assert (np.array([format_score(float(value)) for value in values]).astype(np.float32) == values).all()


def test_compiled_constants_are_those_of_the_slow_path() -> None:
    """numba would not notice a change of these constants in another file."""
    for name in ("PADDING", "UNKNOWN", "MAX_PUNCTUATION_RUN"):
        assert getattr(scoring_kernel, name) == getattr(tokenizer, name)
    assert compiled_json.SCORE_DIGITS == protocol.SCORE_DIGITS


def test_with_many_labels_requests_are_left_to_the_slow_path() -> None:
    """The fast path sorts labels by insertion."""
    checkpoint = checkpoint_of("static")
    count = MAX_LABELS + 1
    weights = checkpoint.weights | {
        "output.weight": np.tile(checkpoint.weights["output.weight"][:1], (count, 1)),
        "output.bias": np.zeros(count, np.float32),
    }
    many = replace(checkpoint, labels=[f"label {number}" for number in range(count)], weights=weights)
    assert FastPath(Classifier(many), MAX_TEXT_LENGTH).try_classify(b'{"inputs": "word1"}', flat=True) is None


def test_a_served_model_has_the_text_limit_that_it_was_loaded_with(tmp_path: Path) -> None:
    """A longer text is left to the slow path, which refuses it."""
    save_checkpoint(tmp_path / "a", make_checkpoint())
    model = load_models(parse_user_config({"checkpoint": str(tmp_path / "a")}), max_text_length=5).primary
    assert model.try_fast_path(b'{"inputs": "word1"}', flat=True) is not None
    assert model.try_fast_path(b'{"inputs": "word1!"}', flat=True) is None
    counters = model.take_counters()
    assert (sum(counters.label_counts), len(counters.latencies_s)) == (1, 1)


def test_the_compiled_entry_depends_on_the_source_of_the_functions_that_it_calls() -> None:
    """numba's cache considers only the file of a function, and the values that the function encloses."""
    entry, _ = compile_entry()
    sources = inspect.getsource(scoring_kernel) + inspect.getsource(compiled_json)
    assert entry.__wrapped__.__closure__ is not None
    enclosed = [cell.cell_contents for cell in entry.__wrapped__.__closure__]
    assert enclosed == [hashlib.sha256(sources.encode()).hexdigest()]
