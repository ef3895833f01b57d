"""Large sources: the same datasets and corpora as with texts in memory, and their cache."""

import json
import logging
import pickle
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.config.abstention import OUT_OF_SCOPE
from jobs.config.experiment import Experiment, digest, load_experiment
from jobs.datasets import readers
from jobs.datasets.dataset import load_dataset, load_folds, merge_validation
from jobs.datasets.json_digest import digest_list, digest_lists
from jobs.datasets.prepared import array_file, texts, tokens
from jobs.datasets.prepared.texts import Texts
from jobs.datasets.readers import DataError, Split
from jobs.datasets.tokenization.characters import BUILT_IN
from jobs.datasets.tokenization.installed import load_tokenizer
from jobs.training.corpora.building import load_inputs
from jobs.training.corpora.corpus import Corpus
from tests.support.installed_tokenizer import NAME, install_tokenizer
from tests.support.text_formats import SUFFIXES, encode_rows

LETTERS = st.text(st.sampled_from("aAbIi'ntsd .!?é\u0301İΣσ京\u0e01\u0e33\u200d\U0001f600\U00020000"), max_size=9)
ROWS = st.lists(st.tuples(st.sampled_from(["x", "y", "1.0"]), LETTERS), min_size=12, max_size=40)


@pytest.fixture(autouse=True)
def small_blocks() -> Iterator[None]:
    """Divide few rows too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "BLOCK_BYTES", 40)
        patch.setattr(tokens, "BLOCK_ROWS", 7)
        yield


def load(experiment: Experiment, *, large: bool) -> tuple[list[str], Corpus]:
    """Return the corpus of an experiment and what identifies its dataset, read as a large source or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "MIN_PREPARED_BYTES", 0 if large else 1 << 60)
        dataset, corpus = load_inputs(experiment)
    parts = (dataset.train, dataset.validation, dataset.test)
    # Rows of the class of out-of-scope texts join the training rows in memory.
    assert all(isinstance(part.texts, Texts) == large for part in parts[OUT_OF_SCOPE in dataset.labels :])
    described = [part.describe_position(index) for part in parts for index in range(len(part))]
    return [*dataset.notes, *dataset.labels, *(part.digest() for part in parts), *described], corpus


def check(experiment: Experiment, caplog: pytest.LogCaptureFixture) -> None:
    """Check that a large source has the same dataset, corpus and messages."""
    results, messages = [], []
    for large in (False, True):
        with caplog.at_level(logging.INFO):
            caplog.clear()
            results.append(load(experiment, large=large))
            messages.append([message for message in caplog.messages if "cache" not in message])
    assert messages[0] == messages[1]
    assert results[0][0] == results[1][0]
    for field in fields(Corpus):
        expected, value = (getattr(corpus, field.name) for _, corpus in results)
        if field.name in ("train", "validation"):
            assert np.array_equal(expected.tokens.ids, value.tokens.ids)
            assert np.array_equal(expected.tokens.offsets, value.tokens.offsets)
            assert (expected.tokens.ids.dtype, expected.labels.dtype) == (value.tokens.ids.dtype, value.labels.dtype)
            assert np.array_equal(expected.labels, value.labels)
        elif field.name == "out_of_scope" and expected is not None:
            assert np.array_equal(expected.ids, value.ids)
        else:
            assert np.array_equal(expected, value), field.name


def make_experiment(folder: Path, *values: str) -> Experiment:
    return load_experiment(None, [f"storage={folder / 'runs'}", "model.embedding=rand", *values])


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, test_rows=ROWS, tokenizer=st.sampled_from(BUILT_IN), lowercase=st.booleans(), limit=st.integers(1, 6))
def test_the_corpus_is_that_of_texts_in_memory(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    rows: list[tuple[str, str]],
    test_rows: list[tuple[str, str]],
    tokenizer: str,
    lowercase: bool,
    limit: int,
) -> None:
    """Vocabulary, token ids, offsets, labels, splits, digests and messages, in all scripts."""
    base = [("x", "one"), ("y", "two"), ("1", "isn't"), ("1", "isn't"), ("x", "three"), ("y", "three")] * 3
    base += [("x", "thre"), ("y", "htree")]  # unknown with a minimum count; one typing error
    for name, part in (("train", base + rows), ("test", base + test_rows)):
        (tmp_path / f"{name}.tsv").write_text("label\ttext\n" + "".join(f"{label}\t{text}\n" for label, text in part))
    options = [f"data.train={tmp_path}/train.tsv", f"text.lowercase={lowercase}", f"text.tokenizer={tokenizer}"]
    options += [f"text.max_tokens={limit}", f"text.max_words={3 * limit}", f"text.min_count={1 + limit % 2}"]
    options += [f"text.max_edit_distance={limit % 2}"]
    check(make_experiment(tmp_path, *options, *([f"data.test={tmp_path}/test.tsv"] if limit % 2 else [])), caplog)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str) -> None:
    """From a folder of two files."""
    (tmp_path / "parts").mkdir()
    for name in ("a", "b"):
        rows = [("xy"[number % 2], f"{name} é {number % 9}") for number in range(60)]
        (tmp_path / "parts" / (name + suffix)).write_bytes(encode_rows(rows, suffix))
    check(make_experiment(tmp_path, f"data.train={tmp_path}/parts"), caplog)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".txt"])
