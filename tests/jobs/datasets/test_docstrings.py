"""Default corpus: extracted without importing the packages, and with their names masked."""

import sys
from pathlib import Path

import pytest

from jobs.config.settings import DataSettings
from jobs.datasets import docstrings
from jobs.datasets.docstrings import (
    MASK_TOKEN,
    compile_name_pattern,
    extract_docstrings,
    extract_passage,
    find_source_files,
    load_docstring_corpus,
)

SOURCE = '''# a comment
"""The module."""
import os


class A:
    r"""A class with \\alpha."""

    def f(
        self,
        x={"a": 1},
    ) -> int:  # why
        """Return a value.

        More of it.
        """
        text = """not a docstring"""
        return text


async def g():
    \'\'\'Wait.\'\'\'


X = ["""not one either"""]
'''


def test_docstrings_of_modules_classes_and_functions_are_extracted() -> None:
    """Only docstrings are extracted, no other strings."""
    assert list(extract_docstrings(SOURCE)) == [
        "The module.",
        "A class with \\alpha.",
        "Return a value.\n\nMore of it.",
        "Wait.",
    ]


@pytest.mark.parametrize("source", ["", "def f(:", 'x = 1:\n    """unclosed', '"""\\x"""\n', "\x00"])
def test_invalid_source_has_no_docstrings(source: str) -> None:
    assert list(extract_docstrings(source)) == []


def test_source_files_are_listed_without_importing_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "lib_never_imported" / "tests").mkdir(parents=True)
    for name in ("__init__.py", "b.py", "test_b.py", "tests/c.py", "data.txt"):
        (tmp_path / "lib_never_imported" / name).write_text("raise SystemExit")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [path.name for path in find_source_files("lib_never_imported")] == ["__init__.py", "b.py"]
    assert "lib_never_imported" not in sys.modules
    assert find_source_files("no_such_package_anywhere") == []


def test_names_of_libraries_are_masked() -> None:
    """Names are masked alone and in identifiers, in any case, but not inside other words."""
    pattern = compile_name_pattern(["numpy", "ray", "torch"])
    text = "NumPy np.array numpy_like PyTorch RayActor ray.init Torch array Torches stray arrays rays"
    masked = pattern.sub(MASK_TOKEN, text)
    assert masked == (
        f"{MASK_TOKEN} {MASK_TOKEN}.array {MASK_TOKEN}_like {MASK_TOKEN} {MASK_TOKEN}Actor "
        f"{MASK_TOKEN}.init {MASK_TOKEN} array Torches stray arrays rays"
    )


def test_a_passage_is_the_prose_at_the_start() -> None:
    """A passage ends at the first section or example, and is one line without markup."""
    pattern = compile_name_pattern(["numpy"])
    text = """Return the ``sum`` of all elements of a numpy array,
    as a :class:`~numpy.float64` value.

    Parameters
    ----------
    a : array
    """
    assert (
        extract_passage(text, pattern)
        == f"Return the sum of all elements of a {MASK_TOKEN} array, as a {MASK_TOKEN}.float64 value."
    )
    assert extract_passage("Too short.", pattern) is None
    assert (
        extract_passage(
            "Args:\n  a: many words in a section, which are not prose and therefore are not a passage", pattern
        )
        is None
    )


def write_package(folder: Path, name: str, docs: list[str]) -> None:
    (folder / name).mkdir()
    body = "".join(f'def f{number}():\n    """{text}"""\n' for number, text in enumerate(docs))
    (folder / name / "__init__.py").write_text(body)


def test_docstrings_of_excluded_passages_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All docstrings that start with such a passage, in any letter case; the key changes."""
    passage = "return the number of things that this function counts {}"
    docs = [passage.format(word) for word in ("one", "two", "three")]
    write_package(tmp_path, "alpha_one", [*docs, docs[0].upper() + "\n\n    Args:\n        secret: more", "short"])
    write_package(tmp_path, "beta_two", ["write all of the given values into one file on disk"])
    monkeypatch.syspath_prepend(str(tmp_path))
    data = DataSettings(packages=["alpha_one", "beta_two"])
    # With a URI as storage, the files are there too, and not on one of the machines.
    _, _, texts = load_docstring_corpus(data, True, f"file://{tmp_path}/runs", 0)
    assert texts.path.startswith(f"file://{tmp_path}/runs/cache/")
    excluded = texts.exclude([docs[0], docs[2]])
    remaining = [" ".join(tokens) for tokens in excluded.iter_tokens() if tokens]
    assert remaining == [docs[1], "short", "write all of the given values into one file on disk"]
    assert len({texts.key(), excluded.key(), texts.exclude([docs[0]]).key()}) == 3


def test_the_corpus_has_each_passage_once_and_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A passage of two packages has no correct label and is dropped, a repeated one is kept once."""
    shared = "the same eight words in one or the other docstring"
    own = [f"return the number of things that alpha_one counts here {'abcdefghijkl'[index]}" for index in range(12)]
    write_package(tmp_path, "alpha_one", [*own, own[0].upper(), own[0], shared])
    write_package(tmp_path, "beta_two", [shared.title(), "write all of the given values into one file on disk"])
    monkeypatch.syspath_prepend(str(tmp_path))

    data = DataSettings(packages=["alpha_one", "beta_two"], max_rows_per_class=10)
    rows, notes, pretraining_texts = load_docstring_corpus(data, True, str(tmp_path / "runs"), 0)
    alpha = [text for text, label in zip(rows.texts, rows.labels, strict=True) if label == "alpha_one"]
    assert len(set(alpha)) == 10
    assert set(alpha) <= {text.replace("alpha_one", MASK_TOKEN) for text in own}
    assert rows.texts[10:] == ["write all of the given values into one file on disk"]
    assert notes == ["alpha_one: 10 rows of 12 passages in 1 files", "beta_two: 1 rows of 1 passages in 1 files"]
    docstrings_tokens = [tokens for tokens in pretraining_texts.iter_tokens() if tokens]
    assert len(docstrings_tokens) == 14  # lower-case: the 12 of alpha_one, the shared one, and one of beta_two
    assert "library" in docstrings_tokens[0]

    monkeypatch.delattr(docstrings, "_extract_in_parallel")  # the files are not read again
    assert load_docstring_corpus(data, True, str(tmp_path / "runs"), 0)[0] == rows
    assert load_docstring_corpus(data, True, str(tmp_path / "runs"), 1)[0].texts != rows.texts
