"""The protocol: requests are parsed and responses encoded as Hugging Face's clients expect."""

import json
from contextlib import suppress
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.config.abstention import AbstentionRule
from jobs.inference.classifier import Classifier
from jobs.inference.explanation import Explainer
from serving.web import protocol
from serving.web.protocol import Limits, RequestError, encode_error, encode_response, parse_request
from tests.support.checkpoints import checkpoint_of
from tests.support.scores import apply_function

LIMITS = Limits(max_texts=3, max_text_length=50, max_explained_texts=1)
LABELS = ["a", 'b"', "ü"]
SCORES = [[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]]


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def respond(content: bytes, logits: list[list[float]] = SCORES, *, flat: bool = True) -> list:
    """Return the parsed response to a body."""
    request = parse_request(content, LIMITS)
    scores = [apply_function(request.function, row) for row in logits[: len(request.texts)]]
    rule = AbstentionRule(0.7, out_of_scope=0) if request.abstain else None
    return json.loads(encode_response(request, LABELS, np.array(scores), [], flat=flat, abstention=rule))


def test_one_text_is_a_flat_list_on_predict_and_a_list_of_lists_on_the_root() -> None:
    """The formats are those of text-embeddings-inference and the hosted inference API."""
    flat = respond(body(inputs="hi"))
    assert [row["label"] for row in flat] == ['b"', "ü", "a"]
    assert sum(row["score"] for row in flat) == pytest.approx(1)
    assert respond(body(inputs="hi"), flat=False) == [flat]


@pytest.mark.parametrize("inputs", [["hi", "you"], [["hi"], ["you"]]])
def test_several_texts_are_a_list_of_lists_everywhere(inputs: list) -> None:
    """Each text may be wrapped in a list, the batch format of text-embeddings-inference."""
    content = body(inputs=inputs, parameters={"top_k": 1})
    assert parse_request(content, LIMITS).texts == ["hi", "you"]
    assert [[row["label"] for row in rows] for rows in respond(content)] == [['b"'], ["a"]]
    assert len(respond(body(inputs=inputs[:1]))) == 1


@pytest.mark.parametrize("more", [{}, {"truncate": True}, {"truncate": False, "truncation_direction": "Left"},
                                  {"truncate": None, "truncation_direction": "right"}])  # fmt: skip
@pytest.mark.parametrize("raw_scores", [None, False, True])
@pytest.mark.parametrize("inputs", ["hi", [["hi"]], [["hi"], ["you"]]])
def test_requests_of_text_embeddings_inference_clients_get_the_same_format(
    inputs: str | list, raw_scores: bool | None, more: dict
) -> None:
    """One text: its labels, the best first; a batch: a list of such lists. Probabilities, or logits with raw_scores."""
    response = respond(body(inputs=inputs, raw_scores=raw_scores, **more))
    rows = [response] if isinstance(inputs, str) else response
    for row, scores in zip(rows, SCORES[: 1 if isinstance(inputs, str) else len(inputs)], strict=True):
        assert [set(label) for label in row] == [{"label", "score"}] * 3
        expected = sorted(apply_function("none" if raw_scores else "softmax", scores), reverse=True)
        assert [label["score"] for label in row] == pytest.approx(expected, rel=1e-8)


def test_a_flat_list_of_one_or_two_texts_is_a_batch() -> None:
    """This is as in the hosted inference API; text-embeddings-inference would read a single text or a pair."""
    assert [len(respond(body(inputs=["hi", "you"][:count]))) for count in (1, 2)] == [1, 2]
    assert parse_request(body(inputs=["hi", "you"]), LIMITS).texts == ["hi", "you"]


def test_functions_and_threshold() -> None:
    """softmax by default; sigmoid; none, also by raw_scores; labels below the threshold are left out."""
    assert parse_request(body(inputs="x"), LIMITS).function == "softmax"
    assert parse_request(body(inputs="x", raw_scores=True), LIMITS).function == "none"
    parameters = {"function_to_apply": "none", "threshold": 1}
    assert respond(body(inputs="x", parameters=parameters)) == [
        {"label": 'b"', "score": 2.0},
        {"label": "ü", "score": 1.0},
    ]
    assert respond(body(inputs="x", parameters={"threshold": 2})) == []
    assert len(respond(body(inputs="x", parameters={"top_k": 2.0}))) == 2


