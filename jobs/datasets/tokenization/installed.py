"""Tokenizers of installed packages: functions from a text to its tokens, named by entry points.

A package registers one in its pyproject.toml:

    [project.entry-points."finetune_cnn.tokenizers"]
    nouns = "my_package:split_nouns"

An experiment only names it, and a checkpoint also has the version of its package. What the name stands for is what is
installed on this machine.
"""

import itertools
import re
import threading
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points

from cluster import UsageError, to_single_line
from jobs.datasets.tokenization.characters import BUILT_IN, ZERO_WIDTH_SPACE

GROUP = "finetune_cnn.tokenizers"
# Known packages, which register no entry point of this project.
KNOWN_PACKAGES = {"jieba": "jieba:lcut", "pythainlp": "pythainlp:word_tokenize"}

# Most characters between two tokens; for each token in between that the tokenizer has changed, as many more.
MAX_GAP, MAX_TOTAL_GAP = 50, 5000

Split = Callable[[str], Iterable[object]]

_SURROGATES = re.compile("[\ud800-\udfff]")
# By tokenizer: many fail if several threads call them at a time.
_locks: dict[str, threading.RLock] = {}
_SPACES, _PUNCTUATION = re.compile(r"\s*"), re.compile(r"[\W_]*")


class TokenizerError(UsageError):
    """`text.tokenizer` names no tokenizer that is installed, or one that fails."""


def check_tokenizer(name: str) -> None:
    """Raise a TokenizerError if a name is neither that of a built-in tokenizer, nor of an installed one."""
    if name not in BUILT_IN:
        load_tokenizer(name)


def find_package(name: str) -> dict[str, str]:
    """Return the version of the installed package that has a tokenizer, by its name; the package is not imported.

    Empty for a built-in tokenizer, and for a package that is not installed, or without metadata.
    """
    try:
        if name in BUILT_IN:
            return {}
        package = _find_entry_point(name).dist or distribution(name)
        return {package.name: package.version}
    except (TokenizerError, PackageNotFoundError):
        return {}


def describe_other_version(name: str, versions: Mapping[str, object]) -> str | None:
    """Return a sentence if another version of a tokenizer's package is installed than a checkpoint was trained with.

    Args:
        versions: of the checkpoint, by package, whose name may be spelled otherwise: Sample.Tokens is sample-tokens.
    """
    known = {_normalize_name(package): version for package, version in versions.items()}
    for package, version in find_package(name).items():
        trained = to_single_line(known.get(_normalize_name(package), version), 60)
        if trained != version:
            return f"its texts were divided by {package} {trained}, and {version} is installed, which may differ"
    return None