def test_several_labels_per_text_are_read(tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str) -> None:
    """Also from the cache, whose JSON has no tuples, and if some texts have no label; fastText lines are .txt."""
    rows = [(["a", "b", "b;a", "c ;a", ""][number % 5], f"word{number % 7} é") for number in range(60)]
    lines = {
        ".csv": ["label,text", *(f"{labels},{text}" for labels, text in rows)],
        ".jsonl": [json.dumps({"label": labels.split(";"), "text": text}) for labels, text in rows if labels],
        ".txt": [" ".join([*(f"__label__{part.strip()}" for part in labels.split(";") if part), text])
                 for labels, text in rows],
    }  # fmt: skip
    path = tmp_path / f"train{suffix}"
    path.write_text("\n".join(lines[suffix]) + "\n")
    separator = "data.multi_label=true" if suffix == ".jsonl" else "data.label_separator=;"
    experiment = make_experiment(tmp_path, f"data.train={path}", separator)
    check(experiment, caplog)
    check(experiment, caplog)
    assert "from the cache" in caplog.text
    assert sum(map(len, load_dataset(experiment).train.label_sets or [])) > 0


@pytest.mark.parametrize("use", ["threshold", "class", "auto"])
def test_out_of_scope_rows_join_a_large_source(tmp_path: Path, caplog: pytest.LogCaptureFixture, use: str) -> None:
    (tmp_path / "train.csv").write_text("label,text\n" + "x,one two\ny,three\n" * 30)
    (tmp_path / "other.csv").write_text("text\n" + "".join(f"four {number}\n" for number in range(20)))
    options = [f"data.train={tmp_path}/train.csv", f"data.out_of_scope={tmp_path}/other.csv"]
    check(make_experiment(tmp_path, *options, f"data.out_of_scope_use={use}"), caplog)


@pytest.mark.parametrize("name", ["trec", "clinc150"])
def test_shared_data_have_the_same_corpus(
    shared_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    [train] = sorted((shared_data / name).glob("train.*"))
    check(make_experiment(tmp_path, f"data.train={train}"), caplog)


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """An experiment with a weight column, read as a large source."""
    monkeypatch.setattr(readers, "MIN_PREPARED_BYTES", 0)
    lines = [f"{'xy'[number % 2]},text {number},{number / 2}\n" for number in range(40)]
    (tmp_path / "a.csv").write_text("label,text,weight\n" + "".join(lines))
    return make_experiment(tmp_path, f"data.train={tmp_path}/a.csv")


def find_caches(experiment: Experiment) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in Path(experiment.storage, "cache").glob("*")}