@pytest.mark.parametrize("fields", [{"explain": True}, {"parameters": {"explain": True}}])
def test_each_label_has_an_explanation_on_request(fields: dict) -> None:
    """An explanation has the phrases, their offsets, and shares that add up to the logit."""
    classifier = Classifier(checkpoint_of("rand"))
    text = "word1 word2"
    request = parse_request(body(inputs=text, **fields), LIMITS)
    logits = classifier.predict_logits([text]).astype(float)
    rows = json.loads(encode_response(request, classifier.labels, logits, [Explainer(classifier, text)], flat=True))
    for row in rows:
        explanation = row["explanation"]
        assert explanation["label"] == row["label"]
        shares = [phrase["share"] for phrase in explanation["phrases"]]
        assert explanation["bias"] + sum(shares) == pytest.approx(row["score"], abs=1e-5)
        assert all(text[phrase["start"] : phrase["end"]] == phrase["text"] for phrase in explanation["phrases"])


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 400, "not valid JSON"),
        (b"{", 400, "not valid JSON"),
        (b"\xff\xfe", 400, "not valid JSON"),
        (b"[" * 200_000, 400, "not valid JSON"),
        (b'"hi"', 422, "the body: Expected `object`, got `str`$"),
        (b"{}", 422, "inputs: Field required"),
        (body(inputs=None), 422, "inputs: must be a text, or a non-empty list"),
        (body(inputs=5), 422, "inputs: must be"),
        (body(inputs=[]), 422, "inputs: must be"),
        (body(inputs=["a", 5]), 422, "inputs"),
        (body(inputs=[["a", "b"]]), 422, "pairs of texts are not supported"),
        (body(inputs=[["a"], ["b", "c"]]), 422, "pairs of texts are not supported"),
        (body(inputs=["a", ["b"]]), 422, "inputs: must be"),
        (body(inputs=[[]]), 422, "lists of one text"),
        (b'{"inputs": "\\ud800"}', 400, "not valid JSON"),
        (body(inputs="a", parameters={"top_k": 0}), 422, "parameters.top_k"),
        (body(inputs="a", parameters={"top_k": "3"}), 422, "parameters.top_k"),
        (body(inputs="a", parameters={"threshold": "x"}), 422, "parameters.threshold"),
        (b'{"inputs": "a", "parameters": {"threshold": NaN}}', 400, "not valid JSON"),
        (b'{"inputs": "a", "parameters": {"threshold": 1e999}}', 422, "parameters.threshold"),
        (b'{"inputs": "a", "parameters": {"top_k": %s}}' % (b"1" * 5000), 422, "parameters.top_k"),
        (b'{"inputs": "a", "parameters": {"top_k": 2.5}}', 422, "parameters.top_k: must be a whole number"),
        (b'{"inputs": "a", "parameters": {"top_k": true}}', 422, "parameters.top_k"),
        (b'{"inputs": 5, "options": }', 400, "not valid JSON"),
        (b'{"inputs": "a", "options": %s}' % (b"[" * 100_000 + b"]" * 100_000), 400, "nested too deeply"),
        (b'{"inputs": "a"} {}', 400, "not valid JSON"),
        ('{"inputs": "\ud800"}'.encode("utf-8", "surrogatepass"), 400, "not valid JSON"),
        (
            body(inputs="a", parameters={"function_to_apply": "relu"}),
            422,
            "parameters.function_to_apply: must be softmax, sigmoid or none",
        ),
        (body(inputs="a", parameters=[1]), 422, "parameters"),
        (body(inputs="a", explain=1), 422, "explain"),
        (
            body(inputs="a", parameters={"topk": 3}),
            422,
            r"parameters\.topk: unknown field; did you mean parameters.top_k",
        ),
        (body(inputs="a", top_k=3), 422, r"top_k: unknown field; did you mean parameters\.top_k\?"),
        (body(input="a"), 422, r"input: unknown field; did you mean inputs\?"),
        (body(inputs="a", zzz=3), 422, "zzz: unknown field; the fields are parameters.top_k"),
        (body(inputs=list("abcd")), 413, "4 texts; at most 3 are allowed"),
        (body(inputs=["a", "b" * 51]), 413, "a text has 51 characters; at most 50"),
        (body(inputs=["a", "b"], explain=True), 413, "2 texts; at most 1 are allowed with explain"),
    ],
)
def test_invalid_input_is_a_4xx_that_names_the_problem(content: bytes, status: int, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        parse_request(content, LIMITS)
    assert caught.value.status == status


def test_a_long_name_that_looks_like_a_path_is_refused_in_linear_time() -> None:
    """And a long value; the message is short."""
    name = "` - at `$." * 50_000
    for content in (body(**{name: 1}), body(inputs="a", parameters={name: 1, "function_to_apply": name})):
        with pytest.raises(RequestError, match="unknown field") as caught:
            parse_request(content, LIMITS)
        assert len(str(caught.value)) < 500
    with pytest.raises(RequestError, match=r"parameters\.function_to_apply: must be softmax, sigmoid or none"):
        parse_request(body(inputs="a", parameters={"function_to_apply": name}), LIMITS)


def test_options_of_hugging_face_clients_and_nulls_are_ignored() -> None:
    """Those of the hosted API, of text-embeddings-inference, and of transformers' pipelines."""
    request = parse_request(
        body(inputs="a", options={"use_cache": False}, truncate=True, parameters=None, explain=None), LIMITS
    )
    assert request.texts == ["a"]
    assert parse_request(body(inputs="a", parameters={"truncation": True, "max_length": 9}), LIMITS).texts == ["a"]
    assert parse_request(body(inputs="a", parameters={"top_k": None, "function_to_apply": None}), LIMITS).top_k is None


def test_explanations_that_would_fill_the_memory_are_refused() -> None:
    """A megabyte of long words would be repeated for each of many labels; a request for fewer labels is accepted."""
    classifier = Classifier(checkpoint_of("rand"))
    limits = Limits(max_text_length=1_000_000)
    text = " ".join("x" * 60_000 for _ in range(10))
    labels = [f"label {number}" for number in range(150)]
    scores = np.full((1, 150), 1 / 150)
    explainers = [Explainer(classifier, text)]

    def explain(**parameters: object) -> bytes:
        request = parse_request(body(inputs=text, parameters=parameters | {"explain": True}), limits)
        return encode_response(request, labels, scores, explainers, flat=True)

    assert explainers[0].estimated_json_bytes > 100_000
    with pytest.raises(RequestError, match=r"more than 8 MB; request fewer labels") as caught:
        explain()
    assert caught.value.status == 413
    assert len(json.loads(explain(top_k=1))) == 1


@pytest.mark.parametrize("more", [{"abstain": True}, {"parameters": {"abstain": "precision"}}])
def test_abstention_returns_a_label_or_none_with_the_scores(more: dict) -> None:
    """The label is the best class in scope if its score reaches the threshold, 0.7; top_k shortens the scores only."""
    first, second = respond(body(inputs=["hi", "you"], **more), [[0.0, 2.0, 1.0], [3.0, 0.0, 2.9]])
    assert (first["label"], second["label"]) == (None, None)  # 0.67; the best class is the one out of scope
    assert [row["label"] for row in second["scores"]] == ["a", "ü", 'b"']
    single = respond(body(inputs="hi", **more), [[0.0, 2.0, 0.0]])
    assert (single["label"], len(single["scores"])) == ('b"', 3)
    assert respond(body(inputs="hi", **more), [[0.0, 2.0, 0.0]], flat=False) == [single]
    assert respond(body(inputs="hi", abstain=True, parameters={"top_k": 1}), [[0.0, 2.0, 0.0]])["scores"] == [
        single["scores"][0]
    ]
    assert isinstance(respond(body(inputs="hi", abstain=False)), list)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"abstain": True, "raw_scores": True}, "abstain: thresholds are of softmax"),
        ({"parameters": {"abstain": True, "function_to_apply": "sigmoid"}}, "abstain: thresholds are of softmax"),
        ({"abstain": "recall"}, "abstain: must be true, false, retention, precision or balanced"),
        ({"parameters": {"abstain": 0.5}}, "parameters.abstain: must be true, false"),
    ],
)
def test_abstention_that_is_no_objective_or_has_another_function_is_an_error(fields: dict, message: str) -> None:
    with pytest.raises(RequestError, match=f"^{message}"):
        parse_request(body(inputs="hi", **fields), LIMITS)


