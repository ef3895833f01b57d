"""Classifier: the scores of the torch network, without torch."""

import itertools
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from cluster.package import REPOSITORY
from jobs.config.abstention import MissingThreshold
from jobs.datasets.formats.columnar.encoded_texts import encode_column
from jobs.datasets.tokenization import installed
from jobs.datasets.tokenizer import Vocabulary, encode, tokenize
from jobs.inference import classifier as classifier_module
from jobs.inference import scoring_kernel
from jobs.inference.classifier import Classifier
from jobs.inference.explanation import Explainer
from jobs.inference.projection_table import TableDtype
from jobs.inference.scoring_kernel import compile_best_class
from jobs.model.checkpoint import Checkpoint, CheckpointError, save_checkpoint
from jobs.model.linear.tensors import PREFIX
from serving.web.compiled_scorer import CompiledScorer
from tests.support.checkpoints import WORDS, checkpoint_of
from tests.support.installed_tokenizer import NAME, install_tokenizer
from tests.support.torch_network import build_network, predict_logits, predict_proba

TABLE_DTYPES: tuple[TableDtype, ...] = ("int16", "float32")


def texts(count: int) -> list[str]:
    generator = np.random.default_rng(1)
    lengths = [0, 1, 2, 3, 700, *generator.integers(0, 40, count)]
    return [" ".join(generator.choice([*WORDS, "unseen", "!"], length)) for length in lengths]


def predict_with_torch(checkpoint: Checkpoint, texts: list[str]) -> np.ndarray:
    tokens = encode((tokenize(text) for text in texts), Vocabulary(WORDS), checkpoint.experiment.text.max_tokens)
    return predict_logits(build_network(checkpoint), tokens).numpy()


@pytest.mark.parametrize("table_bytes", [0, 4000, 1 << 20])
@pytest.mark.parametrize("embedding", ["rand", "static", "non-static", "multichannel"])
@pytest.mark.parametrize("linear", ["none", "words-and-pairs"])
def test_scores_are_those_of_the_torch_network(embedding: str, table_bytes: int, linear: str) -> None:
    """Scores agree to 1e-5 for empty to long texts, with all, some or no words in the table.

    With a table in int16 the error of rounding is added, which is small, and not 0 if a word is in the table.
    """
    checkpoint = checkpoint_of(embedding, **{"model.linear": linear})
    some = texts(50)
    expected = predict_with_torch(checkpoint, some)
    for table_dtype in TABLE_DTYPES:
        classifier = Classifier(checkpoint, table_bytes, table_dtype=table_dtype)
        assert classifier.table_bytes <= table_bytes
        logits = classifier.predict_logits(some)
        differences = np.abs(logits - expected)
        assert (differences <= classifier.max_rounding_error + 1e-5).all()
        if table_dtype == "float32":
            assert classifier.max_rounding_error.max() == 0
        elif table_bytes > 4000:
            assert differences.max() > 2e-6
            # That of the linear classifier is for the longest texts.
            assert classifier.max_rounding_error.max() < (1e-3 if linear == "none" else 1e-2)
        alone = np.concatenate([classifier.predict_logits([text]) for text in some])
        np.testing.assert_allclose(alone, logits, atol=1e-6)


@pytest.mark.parametrize("table_dtype", TABLE_DTYPES)
@pytest.mark.parametrize(
    ("widths", "maps"), [([3, 4, 5], 16), ([3, 4, 5], 37), ([1], 1), ([7, 2], 20), ([1, 2, 3], 5), ([4, 3], 100)]
)
def test_any_widths_and_numbers_of_filters(widths: list[int], maps: int, table_dtype: TableDtype) -> None:
    """They do not fill the blocks in which filters are processed; windows reach beyond both ends of short texts."""
    checkpoint = checkpoint_of("rand", **{"model.filter_widths": widths, "model.feature_maps": maps})
    for value in checkpoint.weights.values():
        value -= 0.2 * (value.ndim == 1)  # ReLU matters
    some = texts(20)
    classifier = Classifier(checkpoint, table_dtype=table_dtype)
    differences = np.abs(classifier.predict_logits(some) - predict_with_torch(checkpoint, some))
    assert (differences <= classifier.max_rounding_error + 1e-5).all()


