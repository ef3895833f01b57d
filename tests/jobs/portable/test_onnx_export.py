"""ONNX files in ONNX Runtime, with their tokenizers: the scores of the classifier, from texts and from token ids."""

import json
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from cluster import UsageError
from jobs.__main__ import main
from jobs.config.experiment import Experiment
from jobs.config.settings import TextSettings
from jobs.datasets.tokenizer import Tokens, tokenize
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import CheckpointError, save_checkpoint
from jobs.model.linear.tensors import BIAS, PAIRS, SCALE, SQUARES, WEIGHT
from jobs.portable import onnx_graph, tokenizer_json
from jobs.portable.onnx_export import export_onnx
from jobs.portable.onnx_graph import build_model
from jobs.portable.tokenizer_json import build_tokenizer
from tests.support.checkpoints import checkpoint_of
from tests.support.torch_network import build_network, predict_logits

TEXTS = ["word1 word2 elsewhere", "", "word5", " ".join(f"word{number}" for number in range(40)), "nowhere"]
WORDS = ["don", "n't", "été", "i", "東京", "नमस्ते", "'s", "!!!", "[PAD]"]


def run(model: bytes, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and probabilities in ONNX Runtime."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    logits, probabilities = session.run(["logits", "probabilities"], {"token_ids": ids})
    return logits, probabilities


def pad(ids: Sequence[Sequence[int] | np.ndarray], extra: int = 0) -> np.ndarray:
    """Return token ids as one array, padded to the longest text and further."""
    array = np.zeros((len(ids), max(map(len, ids)) + extra), np.int64)
    for row, own in zip(array, ids, strict=True):
        row[: len(own)] = own
    return array


@pytest.mark.parametrize("embedding", ["rand", "static", "non-static", "multichannel"])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("linear", ["none", "words-and-pairs"])
def test_scores_are_those_of_the_classifier(embedding: str, multi_label: bool, linear: str) -> None:
    """Whatever the other texts of a batch are, and however far it is padded."""
    settings = {"data.multi_label": multi_label, "model.linear": linear}
    checkpoint = replace(checkpoint_of(embedding, **settings), metrics={"epoch": 1, "temperature": 1.7})
    model = build_model(checkpoint)
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    classifier = Classifier(checkpoint, table_dtype="float32", share_table=False)
    ids = [classifier.vocabulary.encode(tokenize(text)) for text in TEXTS]
    expected = classifier.predict_logits(TEXTS), classifier.predict_proba(TEXTS)
    for extra in (0, 5):
        for actual, value in zip(run(content, pad(ids, extra)), expected, strict=True):
            np.testing.assert_allclose(actual, value, atol=1e-5, rtol=0)
    single = run(content, np.zeros((1, 0), np.int64))  # a text without tokens
    np.testing.assert_allclose(single[0], expected[0][1:2], atol=1e-5, rtol=0)
    metadata = {item.key: json.loads(item.value) for item in model.metadata_props}
    assert (metadata["labels"], metadata["multi_label"]) == (["a", "b", "c"], multi_label)


def test_the_tokenizer_of_a_checkpoint_need_not_be_installed() -> None:
    """The tensors are validated without it."""
    checkpoint = checkpoint_of("rand", **{"text.tokenizer": "none_such"})
    onnx.checker.check_model(build_model(checkpoint))
    with pytest.raises(CheckpointError, match=r"output\.weight is float32"):
        build_model(replace(checkpoint, labels=["a", "b"]))


def test_a_checkpoint_beyond_the_size_of_a_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "MAX_BYTES", 100)
    with pytest.raises(CheckpointError, match="more than 2 GB of weights"):
        build_model(checkpoint_of("rand"))