def test_a_text_with_several_labels_has_no_abstention() -> None:
    with pytest.raises(RequestError, match=r"with one label per text; this checkpoint has several$"):
        parse_request(body(inputs="hi", abstain=True), LIMITS, "sigmoid")


@pytest.mark.parametrize(
    "parameters", [{}, {"top_k": 7}, {"top_k": 500}, {"threshold": 3}, {"top_k": 7, "threshold": 9}]
)
def test_the_labels_of_a_response_are_the_best_in_the_order_of_the_classes(parameters: dict) -> None:
    """Of equal scores that of the first class is first, also where `top_k` ends among them."""
    scores = np.random.default_rng(0).integers(0, 10, (20, 100)).astype(float)
    labels = [f"label {index}" for index in range(100)]
    request = parse_request(body(inputs=["x"] * 20, parameters=parameters), Limits())
    expected = []
    for row in scores.tolist():
        pairs = sorted(zip(labels, row, strict=True), key=lambda pair: pair[1], reverse=True)[: parameters.get("top_k")]
        expected.append(
            [{"label": label, "score": score} for label, score in pairs if score >= parameters.get("threshold", 0)]
        )
    assert json.loads(encode_response(request, labels, scores, [], flat=True)) == expected


def test_few_of_many_labels_take_no_object_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """256 texts with 10,000 labels each would be 2.6 million objects."""
    scores = np.random.default_rng(0).random((4, 10_000))
    labels = list(map(str, range(10_000)))
    created = Mock(side_effect=protocol.Score)
    monkeypatch.setattr(protocol, "Score", created)
    for parameters in ({"top_k": 1}, {"threshold": np.partition(scores, -1)[:, -1].min()}):
        request = parse_request(body(inputs=["x"] * 4, parameters=parameters), Limits())
        encode_response(request, labels, scores, [], flat=True)
    assert created.call_count < 30