def test_sums_do_not_overflow() -> None:
    """The largest products of all positions of a window may be those of one text."""
    checkpoint = checkpoint_of("rand", **{"model.filter_widths": [3, 5]})
    vectors = checkpoint.weights["vectors"]
    vectors[2:7] *= 1e4
    for index in (0, 1):  # each position is largest for a word of its own
        filters = checkpoint.weights[f"filters.{index}"]
        for position in range(len(filters) // 9):
            filters[position * 9 : position * 9 + 9] = vectors[2 + position] / np.linalg.norm(vectors[2 + position])
    some = [" ".join(WORDS[:5]), " ".join(WORDS[:5]) + " word9 word0", "word4 word3 word2 word1 word0"]
    classifier = Classifier(checkpoint)
    expected = predict_with_torch(checkpoint, some)
    assert np.abs(expected).max() > 1e3
    differences = np.abs(classifier.predict_logits(some) - expected)
    assert (differences <= classifier.max_rounding_error + 1e-5 * np.abs(expected)).all()


def test_a_table_in_int16_has_twice_the_words() -> None:
    """In the same memory."""
    counts = [Classifier(checkpoint_of("rand"), 20_000, table_dtype=dtype).num_rows for dtype in TABLE_DTYPES]
    assert counts[0] in (2 * counts[1], 2 * counts[1] + 1)
    assert counts[1] > 10


def test_a_text_with_a_low_score_has_no_label_on_request() -> None:
    """The class of out-of-scope texts is never the label; a threshold that a score equals is reached."""
    checkpoint = checkpoint_of("non-static")
    some = texts(50)
    probabilities = Classifier(checkpoint).predict_proba(some)
    threshold = float(np.sort(probabilities[:, :2].max(axis=1))[20])
    abstention = {"thresholds": {"retention": threshold, "balanced": None}, "out_of_scope": 2}
    classifier = Classifier(replace(checkpoint, metrics={"abstention": abstention}))
    labels = classifier.predict(some, abstain="retention")
    best = ["ab"[index] for index in probabilities[:, :2].argmax(axis=1)]
    is_selected = probabilities[:, :2].max(axis=1) >= threshold
    assert labels == [label if selected else None for label, selected in zip(best, is_selected, strict=True)]
    assert 20 <= labels.count(None) < len(some)
    assert None not in classifier.predict(some)
    assert classifier.predict([], abstain="retention") == []
    with pytest.raises(MissingThreshold, match=r"no threshold for 'balanced'; train with data.out_of_scope"):
        classifier.predict(some, abstain="balanced")


@pytest.mark.parametrize(
    ("metrics", "objective", "message"),
    [
        ({}, "retention", "trained by an earlier version, or without validation rows"),
        ({"label_thresholds": {"values": [0.5] * 3}}, "retention", "several labels per text"),
        ({"abstention": {"thresholds": {"retention": 0.5}}}, "all", "'all' is no objective of abstention; name one of"),
        ({"abstention": {"thresholds": {"retention": 0.5}}}, True, "True is no objective of abstention"),
    ],
)
def test_abstention_without_a_threshold_is_an_error(metrics: dict[str, Any], objective: Any, message: str) -> None:
    classifier = Classifier(replace(checkpoint_of("rand"), metrics=metrics))
    with pytest.raises(MissingThreshold, match=message):
        classifier.predict(["word1"], abstain=objective)


@pytest.mark.parametrize("temperature", [0.4, 2.5])
def test_probabilities_have_the_temperature_of_the_checkpoint(temperature: float) -> None:
    """They agree with those of the torch network to 1e-5; logits and labels are those without a temperature."""
    checkpoint = checkpoint_of("non-static")
    calibrated = replace(checkpoint, metrics={"temperature": temperature})
    some = texts(50)
    plain, classifier = (Classifier(item, table_dtype="float32") for item in (checkpoint, calibrated))
    probabilities = classifier.predict_proba(some)
    np.testing.assert_allclose(probabilities, predict_proba(calibrated, some), atol=1e-5)
    assert np.abs(probabilities - plain.predict_proba(some)).max() > 0.01
    assert np.array_equal(classifier.predict_logits(some), plain.predict_logits(some))
    assert np.array_equal(probabilities.argmax(axis=1), plain.predict_proba(some).argmax(axis=1))


def test_case_is_as_in_training() -> None:
    """Only a cased experiment distinguishes WORD1 and word1."""
    lowered, cased = Classifier(checkpoint_of("rand")), Classifier(checkpoint_of("rand", **{"text.lowercase": False}))
    assert np.array_equal(lowered.predict_logits(["WORD1"]), lowered.predict_logits(["word1"]))
    assert not np.array_equal(cased.predict_logits(["WORD1"]), cased.predict_logits(["word1"]))


@pytest.mark.parametrize("table_bytes", [0, 4000, 1 << 20])
@pytest.mark.parametrize("linear", ["none", "words-and-pairs"])
def test_words_with_a_typing_error_are_read_as_known_ones(linear: str, table_bytes: int) -> None:
    """Scores are those of the torch network, and of the texts without the errors; such words count as known."""
    letters = ["".join(word) for word in itertools.product("abc", "def", "ghi", "kl", "no", "pä")][: len(WORDS)]
    checkpoint = replace(checkpoint_of("rand", **{"model.linear": linear, "text.max_edit_distance": 1}), words=letters)
    intended = [text.translate({ord("!"): " ! "}) for text in (" ".join(letters[:5]), letters[7] + "! x", "", "unseen")]
    errors = str.maketrans({"a": "q", "b": "bb", "c": ""})  # first letters
    written = [" ".join(word.translate(errors) for word in text.split()) for text in intended]
    classifier = Classifier(checkpoint, table_bytes, table_dtype="float32")
    logits, num_tokens, num_unknown = classifier.score_texts(written)
    assert (num_tokens, num_unknown) == (9, 3)  # unknown are ! x unseen
    np.testing.assert_allclose(classifier.predict_proba(written), predict_proba(checkpoint, written), atol=1e-5)
    expected = Classifier(checkpoint, table_bytes, table_dtype="float32").predict_logits(intended)
    np.testing.assert_allclose(logits, expected, atol=1e-6)
    served = [CompiledScorer(classifier, 4).score(part, "none") for part in (written, intended)]
    np.testing.assert_allclose(served[0].scores, served[1].scores, atol=1e-6)
    assert served[0].unknown_permille == served[1].unknown_permille
    explained = [Explainer(classifier, text).explain(1).score for text in written]
    np.testing.assert_allclose(explained, logits[:, 1], atol=1e-5)
    exact = replace(checkpoint, experiment=checkpoint.experiment.replace({"text.max_edit_distance": 0}))
    assert np.abs(Classifier(exact).predict_logits(written[:2]) - logits[:2]).max() > 0.01


def test_tokenizer_of_an_installed_package_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the service's scorer and explanations too; without the package the checkpoint is rejected in a sentence."""
    linear = {"model.linear": "words-and-pairs"}  # two code paths add its scores
    checkpoint = checkpoint_of("rand", **linear, **{"text.tokenizer": NAME})
    monkeypatch.syspath_prepend(install_tokenizer(tmp_path))
    usual, classifier = Classifier(checkpoint_of("rand", **linear)), Classifier(checkpoint)
    some = ["word1|word2", "wörd1", "", "WORD3|never seen"]
    spaced = [text.replace("|", " ") for text in some]
    np.testing.assert_allclose(classifier.predict_logits(some), usual.predict_logits(spaced), atol=1e-3)
    scores = [CompiledScorer(side, 4).score(part, "none") for side, part in ((classifier, some), (usual, spaced))]
    np.testing.assert_allclose(scores[0].scores, scores[1].scores, atol=1e-3)
    assert scores[0].unknown_permille == scores[1].unknown_permille > 0
    phrases = Explainer(classifier, "word1|word2").explain(0).phrases
    assert {phrase.text for phrase in phrases} <= {"word1|word2", "word1", "word2"}
    with pytest.raises(CheckpointError, match="'nothing' is neither unicode"):
        Classifier(checkpoint_of("rand", **{"text.tokenizer": "nothing"}))


def test_an_installed_tokenizer_divides_a_text_when_a_classifier_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the first request does not wait for a dictionary, which many packages load for the first text."""
    calls: list[str] = []
    monkeypatch.setattr(installed, "load_tokenizer", lambda name: lambda text: calls.append(text) or text.split())
    classifier = Classifier(checkpoint_of("rand", **{"text.tokenizer": "any"}))
    assert calls[0].startswith("word0 word1 ")
    classifier.predict(["new"])
    assert calls[-1] == "new"


def test_a_phrase_of_overlapping_tokens_has_all_their_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "load_tokenizer", lambda name: lambda text: ["word1", "0", "word10"])
    classifier = Classifier(checkpoint_of("rand", **{"text.tokenizer": "any", "model.filter_widths": [2]}))
    phrases = Explainer(classifier, "word10").explain(0).phrases
    assert {phrase.text for phrase in phrases} == {"word1", "word10"}


def test_lists_may_mix_all_kinds_of_texts() -> None:
    """Texts are in ASCII, in other scripts, or have words that are not in the table, in any order; also in UTF-8."""
    linear = {"model.linear": "words-and-pairs"}
    whole = Classifier(checkpoint_of("rand", **linear), table_dtype="float32")
    half = Classifier(checkpoint_of("rand", **linear), whole.table_bytes // 2, table_dtype="float32")
    assert 0 < half.table_bytes < whole.table_bytes
    some = ["word1 word199", "über word2", "", "word3", "“word4” — word5", "word199 ß", "word0"]
    expected = np.concatenate([whole.predict_logits([text]) for text in some])
    for classifier in (whole, half):
        np.testing.assert_allclose(classifier.predict_logits(some), expected, atol=1e-5)
        np.testing.assert_allclose(classifier.predict_logits(some[::-1]), expected[::-1], atol=1e-5)
        for count in (0, 1, len(some)):
            encoded = encode_column(pa.array(some[:count], pa.string()))
            np.testing.assert_array_equal(classifier.predict_logits(encoded), classifier.predict_logits(some[:count]))
    scored = half.score_texts([*some, "never seen"])
    assert (scored.num_tokens, scored.num_unknown) == (15, 7)


def test_texts_that_python_normalizes_have_the_scores_of_their_composed_form() -> None:
    """Alone and in lists, with and without a table."""
    checkpoint = checkpoint_of("rand")
    checkpoint.words[7:9] = ["café", "naïve"]
    some = ["cafe\u0301 word1", "word2", "nai\u0308ve", "", "\ud800 word3", "\U00020000 na\u00efve"]
    composed = ["café word1", "word2", "naïve", "", "word9 word3", "? naïve"]
    expected = Classifier(checkpoint, table_dtype="float32").score_texts(composed)
    # Half of a surrogate pair, as JSON may have it.
    checkpoint = replace(checkpoint, words=[*checkpoint.words[:9], "\ud800", *checkpoint.words[10:]])
    for table_bytes in (0, 1 << 20):
        classifier = Classifier(checkpoint, table_bytes, table_dtype="float32")
        scored = classifier.score_texts(some)
        np.testing.assert_allclose(scored.logits, expected.logits, atol=1e-5)
        assert scored[1:] == expected[1:]
        for text, logits in zip(some, expected.logits, strict=True):
            np.testing.assert_allclose(classifier.predict_logits([text]), logits[None], atol=1e-5)


def test_words_that_are_not_ascii_are_known() -> None:
    """A word with an accent has its own vector, not that of the unknown word."""
    checkpoint = checkpoint_of("rand")
    checkpoint.words[7] = "café"
    classifier = Classifier(checkpoint)
    assert classifier.score_texts(["café", "CAFE\u0301"]).num_unknown == 0
    assert not np.array_equal(classifier.predict_logits(["café"]), classifier.predict_logits(["cafe"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.weights.pop("output.bias"), "output.bias is missing"),
        (lambda c: c.weights.update({"vectors": np.zeros((5, 6), np.float32)}), "vectors is float32 of \\(5, 6\\)"),
        (lambda c: c.weights.update({"filters.1": c.weights["filters.1"].astype(np.float64)}), "filters.1 is float64"),
        (lambda c: c.weights["output.bias"].fill(np.nan), "output.bias holds values that are not finite"),
        (lambda c: c.labels.append("a"), "labels.json: contains duplicates"),
        (lambda c: c.labels.clear(), "labels.json: is empty"),
        (lambda c: c.words.append(5), "vocabulary.json: is not a list of strings"),
        (lambda c: c.words.append("more"), "vectors is float32 of"),
    ],
)
def test_a_checkpoint_whose_parts_do_not_fit_is_refused(change: Callable[[Checkpoint], object], message: str) -> None:
    """The error is raised when the classifier is created, and names the file."""
    checkpoint = checkpoint_of("non-static")
    change(checkpoint)
    with pytest.raises(CheckpointError, match=message):
        Classifier(checkpoint)


def test_classifying_imports_no_torch_and_waits_for_no_compilation(tmp_path: Path) -> None:
    """A serving replica needs neither torch nor the training code; kernels are compiled when it loads a checkpoint."""
    save_checkpoint(tmp_path / "c", checkpoint_of("non-static"))
    script = (
        "import sys\n"
        "from jobs.model import checkpoint\n"
        "from jobs.inference.classifier import Classifier\n"
        f"classifier = Classifier(checkpoint.load_checkpoint({str(tmp_path / 'c')!r}))\n"
        "print(classifier.predict_logits(['word1 word2']).shape)\n"
        "print({'torch', 'gensim', 'sklearn', 'jobs.training.loop'} & set(sys.modules))\n"
        "from jobs.datasets.tokenization import code_points, tokenizer_kernel\n"
        "from jobs.inference import scoring_kernel\n"
        "modules = (code_points, scoring_kernel, tokenizer_kernel)\n"
        "values = [value for module in modules for value in vars(module).values()]\n"
        "count = lambda: sum(len(value.signatures) for value in values if hasattr(value, 'signatures'))\n"
        "before = count()\n"
        "for texts in (['a'], ['\\u00e9'], ['a', 'b'], ['\\u00e9', 'b'], ['e\\u0301', 'a']):\n"
        "    classifier.predict_logits(texts)\n"
        "print(count() - before)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=300
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout == "(1, 3)\nset()\n0\n"


def test_a_classifier_with_all_words_in_its_table_frees_the_vectors() -> None:
    """The classifier has no view of the vectors either, which would keep their memory allocated."""
    classifier = Classifier(checkpoint_of("static"))
    assert classifier._vectors.base is None
    assert classifier._vectors.nbytes == 0


def test_scratch_memory_depends_on_the_text_not_on_max_tokens() -> None:
    """An untrusted checkpoint may have any max_tokens."""
    classifier = Classifier(checkpoint_of("rand", **{"text.max_tokens": 1 << 60}))
    usual = Classifier(checkpoint_of("rand"))
    for some in (["word1 word2"], ["word1", "word2 word3"]):
        np.testing.assert_array_equal(classifier.predict_logits(some), usual.predict_logits(some))


@pytest.mark.parametrize("maps", [1, 8, 9, 17, 28, 41, 57, 68, 100])
def test_any_number_of_feature_maps(maps: int) -> None:
    """Maps are processed in blocks of several sizes, of which the last may be filled up and may overlap another one."""
    checkpoint = checkpoint_of("rand", **{"model.feature_maps": maps, "model.filter_widths": [4, 1, 3]})
    some = ["", "word1", "word1 word2", " ".join(f"word{number}" for number in range(1, 20))]
    encoded = encode(map(tokenize, some), checkpoint.vocabulary, 50)
    expected = predict_logits(build_network(checkpoint), encoded).numpy()
    classifier = Classifier(checkpoint, table_dtype="float32")
    np.testing.assert_allclose(classifier.predict_logits(some), expected, rtol=0, atol=1e-5)
    difference = np.abs(Classifier(checkpoint).predict_logits(some) - expected).max(axis=0)
    assert (difference <= Classifier(checkpoint).max_rounding_error + 1e-5).all()


@pytest.mark.parametrize("table_dtype", TABLE_DTYPES)
@pytest.mark.parametrize("table_bytes", [0, 4000, 1 << 20])
def test_a_single_text_has_the_label_that_it_has_in_a_list(table_bytes: int, table_dtype: TableDtype) -> None:
    """The most likely class of one text is found in one call: of any script, without words, and with words that are
    not in the table. A pickled classifier has addresses of its own."""
    checkpoint = checkpoint_of("multichannel", **{"model.linear": "words-and-pairs"})
    classifier = Classifier(checkpoint, table_bytes, table_dtype=table_dtype)
    some = [f"word{number} word{number * 3} é word{number * 7}" for number in range(1, 20)]
    some += ["", "word1 word2", "слово word5", "lone \ud83d word3", "word4 " * 600, "word6 " * 20000]
    labels = classifier.predict(some)
    assert len(set(labels)) > 1
    pickled = pickle.loads(pickle.dumps(classifier))
    for text, label in zip(some, labels, strict=True):
        assert classifier.predict([text]) == pickled.predict([text]) == [label]


@pytest.mark.parametrize("table_bytes", [0, 1 << 20])
def test_texts_may_be_a_series(table_bytes: int) -> None:
    """Its index is not that of a list; with an empty table all texts are left to Python."""
    classifier = Classifier(checkpoint_of("rand"), table_bytes)
    some = pd.Series(["word1", "word2 word3"], index=[5, 7])
    assert classifier.predict(some) == classifier.predict(some.to_list())
    assert classifier.predict(some[:1]) == classifier.predict(["word1"])


def test_nothing_is_written_for_no_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel receives as many texts as there are logits, also none."""
    classifier = Classifier(checkpoint_of("rand"))
    score = scoring_kernel.score_texts

    def check_sizes(*arguments: Any) -> Any:
        assert len(arguments[1]) - 1 == len(arguments[-2])
        return score(*arguments)

    monkeypatch.setattr(scoring_kernel, "score_texts", check_sizes)
    for some in ([], ["word1"], ["word1", "word2"]):
        assert len(classifier.predict_logits(some)) == len(some)


@pytest.mark.parametrize("table_dtype", TABLE_DTYPES)
def test_an_error_in_compiled_code_is_no_label(table_dtype: TableDtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled function that Python calls by address returns 0 after an error, here too little memory."""
    classifier = Classifier(checkpoint_of("rand"), table_dtype=table_dtype)
    entry, scorer = compile_best_class(classifier.no_rows.dtype), CompiledScorer(classifier, 1)
    errors: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: errors.append(error.exc_type))
    assert entry.call(b"word1", 1 << 60, 1, classifier.addresses.ctypes.data) == 0
    assert scorer._entry.call(b"word1", 1 << 60, 1 | 1 << 3, scorer._address) == 0
    assert errors == [MemoryError, MemoryError]


@contextmanager
def call_while_addresses_are_packed(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]) -> Iterator[None]:
    """Context manager: another thread makes a call, to its end, while the thread of the body packs the addresses of the
    tables of Unicode for the first time."""
    pack = classifier_module.pack_addresses
    threads: list[threading.Thread] = []

    def pack_slowly(arrays: Sequence[np.ndarray]) -> np.ndarray:
        if not threads:
            threads.append(threading.Thread(target=call))
            threads[0].start()
            threads[0].join(60)
        return pack(arrays)

    monkeypatch.setattr(classifier_module, "pack_addresses", pack_slowly)
    yield
    assert not threads[0].is_alive()


def count_entries(addresses: np.ndarray) -> int:
    """Return the number of entries of the table of Unicode at the addresses that a kernel gets."""
    return int(addresses[2 * scoring_kernel.ENTRIES + 1])


def test_threads_never_find_a_class_without_the_unicode_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the next test, with a single text, whose entry has the addresses of one moment."""
    classifier = Classifier(checkpoint_of("rand"))
    expected, find = classifier.predict(["word1"]), scoring_kernel.BestClassEntry.find
    num_entries: list[int] = []
    labels: list[list[str]] = []

    def record_entries(entry: scoring_kernel.BestClassEntry, content: bytes, is_ascii: bool) -> int:
        if not is_ascii:
            num_entries.append(count_entries(entry.addresses))
        return find(entry, content, is_ascii) if is_ascii or num_entries[-1] else 0

    monkeypatch.setattr(scoring_kernel.BestClassEntry, "find", record_entries)
    with call_while_addresses_are_packed(
        monkeypatch, lambda: [classifier.predict(["wörd"]), labels.append(classifier.predict(["word1"]))]
    ):
        classifier.predict(["wörd"])
    assert labels == [expected]
    assert num_entries == [131072, 131072]


def test_threads_never_use_addresses_without_the_unicode_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second thread scores while the first one packs the addresses of the tables; both threads' tables stay alive."""
    classifier = Classifier(checkpoint_of("rand"))
    score = scoring_kernel.score_texts
    num_entries: list[int] = []

    def record_entries(*arguments: Any) -> Any:
        num_entries.append(count_entries(arguments[3]))
        return score(*arguments) if num_entries[-1] else (len(arguments[-2]), 0, 0)

    monkeypatch.setattr(scoring_kernel, "score_texts", record_entries)
    with call_while_addresses_are_packed(monkeypatch, lambda: classifier.predict_logits(["wörd"])):
        classifier.predict_logits(["wörd"])
    assert num_entries == [131072, 131072]


@pytest.mark.parametrize("table_dtype", TABLE_DTYPES)
@pytest.mark.parametrize("table_bytes", [0, 4000, 1 << 20])
def test_the_network_alone_shares_the_tables(table_bytes: int, table_dtype: TableDtype) -> None:
    """Its scores and explanations are those of a checkpoint without the linear classifier; the original's stay."""
    checkpoint = checkpoint_of("multichannel", **{"model.linear": "words-and-pairs"})
    classifier = Classifier(checkpoint, table_bytes, table_dtype=table_dtype)
    some, before = texts(50), classifier.predict_logits(texts(50))
    weights = {name: value for name, value in checkpoint.weights.items() if not name.startswith(PREFIX)}
    experiment = checkpoint.experiment.replace({"model.linear": "none"})
    expected = Classifier(
        replace(checkpoint, weights=weights, experiment=experiment), table_bytes, table_dtype=table_dtype
    )
    network = classifier.without_linear()
    assert network._table is classifier._table
    np.testing.assert_array_equal(network.predict_logits(some), expected.predict_logits(some))
    assert network.explain(some[3]) == expected.explain(some[3])
    np.testing.assert_array_equal(network.max_rounding_error, expected.max_rounding_error)
    np.testing.assert_array_equal(classifier.predict_logits(some), before)
    assert np.abs(network.predict_logits(some) - before).max() > 0.1


def test_texts_are_a_sequence_of_texts() -> None:
    """A single text is not taken for a list of its letters."""
    classifier = Classifier(checkpoint_of("rand"), share_table=False)
    for method in (classifier.predict, classifier.predict_proba, classifier.predict_labels):
        for text in ("word1 word2", "a"):
            with pytest.raises(ValueError, match=f"got a single one: '{text}'; put it in a list"):
                method(text)
        for texts in ([None], ["word1", None], ["\u00fcber", None]):
            with pytest.raises(ValueError, match=rf"texts\[{len(texts) - 1}\] is None, not a text"):
                method(texts)  # type: ignore[arg-type]