@pytest.mark.parametrize("num_pairs", [0, 1, 2, 50, None])
def test_each_pair_of_the_linear_classifier_is_found(num_pairs: int | None) -> None:
    """Of few pairs and of all; not across texts, and not those of words without a row. The scores are torch's."""
    checkpoint = checkpoint_of("rand", **{"model.linear": "words-and-pairs"})
    weights = checkpoint.weights
    num_words = len(weights[SQUARES]) - len(weights[PAIRS])
    rows = slice(None if num_pairs is None else num_words + num_pairs)
    weights |= {PAIRS: weights[PAIRS][:num_pairs], WEIGHT: weights[WEIGHT][rows], SQUARES: weights[SQUARES][rows]}
    generator = np.random.default_rng(1)
    ids = [generator.integers(1, len(checkpoint.words) + 2, length).astype(np.int32) for length in (1, 2, 3, 40, 300)]
    ids += [*weights[PAIRS][:500]]
    tokens = Tokens(np.concatenate(ids), np.cumsum([0, *map(len, ids)]))
    expected = predict_logits(build_network(checkpoint), tokens).numpy()
    logits, _ = run(build_model(checkpoint).SerializeToString(), pad(ids))
    np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=0)


def test_texts_whose_words_have_no_row_have_the_bias_of_the_linear_classifier() -> None:
    checkpoint = checkpoint_of("rand", **{"model.linear": "words-and-pairs"})
    unknown = np.array([[1, len(checkpoint.words) + 1], [1, 0]])
    for name in (WEIGHT, SQUARES):
        checkpoint.weights[name][1] = 0  # as trained ones have
    logits, _ = run(build_model(checkpoint).SerializeToString(), unknown)
    alone = replace(checkpoint, experiment=checkpoint.experiment.replace({"model.linear": "none"}))
    for name in (PAIRS, WEIGHT, SQUARES):
        del alone.weights[name]
    bias = alone.weights.pop(SCALE) * alone.weights.pop(BIAS)
    np.testing.assert_allclose(
        logits, run(build_model(alone).SerializeToString(), unknown)[0] + bias, atol=1e-5, rtol=0
    )


SETTINGS = [
    TextSettings(tokenizer=tokenizer, lowercase=lowercase)
    for tokenizer in ("unicode", "words")
    for lowercase in (False, True)
]


def describe(text: TextSettings) -> str:
    return f"{text.tokenizer}, {'lower case' if text.lowercase else 'both cases'}"


@cache
def tokenizer_of(text: TextSettings) -> Tokenizer:
    experiment = Experiment().replace({f"text.{name}": value for name, value in text.model_dump().items()})
    return build_tokenizer(replace(checkpoint_of("rand"), words=WORDS, experiment=experiment))


# Everything that the tokenizers treat differently, except Σ and combining dots, and any character of old scripts.
CHARACTERS = st.one_of(
    st.sampled_from(
        "aAbnN'tTsSmMrReEvVlLdD’ .!?-_\u0301\u200dİiékकि\u094d1"
        '\n\x1c漢\u1112\u1161\u11abא"·ก\u0e33က\u1039\u200bｶ\uff9e\u200e'
    ),
    st.characters(max_codepoint=0x2FFF, exclude_categories=["Cs", "Cn"], exclude_characters="Σ\u0307"),
)


def find_tokens(text: str, settings: TextSettings) -> list[str]:
    """Return the tokens that the library finds."""
    tokenizer = tokenizer_of(settings)
    normalized = tokenizer.normalizer.normalize_str(text)
    return [token for token, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normalized)]


@pytest.mark.parametrize("text_settings", SETTINGS, ids=describe)
@settings(max_examples=150, deadline=None)
@given(text=st.text(CHARACTERS, max_size=12))
def test_tokens_are_those_of_the_project(text_settings: TextSettings, text: str) -> None:
    assert find_tokens(text, text_settings) == tokenize(text, text_settings)