def _normalize_name(package: str) -> str:
    """Return the name of a package as pip compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", package).lower()


@cache
def load_tokenizer(name: str) -> Split:
    """Return the function of an installed package that a name stands for.

    Raises:
        TokenizerError: no installed package has a tokenizer of this name, several have, or it cannot be imported.
    """
    point = _find_entry_point(name)
    try:
        split: Split = point.load()
    except (ImportError, AttributeError) as error:
        raise TokenizerError(
            f"text.tokenizer: the tokenizer '{name}' cannot be imported ({error}); install its package"
        ) from error
    except Exception as error:  # of the package's code, such as a missing dictionary
        raise TokenizerError(
            f"text.tokenizer: the import of the tokenizer '{name}' fails with {_describe(error)}"
        ) from error
    if not callable(split):
        raise TokenizerError(f"text.tokenizer: the tokenizer '{name}', {point.value}, is not a function")
    return split


def _find_entry_point(name: str) -> EntryPoint:
    """Return the entry point of a tokenizer; TokenizerError if no installed package has one, or several have."""
    points = {point.value: point for point in entry_points(group=GROUP, name=name)}
    if not points and name in KNOWN_PACKAGES:
        points[name] = EntryPoint(name, KNOWN_PACKAGES[name], GROUP)
    if not points:
        raise TokenizerError(
            f"text.tokenizer: '{name}' is neither {', '.join(BUILT_IN)}, nor a tokenizer of an installed package; "
            "install the package that has it"
        )
    if len(points) > 1:
        raise TokenizerError(
            f"text.tokenizer: several installed packages have a tokenizer '{name}': {', '.join(sorted(points))}; "
            "uninstall all but one"
        )
    [point] = points.values()
    return point


def list_tokens(name: str, text: str) -> list[str]:
    """Return the tokens into which the tokenizer of an installed package divides a normalized text.

    Raises:
        TokenizerError: the tokenizer cannot be loaded, fails, or returns something else than texts.
    """
    split = load_tokenizer(name)
    valid = _SURROGATES.sub("\ufffd", text)  # packages in C or Rust reject what is not Unicode
    try:
        with _locks.setdefault(name, threading.RLock()):
            returned = split(valid)
            is_list = isinstance(returned, Iterable) and not isinstance(returned, str)
            tokens = [*returned] if is_list else []
    except Exception as error:
        raise TokenizerError(
            f"text.tokenizer: the tokenizer '{name}' fails on a text of {len(text):,} characters, "
            f"'{to_single_line(valid, 60)}', with {_describe(error)}"
        ) from error
    words: list[str] = []
    for token in tokens if is_list else [returned]:
        if token is returned or not isinstance(token, str):
            raise TokenizerError(
                f"text.tokenizer: the tokenizer '{name}' must return a list of str, but returns "
                f"{'' if token is returned else 'a list with '}{to_single_line(repr(token), 60)}"
            )
        words += _normalize(token).split()
    return words


def locate_tokens(tokens: Sequence[str], text: str) -> list[tuple[str, int, int]]:
    """Return the tokens of a text with their bounds. They may overlap, as a word and its parts.

    A token that is not in the text, since the tokenizer has changed it, has what is between the tokens next to it.
    """
    spans: list[tuple[int, int] | None] = []
    position = num_missing = 0
    previous = None
    for token, following in itertools.zip_longest(tokens, tokens[1:], fillvalue=""):
        next_start = _skip(_SPACES, text, position)
        after_punctuation = _skip(_PUNCTUATION, text, position)
        if text.startswith(token, next_start):
            start = next_start
        elif text.startswith(token, after_punctuation):  # which many tokenizers leave out
            start = after_punctuation
        else:
            start = text.rfind(token, max(position - len(token), 0), next_start + len(token))
        if start < 0 or (start, start + len(token)) == previous:
            gap = min(MAX_GAP * (num_missing + 1), MAX_TOTAL_GAP)
            start = text.find(token, next_start, next_start + gap + len(token))
            if following and text.find(following, next_start, start) >= 0:
                start = -1  # this one is of another token
        if start < 0:
            spans.append(None)
            num_missing += 1
        else:
            previous = start, start + len(token)
            spans.append(previous)
            position, num_missing = max(position, previous[1]), 0
    return _locate_changed_tokens(tokens, spans, text)


def _locate_changed_tokens(
    tokens: Sequence[str], spans: Sequence[tuple[int, int] | None], text: str
) -> list[tuple[str, int, int]]:
    """Return tokens with their bounds; those without a span have what is between the spans of the tokens around them.

    Args:
        spans: start and end of each token in the text; None if it is not there.
    """
    ends = [len(text)]  # for each token, from the last one on, the start of the next one that is in the text
    for bounds in reversed(spans):
        ends.append(bounds[0] if bounds else ends[-1])
    ends.reverse()
    located, position = [], 0
    for token, bounds, end in zip(tokens, spans, ends[1:], strict=True):
        if bounds:
            position = max(position, bounds[1])
        else:
            start = min(_skip(_SPACES, text, position), max(len(text) - 1, 0))
            bounds = start, max(start + len(text[start:end].rstrip()), min(start + 1, len(text)))
        located.append((token, *bounds))
    return located


def _skip(characters: re.Pattern[str], text: str, position: int) -> int:
    """Return the position after some characters."""
    match = characters.match(text, position)
    return match.end() if match else position


def _normalize(token: str) -> str:
    """Return a token as the words of a vocabulary are spelled, with spaces where it ends."""
    return token if token.isascii() else unicodedata.normalize("NFC", token).replace(ZERO_WIDTH_SPACE, " ")


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {to_single_line(error, 300)}"
