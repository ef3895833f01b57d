"""Examples in the docstrings of the estimator."""

import doctest
import importlib

import pytest

from tests.support.docstrings import run_examples


@pytest.mark.parametrize(("name", "number"), [("text_cnn", 5), ("parameters", 3), ("tuning", 1)])
def test_the_examples_of_docstrings_are_right(name: str, number: int) -> None:
    """Those of a class come first: later ones use its model."""
    module = importlib.import_module(f"jobs.estimator.{name}")
    tests = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    assert len(tests) == number
    run_examples(tests, dict(vars(module)))