@pytest.mark.parametrize("text_settings", SETTINGS, ids=describe)
def test_each_block_of_unicode_is_classified_as_in_the_project(text_settings: TextSettings) -> None:
    """Every 16th character, between and next to letters."""
    for first in range(0, 0x20000, 16):
        character = chr(first + first // 16 % 16)
        if unicodedata.category(character) not in ("Cs", "Cn"):
            text = f"a{character}b {character}{character}é{character}é"
            assert find_tokens(text, text_settings) == tokenize(text, text_settings), hex(ord(character))


@pytest.mark.parametrize("name", ["unicode-pairs", "jieba"])
def test_tokenizers_that_are_no_regular_expression_are_refused(name: str) -> None:
    checkpoint = checkpoint_of("rand", **{"text.tokenizer": name})
    with pytest.raises(CheckpointError, match=f"cannot express text.tokenizer={name}; export it without one"):
        build_tokenizer(checkpoint)


def test_a_vocabulary_with_an_edit_distance_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"cannot express text\.max_edit_distance=1; export it without one"):
        build_tokenizer(checkpoint_of("rand", **{"text.max_edit_distance": 1}))


def test_a_final_sigma_is_one_after_a_letter() -> None:
    """Next to other characters than letters the library may be wrong, which the documentation says."""
    tokenizer = tokenizer_of(TextSettings())
    assert tokenizer.normalizer.normalize_str("ΟΔΥΣΣΕΥΣ ΣΑΣ Σ") == "οδυσσευς σας σ" == "ΟΔΥΣΣΕΥΣ ΣΑΣ Σ".lower()
    assert tokenizer.normalizer.normalize_str("ΑΣ'Α") != "ΑΣ'Α".lower()


def test_a_tokenizer_truncates_and_pads() -> None:
    checkpoint = checkpoint_of("rand", **{"text.max_tokens": 3})
    encodings = build_tokenizer(checkpoint).encode_batch(["word1 word0 zz word5 word6", "", "word2"])
    assert [encoding.ids for encoding in encodings] == [[3, 2, 1], [0, 0, 0], [4, 0, 0]]


@pytest.mark.parametrize(
    ("words", "message"),
    [(["a", "\ud800"], "a word is no Unicode text"), (["a", "b"], "cannot express its tokenizer: the token ids of ")],
)
def test_a_tokenizer_that_cannot_be_expressed_is_refused(
    monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    """The second one divides texts at other places."""
    if message.startswith("cannot"):
        monkeypatch.setattr(tokenizer_json, "tokenize", lambda text, settings: list(text))
    with pytest.raises(CheckpointError, match=message):
        build_tokenizer(replace(checkpoint_of("rand"), words=words))


def test_the_command_writes_both_files_and_replaces_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts have the same scores through the files as in the classifier."""
    monkeypatch.chdir(tmp_path)
    checkpoint = checkpoint_of("non-static")
    save_checkpoint(tmp_path / "c", checkpoint)
    assert main(["export", "c", "--onnx", "out/model.onnx"]) == 0
    tokenizer = Tokenizer.from_file("out/tokenizer.json")
    ids = np.array([encoding.ids for encoding in tokenizer.encode_batch(TEXTS)])
    logits, _ = run(Path("out/model.onnx").read_bytes(), ids)
    expected = Classifier(checkpoint, table_dtype="float32", share_table=False).predict_logits(TEXTS)
    np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=0)
    assert main(["export", "c", "--onnx", "out/model.onnx"]) == 2
    assert main(["export", "c", "--onnx", "out/other.onnx"]) == 2, "tokenizer.json exists"
    assert main(["export", "c", "--onnx", "out/other.onnx", "--no-tokenizer"]) == 0
    assert main(["export", "c", "--onnx", "out/model.onnx", "--force"]) == 0
    assert main(["export", "c", "--onnx", "c/model.onnx", "--no-tokenizer"]) == 2, "in the checkpoint"


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path / "c", checkpoint_of("rand"))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UsageError, match="needs the package onnx: pip install onnx tokenizers"):
        export_onnx(str(tmp_path / "c"), str(tmp_path / "model.onnx"))