def test_a_second_command_reads_the_cache(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    """It neither reads the files nor tokenizes."""
    before = load_inputs(experiment)[1]
    caches = find_caches(experiment)
    assert sorted(name.split("-")[0] for name in caches) == ["texts", "tokens"]
    monkeypatch.setattr("jobs.datasets.prepared.large_source.read_blocks", None)
    monkeypatch.setattr("jobs.datasets.prepared.tokens.WordIndex", None)
    assert load_inputs(experiment)[1].key == before.key
    assert find_caches(experiment) == caches


@pytest.mark.parametrize(
    "values",
    [
        {"text.lowercase": False},
        {"text.tokenizer": "words"},
        {"data.weight_column": "weight"},
        {"data.text_column": "label"},
        {},
    ],
)
def test_other_content_or_settings_have_another_cache(experiment: Experiment, values: dict[str, object]) -> None:
    load_inputs(experiment)
    names = set(find_caches(experiment))
    if not values:
        path = Path(str(experiment.data.train))
        path.write_text(path.read_text().replace("text 7,", "test 7,"))
    dataset, corpus = load_inputs(experiment.replace(values))
    assert len(set(find_caches(experiment)) - names) == (1 if any(key.startswith("text.") for key in values) else 2)
    assert (dataset.train.weights is not None) == ("data.weight_column" in values)
    assert values or "test" in corpus.words


@pytest.mark.parametrize("kind", ["texts", "tokens"])
@pytest.mark.parametrize("position", [0, 200, -300, -1, None])
def test_a_damaged_cache_is_written_again(experiment: Experiment, kind: str, position: int | None) -> None:
    """A changed byte anywhere, or a file that is cut."""
    key = load_inputs(experiment)[1].key
    [path] = Path(experiment.storage, "cache").glob(f"{kind}-*")
    content = bytearray(path.read_bytes())
    if position is None:
        del content[-100:]
    else:
        content[position] ^= 1
    path.write_bytes(content)
    assert load_inputs(experiment)[1].key == key
    is_repaired = path.read_bytes() != content
    assert is_repaired or position == 200  # of the padding between two arrays


def test_tokens_of_an_installed_tokenizer_are_not_cached(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name stays when its version changes; the texts are cached."""
    monkeypatch.syspath_prepend(install_tokenizer(tmp_path))
    experiment = experiment.replace({"text.tokenizer": NAME})
    assert "text 7" not in load_inputs(experiment)[1].words
    monkeypatch.setattr("sample_tokens.split", lambda text: [text[:2]])
    load_tokenizer.cache_clear()
    assert load_inputs(experiment)[1].words == ["te"]
    load_tokenizer.cache_clear()
    assert [name.split("-")[0] for name in find_caches(experiment)] == ["texts"]


def test_an_interrupted_command_leaves_no_cache(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_file.ArrayWriter, "finish", None)
    with pytest.raises(TypeError):
        load_dataset(experiment)
    assert find_caches(experiment) == {}


def test_without_a_writable_folder_the_texts_are_in_a_temporary_file(experiment: Experiment, tmp_path: Path) -> None:
    """As with storage at a URI."""
    (tmp_path / "file").write_text("")
    key = load_inputs(experiment)[1].key
    other = experiment.replace({"storage": str(tmp_path / "file")})
    dataset, corpus = load_inputs(other)
    assert corpus.key == key
    assert isinstance(dataset.train.texts, Texts)
    assert list(pickle.loads(pickle.dumps(dataset)).train.texts) == list(dataset.train.texts)


def test_parts_of_a_large_source_are_pickled_selected_and_merged(experiment: Experiment) -> None:
    """A pickled dataset maps the same file."""
    dataset = pickle.loads(pickle.dumps(load_dataset(experiment.replace({"data.weight_column": "weight"}))))
    merged = merge_validation(dataset)
    assert isinstance(merged.train.texts, Texts)
    assert merged.train.texts == [*dataset.train.texts, *dataset.validation.texts]
    assert merged.train.texts != dataset.train.texts
    assert merged.train.weights == [int(text.split()[1]) / 2 for text in merged.train.texts]
    assert (merged.train.texts[3], merged.train.texts[3:5]) == (
        list(merged.train.texts)[3],
        list(merged.train.texts)[3:5],
    )
    backwards = dataset.train.select(range(len(dataset.train) - 1, -1, -1))
    assert list(backwards.texts) == list(dataset.train.texts)[::-1]
    assert list(backwards.line_numbers or []) == list(dataset.train.line_numbers or [])[::-1]


def test_folds_of_a_large_source(experiment: Experiment) -> None:
    texts = [text for fold in load_folds(experiment, 2) for text in fold.test.texts]
    assert sorted(texts) == sorted(f"text {number}" for number in range(40))


def test_errors_name_the_file_and_the_line(experiment: Experiment) -> None:
    path = Path(str(experiment.data.train))
    content = path.read_text()
    for line, message in (
        ("x,text\n", "line 42: has 2 columns"),
        (",text,1\n", "line 42: the label in 'label' is empty"),
    ):
        path.write_text(content + line)
        with pytest.raises(DataError, match=message):
            load_dataset(experiment)
        assert find_caches(experiment) == {}
    path.write_text("label,text\n\n\n")
    with pytest.raises(DataError, match="has no rows"):
        load_dataset(experiment)


@given(st.lists(st.text(max_size=3), max_size=9))
def test_digests_are_those_of_the_lists_in_one_piece(values: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobs.datasets.json_digest.CHUNK_VALUES", 2)
        assert digest_list(values) == digest(values)
        assert digest_lists(values, ["a", "b", "c"]) == digest([values, ["a", "b", "c"]])
        assert Split(values, values).digest() == digest([values, values])
