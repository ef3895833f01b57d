"""The HTTP contract, without HTTP."""

import json

import numpy as np
import pytest

from serving.protocol import Limits, RequestError, answer, apply, parse

LIMITS = Limits(max_texts=3)
LABELS = ["a", "b", "ü"]
SCORES = np.array([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]], np.float32)


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def test_one_text_is_a_flat_list_on_predict_and_a_list_of_lists_on_the_root() -> None:
    """As text-embeddings-inference and the hosted inference API answer."""
    asked = parse(body(inputs="hi"), LIMITS)
    flat = json.loads(answer(asked, SCORES[:1], LABELS, flat=True))
    assert [row["label"] for row in flat] == ["b", "ü", "a"]
    assert sum(row["score"] for row in flat) == pytest.approx(1)
    assert json.loads(answer(asked, SCORES[:1], LABELS, flat=False)) == [flat]


@pytest.mark.parametrize("inputs", [["hi", "you"], [["hi"], ["you"]]])
def test_several_texts_are_a_list_of_lists_everywhere(inputs: list) -> None:
    """Also where each text is wrapped in a list, as text-embeddings-inference takes a batch."""
    asked = parse(body(inputs=inputs, parameters={"top_k": 1}), LIMITS)
    assert asked.texts == ["hi", "you"]
    found = json.loads(answer(asked, SCORES, LABELS, flat=True))
    assert [[row["label"] for row in rows] for rows in found] == [["b"], ["a"]]


def test_functions() -> None:
    """softmax by default; sigmoid; none, which raw_scores asks for too."""
    np.testing.assert_allclose(apply("softmax", SCORES).sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(apply("softmax", SCORES + 1e4), apply("softmax", SCORES), rtol=1e-3)
    np.testing.assert_allclose(apply("sigmoid", np.zeros((1, 2))), 0.5)
    assert parse(body(inputs="x"), LIMITS).function == "softmax"
    assert parse(body(inputs="x", raw_scores=True), LIMITS).function == "none"
    asked = parse(body(inputs="x", parameters={"function_to_apply": "none"}), LIMITS)
    assert json.loads(answer(asked, SCORES[:1], LABELS, flat=True))[0] == {"label": "b", "score": 2.0}


@pytest.mark.parametrize(
    ("sent", "status", "message"),
    [
        (b"", 400, "not valid JSON"),
        (b"{", 400, "not valid JSON"),
        (b"\xff\xfe", 400, "not valid JSON"),
        (b"[" * 200, 400, "not valid JSON"),
        (b'"hi"', 422, "the body"),
        (b"{}", 422, "inputs: Field required"),
        (body(inputs=None), 422, "inputs"),
        (body(inputs=5), 422, "inputs"),
        (body(inputs=[]), 422, "inputs: is empty"),
        (body(inputs=["a", 5]), 422, "inputs"),
        (body(inputs=[["a", "b"]]), 422, "a list within the list holds one text, not 2"),
        (body(inputs=[[]]), 422, "holds one text, not 0"),
        (b'{"inputs": "\\ud800"}', 400, "not valid JSON"),
        (body(inputs="a", parameters={"top_k": 0}), 422, "parameters.top_k"),
        (body(inputs="a", parameters={"function_to_apply": "relu"}), 422, "parameters.function_to_apply"),
        (body(inputs="a", parameters=[1]), 422, "parameters"),
        (body(inputs=list("abcd")), 413, "has 4 texts; at most 3"),
    ],
)
def test_bad_input_is_a_4xx_that_says_what_is_wrong(sent: bytes, status: int, message: str) -> None:
    """Never anything else."""
    with pytest.raises(RequestError, match=message) as caught:
        parse(sent, LIMITS)
    assert caught.value.status == status


def test_fields_that_others_send_are_passed_over() -> None:
    """Clients add options that are not ours."""
    assert parse(body(inputs="a", options={"use_cache": False}, truncate=True, parameters=None), LIMITS).texts == ["a"]
