"""Tokenizers of installed packages: functions from a text to its tokens, named by entry points.

A package registers one in its pyproject.toml:

    [project.entry-points."finetune_cnn.tokenizers"]
    nouns = "my_package:split_nouns"

An experiment or a checkpoint only names it. What the name stands for is what is installed on this machine.
"""

from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from cluster import UsageError
from jobs.datasets.tokenization.characters import BUILT_IN

GROUP = "finetune_cnn.tokenizers"
# Known packages, which register no entry point of this project.
KNOWN_PACKAGES = {"jieba": "jieba:lcut", "pythainlp": "pythainlp:word_tokenize"}

Split = Callable[[str], Iterable[str]]


class TokenizerError(UsageError):
    """`text.tokenizer` names no tokenizer that is installed."""


@cache
def load_tokenizer(name: str) -> Split:
    """Return the function of an installed package that a name stands for.

    Raises:
        TokenizerError: no installed package has a tokenizer of this name, or it cannot be imported.
    """
    points = [*entry_points(group=GROUP, name=name)]
    if name in KNOWN_PACKAGES:
        points.append(EntryPoint(name, KNOWN_PACKAGES[name], GROUP))
    if not points:
        raise TokenizerError(
            f"text.tokenizer: '{name}' is neither {', '.join(BUILT_IN)}, nor a tokenizer of an installed package; "
            "install the package that has it"
        )
    try:
        split: Split = points[0].load()
    except (ImportError, AttributeError) as error:
        raise TokenizerError(
            f"text.tokenizer: the tokenizer '{name}' cannot be imported ({error}); install its package"
        ) from error
    return split