def test_a_response_with_too_many_scores_is_refused() -> None:
    """The message says how to request fewer."""
    scores = np.random.default_rng(0).random((4, 100))
    labels = list(map(str, range(100)))

    def respond_within(max_scores: int, **parameters: object) -> bytes:
        request = parse_request(body(inputs=["x"] * 4, parameters=parameters), Limits())
        return encode_response(request, labels, scores, [], flat=True, max_scores=max_scores)

    assert len(json.loads(respond_within(400))) == 4
    assert respond_within(4, top_k=1)
    with pytest.raises(RequestError, match=r"more than 399 scores; request fewer labels \(parameters.top_k") as caught:
        respond_within(399)
    assert caught.value.status == 413


def test_scores_have_all_digits_of_float32() -> None:
    """And a decimal point or an exponent: readers of JSON in some languages would take 1 for an integer."""
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    request = parse_request(body(inputs="a"), LIMITS)
    labels = list(map(str, range(len(values))))
    response = encode_response(request, labels, values.astype(np.float64)[None], [], flat=True)
    assert {np.float32(row["score"]) for row in json.loads(response)} == set(values)
    for number in ([1.0, 0.0], [1e-300, 0.0]):
        content = encode_response(request, ["a", "b"], np.array([number]), [], flat=True)
        assert all(isinstance(row["score"], float) for row in json.loads(content))


def test_an_error_message_may_hold_any_character() -> None:
    assert json.loads(encode_error('"\ud800\x00ü')) == {"error": '"?\x00ü'}


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.sampled_from([0.5, 2.0, 2.5, "", "a", "softmax", "none", "precision"])
)
LISTS = st.lists(VALUES | st.lists(VALUES, max_size=2), max_size=3)
FIELDS = st.sampled_from(
    ["inputs", "parameters", "raw_scores", "explain", "abstain", "truncate", "options", "top_k", "x"]
)
PARAMETERS = st.sampled_from(["top_k", "function_to_apply", "threshold", "explain", "abstain", "truncation", "inputs"])


