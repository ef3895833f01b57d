"""Examples in the docstrings of the public names; those of the estimator are run by its own test."""

import doctest
import inspect
from pathlib import Path

import pytest

import finetune_cnn
from tests.support.asgi import make_replica, serve_replica, start_without_ray
from tests.support.docstrings import run_examples

URL = "http://127.0.0.1:8000"  # of the service in the examples
NAMES = sorted(set(finetune_cnn.__all__) - {"__version__", "TextCNNClassifier", "search_space", "load"})


def run_examples_of(name: str, url: str = URL) -> None:
    """Run the examples of a public name and of its methods, in their order: later ones use objects of the first.

    Args:
        url: of a service, which replaces URL.
    """
    value = getattr(finetune_cnn, name)
    names = dict(vars(inspect.getmodule(value)))
    tests = [test for test in doctest.DocTestFinder().find(value, name) if test.examples]
    assert name in {test.name for test in tests}, "the docstring has no example"
    for example in (example for test in tests for example in test.examples):
        example.source = example.source.replace(URL, url)
    run_examples(tests, names)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model of all examples, which the example of `load` writes there."""
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_examples_of("load")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of_public_names_are_right(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Services run in this process, without Ray."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("serving.deployment.local_service.start_service", start_without_ray)
    if name == "Client":
        with serve_replica(make_replica({"checkpoint": "model"})) as url:
            run_examples_of(name, url)
    else:
        run_examples_of(name)
