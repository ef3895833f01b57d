"""The HTTP contract, without HTTP."""

import json

import pytest

from jobs.inference.classifier import Classifier
from jobs.inference.explanation import Explainer
from serving.web.protocol import Limits, RequestError, ResponseEncoder, apply_function, parse_request
from tests.support.checkpoints import checkpoint_of

LIMITS = Limits(max_texts=3, max_text_length=50, max_explained_texts=1)
LABELS = ResponseEncoder(["a", 'b"', "ü"])
SCORES = [[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]]


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def answered(sent: bytes, scores: list[list[float]] = SCORES, *, flat: bool = True) -> list:
    """Return the answer to a body, as a client reads it."""
    asked = parse_request(sent, LIMITS)
    values = [apply_function(asked.function, row) for row in scores[: len(asked.texts)]]
    return json.loads(LABELS.encode(asked, values, [], flat=flat))


def test_one_text_is_a_flat_list_on_predict_and_a_list_of_lists_on_the_root() -> None:
    """As text-embeddings-inference and the hosted inference API answer."""
    flat = answered(body(inputs="hi"))
    assert [row["label"] for row in flat] == ['b"', "ü", "a"]
    assert sum(row["score"] for row in flat) == pytest.approx(1)
    assert answered(body(inputs="hi"), flat=False) == [flat]


@pytest.mark.parametrize("inputs", [["hi", "you"], [["hi"], ["you"]]])
def test_several_texts_are_a_list_of_lists_everywhere(inputs: list) -> None:
    """Also where each text is wrapped in a list, as text-embeddings-inference takes a batch."""
    sent = body(inputs=inputs, parameters={"top_k": 1})
    assert parse_request(sent, LIMITS).texts == ["hi", "you"]
    assert [[row["label"] for row in rows] for rows in answered(sent)] == [['b"'], ["a"]]
    assert len(answered(body(inputs=inputs[:1]))) == 1


@pytest.mark.parametrize("more", [{}, {"truncate": True}, {"truncate": False, "truncation_direction": "Left"},
                                  {"truncate": None, "truncation_direction": "right"}])  # fmt: skip
@pytest.mark.parametrize("raw_scores", [None, False, True])
@pytest.mark.parametrize("inputs", ["hi", [["hi"]], [["hi"], ["you"]]])
def test_what_clients_of_text_embeddings_inference_send_is_answered_as_there(
    inputs: str | list, raw_scores: bool | None, more: dict
) -> None:
    """One text: its labels, the best first; a batch: such a list for each. Probabilities, or with raw_scores logits."""
    found = answered(body(inputs=inputs, raw_scores=raw_scores, **more))
    rows = [found] if isinstance(inputs, str) else found
    for row, scores in zip(rows, SCORES[: 1 if isinstance(inputs, str) else len(inputs)], strict=True):
        assert [set(each) for each in row] == [{"label", "score"}] * 3
        expected = sorted(apply_function("none" if raw_scores else "softmax", scores), reverse=True)
        assert [each["score"] for each in row] == pytest.approx(expected, rel=1e-8)


def test_a_flat_list_is_a_batch_also_of_two_or_of_one() -> None:
    """As with the hosted inference API; text-embeddings-inference would read a pair, or a single text."""
    assert [len(answered(body(inputs=["hi", "you"][:count]))) for count in (1, 2)] == [1, 2]
    assert parse_request(body(inputs=["hi", "you"]), LIMITS).texts == ["hi", "you"]


def test_functions_and_threshold() -> None:
    """softmax by default; sigmoid; none, which raw_scores asks for too; a threshold leaves out the rest."""
    assert apply_function("softmax", [1e4, 1e4]) == [0.5, 0.5]
    assert apply_function("sigmoid", [0, 800, -800]) == [0.5, 1, pytest.approx(0)]
    assert parse_request(body(inputs="x"), LIMITS).function == "softmax"
    assert parse_request(body(inputs="x", raw_scores=True), LIMITS).function == "none"
    asked = {"function_to_apply": "none", "threshold": 1}
    assert answered(body(inputs="x", parameters=asked)) == [{"label": 'b"', "score": 2.0}, {"label": "ü", "score": 1.0}]
    assert answered(body(inputs="x", parameters={"threshold": 2})) == []
    assert len(answered(body(inputs="x", parameters={"top_k": 2.0}))) == 2