def effective_function(fields: dict, parameters: dict) -> object:
    """Return the function of a body with valid types: that of the parameters has precedence."""
    return parameters.get("function_to_apply") or ("none" if fields.get("raw_scores") else "softmax")


def is_valid(fields: dict) -> bool:
    """Return whether a body with these fields is valid, apart from limits."""

    def is_number(value: object) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    def is_flag(value: object) -> bool:
        return value is None or isinstance(value, bool)

    def is_single(value: object) -> bool:
        return isinstance(value, list) and len(value) == 1 and isinstance(value[0], str)

    inputs, parameters = fields.get("inputs"), fields.get("parameters")
    parameters = {} if parameters is None else parameters
    if not isinstance(parameters, dict):
        return False
    abstain = [fields.get("abstain"), parameters.get("abstain")]
    lists = isinstance(inputs, list) and len(inputs) > 0
    top_k, threshold = parameters.get("top_k"), parameters.get("threshold")
    return (
        set(fields) <= {*("inputs", "parameters", "raw_scores", "explain", "abstain"), "truncate", "options"}
        and set(parameters) <= {*("top_k", "function_to_apply", "threshold", "explain", "abstain"), "truncation"}
        and all(is_flag(value) or value == "precision" for value in abstain)
        and (isinstance(inputs, str) or (lists and (all(isinstance(text, str) for text in inputs)
                                                    or all(map(is_single, inputs)))))
        and (top_k is None or (is_number(top_k) and top_k >= 1 and top_k == int(top_k)))
        and parameters.get("function_to_apply") in (None, "softmax", "sigmoid", "none")
        and (threshold is None or is_number(threshold))
        and all(map(is_flag, (parameters.get("explain"), fields.get("explain"), fields.get("raw_scores"))))
        and not (any(abstain) and effective_function(fields, parameters) != "softmax")
    )  # fmt: skip


@settings(max_examples=1000, deadline=None)
@given(
    fields=st.dictionaries(FIELDS, VALUES | LISTS, max_size=2),
    inputs=st.sampled_from(["a", ["a", "b"], [["a"]]]) | LISTS,
    parameters=st.dictionaries(PARAMETERS, VALUES, max_size=2) | VALUES,
)
def test_a_body_is_parsed_if_and_only_if_it_is_valid(fields: dict, inputs: object, parameters: object) -> None:
    """An invalid one is a 422 with one line that names a field."""
    fields = {"inputs": inputs, "parameters": parameters} | fields
    if not is_valid(fields):
        with pytest.raises(RequestError, match=r"^[\w.\[\]]+: [^\n`]+") as caught:
            parse_request(body(**fields), Limits())
        assert caught.value.status == 422
        return
    request = parse_request(body(**fields), Limits())
    texts = fields["inputs"]
    assert request.single == isinstance(texts, str)
    if not request.single:
        assert request.texts == [text if isinstance(text, str) else text[0] for text in texts]
    options = fields.get("parameters") or {}
    assert (request.top_k, request.threshold) == (options.get("top_k"), options.get("threshold"))
    assert request.explain == bool(options.get("explain") or fields.get("explain"))
    default = "none" if fields.get("raw_scores") else "softmax"
    assert request.function == (options.get("function_to_apply") or default)


@settings(max_examples=1000, deadline=None)
@given(start=st.integers(0, 60), removed=st.integers(0, 4), inserted=st.binary(max_size=4))
def test_a_damaged_body_is_parsed_or_a_4xx(start: int, removed: int, inserted: bytes) -> None:
    valid = '{"inputs": ["ü", "b"], "parameters": {"top_k": 1, "threshold": 0.5}}'.encode()
    damaged = valid[:start] + inserted + valid[start + removed :]
    try:
        json.loads(damaged.decode())
    except ValueError:
        with pytest.raises(RequestError, match="the body is not valid JSON") as caught:
            parse_request(damaged, LIMITS)
        assert caught.value.status == 400
        assert json.loads(encode_error(str(caught.value)))
        return
    with suppress(RequestError):
        parse_request(damaged, LIMITS)
