"""Examples in docstrings."""

import doctest
from collections.abc import Iterable
from typing import Any


def run_examples(tests: Iterable[doctest.DocTest], names: dict[str, Any]) -> None:
    """Run examples in the order of their lines; later ones use the objects of earlier ones, which `names` receives."""
    for test in sorted(tests, key=lambda test: test.lineno or 0):
        test.globs = names
        output: list[str] = []
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        failed, _ = runner.run(test, out=output.append, clear_globs=False)
        assert failed == 0, "".join(output)
