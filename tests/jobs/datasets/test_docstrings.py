"""The default corpus: found without importing, and without the answer in it."""

import sys
from pathlib import Path

import pytest

from jobs.datasets.docstrings import (
    MASK_TOKEN,
    compile_name_pattern,
    extract_docstrings,
    extract_passage,
    find_source_files,
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


def test_docstrings_are_found_by_their_place() -> None:
    """Of the module, classes and functions; other strings are not."""
    assert list(extract_docstrings(SOURCE)) == [
        "The module.",
        "A class with \\alpha.",
        "Return a value.\n\nMore of it.",
        "Wait.",
    ]


@pytest.mark.parametrize("source", ["", "def f(:", 'x = 1:\n    """unclosed', '"""\\x"""\n', "\x00"])
def test_broken_source_gives_nothing(source: str) -> None:
    """Other people's files may be anything."""
    assert list(extract_docstrings(source)) == []


def test_a_package_is_not_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its files are found by its place alone."""
    (tmp_path / "lib_never_imported" / "tests").mkdir(parents=True)
    for name in ("__init__.py", "b.py", "test_b.py", "tests/c.py", "data.txt"):
        (tmp_path / "lib_never_imported" / name).write_text("raise SystemExit")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [path.name for path in find_source_files("lib_never_imported")] == ["__init__.py", "b.py"]
    assert "lib_never_imported" not in sys.modules
    assert find_source_files("no_such_package_anywhere") == []


def test_libraries_names_are_masked() -> None:
    """Alone, as a part of an identifier, in any case; not inside other words."""
    mask = compile_name_pattern(["numpy", "ray", "torch"])
    text = "NumPy np.array numpy_like PyTorch RayActor ray.init Torch array Torches stray arrays rays"
    masked = mask.sub(MASK_TOKEN, text)
    assert masked == (
        f"{MASK_TOKEN} {MASK_TOKEN}.array {MASK_TOKEN}_like {MASK_TOKEN} {MASK_TOKEN}Actor {MASK_TOKEN}.init {MASK_TOKEN} array Torches stray arrays rays"
    )


def test_a_passage_is_the_opening_prose() -> None:
    """Up to the first section or example, on one line, without markup."""
    mask = compile_name_pattern(["numpy"])
    text = """Return the ``sum`` of all elements of a numpy array,
    as a :class:`~numpy.float64` value.

    Parameters
    ----------
    a : array
    """
    assert (
        extract_passage(text, mask)
        == f"Return the sum of all elements of a {MASK_TOKEN} array, as a {MASK_TOKEN}.float64 value."
    )
    assert extract_passage("Too short.", mask) is None
    assert extract_passage("Args:\n  a: many words that stand in a section and are not prose at all", mask) is None