@pytest.mark.parametrize("where", [{"explain": True}, {"parameters": {"explain": True}}])
def test_an_explanation_is_in_each_label_asked_for(where: dict) -> None:
    """With the phrases, their places, and shares that add up to the logit."""
    classifier = Classifier(checkpoint_of("rand"))
    text = "word1 word2"
    asked = parse_request(body(inputs=text, **where), LIMITS)
    [logits] = classifier.predict_logits([text]).tolist()
    rows = json.loads(LABELS.encode(asked, [logits], [Explainer(classifier, text)], flat=True))
    for row in rows:
        found = row["explanation"]
        assert found["bias"] + sum(each["share"] for each in found["phrases"]) == pytest.approx(row["score"], abs=1e-5)
        assert all(text[each["start"] : each["end"]] == each["text"] for each in found["phrases"])


@pytest.mark.parametrize(
    ("sent", "status", "message"),
    [
        (b"", 400, "not valid JSON"),
        (b"{", 400, "not valid JSON"),
        (b"\xff\xfe", 400, "not valid JSON"),
        (b"[" * 200_000, 400, "not valid JSON"),
        (b'"hi"', 422, "the body"),
        (b"{}", 422, "inputs: Field required"),
        (body(inputs=None), 422, "inputs: must be a text, or a list"),
        (body(inputs=5), 422, "inputs: must be"),
        (body(inputs=[]), 422, "inputs: must be"),
        (body(inputs=["a", 5]), 422, "inputs"),
        (body(inputs=[["a", "b"]]), 422, "pairs of texts are not classified"),
        (body(inputs=[["a"], ["b", "c"]]), 422, "pairs of texts are not classified"),
        (body(inputs=["a", ["b"]]), 422, "inputs: must be"),
        (body(inputs=[[]]), 422, "lists of one text"),
        (b'{"inputs": "\\ud800"}', 400, "not valid JSON"),
        (body(inputs="a", parameters={"top_k": 0}), 422, "parameters.top_k"),
        (body(inputs="a", parameters={"top_k": "3"}), 422, "parameters.top_k"),
        (body(inputs="a", parameters={"threshold": "x"}), 422, "parameters.threshold"),
        (b'{"inputs": "a", "parameters": {"threshold": NaN}}', 422, "parameters.threshold"),
        (body(inputs="a", parameters={"function_to_apply": "relu"}), 422, "parameters.function_to_apply"),
        (body(inputs="a", parameters=[1]), 422, "parameters"),
        (body(inputs="a", explain=1), 422, "explain"),
        (body(inputs=list("abcd")), 413, "has 4 texts; at most 3"),
        (body(inputs=["a", "b" * 51]), 413, "a text has 51 characters; at most 50"),
        (body(inputs=["a", "b"], explain=True), 413, "has 2 texts; at most 1 are explained"),
    ],
)
def test_bad_input_is_a_4xx_that_says_what_is_wrong(sent: bytes, status: int, message: str) -> None:
    """Never anything else."""
    with pytest.raises(RequestError, match=message) as caught:
        parse_request(sent, LIMITS)
    assert caught.value.status == status


def test_fields_that_others_send_are_passed_over() -> None:
    """Clients add options that are not ours, and nulls."""
    asked = parse_request(
        body(inputs="a", options={"use_cache": False}, truncate=True, parameters=None, explain=None), LIMITS
    )
    assert asked.texts == ["a"]
    assert parse_request(body(inputs="a", parameters={"top_k": None, "function_to_apply": None}), LIMITS).top_k is None


def test_explanations_that_would_fill_the_memory_are_refused() -> None:
    """A megabyte of long words and many labels would be told a thousandfold; fewer labels are answered."""
    classifier = Classifier(checkpoint_of("rand"))
    limits = Limits(max_text_length=1_000_000)
    text = " ".join("x" * 60_000 for _ in range(10))
    labels = ResponseEncoder([f"label {number}" for number in range(150)])
    values = [[1 / 150] * 150]
    reasons = [Explainer(classifier, text)]

    def answer(**parameters: object) -> bytes:
        asked = parse_request(body(inputs=text, parameters=parameters | {"explain": True}), limits)
        return labels.encode(asked, values, reasons, flat=True)

    assert reasons[0].estimated_json_bytes > 100_000
    with pytest.raises(RequestError, match=r"more than 8 MB; ask for fewer labels") as refused:
        answer()
    assert refused.value.status == 413
    assert len(json.loads(answer(top_k=1))) == 1
