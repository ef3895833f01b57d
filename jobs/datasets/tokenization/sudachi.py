"""Words of Japanese texts by SudachiPy, `text.tokenizer=sudachipy`."""

from collections.abc import Callable

MAX_CHARACTERS = 1500  # SudachiPy refuses long texts: more than 49,149 bytes, or 65,535 after its normalization


def load_split() -> Callable[[str], list[str]]:
    """Return a function from a text to its words; ImportError if SudachiPy or its dictionary is not installed."""
    from sudachipy import Dictionary

    tokenizer = Dictionary().tokenizer()

    def split(text: str) -> list[str]:
        parts = [text[start : start + MAX_CHARACTERS] for start in range(0, len(text), MAX_CHARACTERS)]
        return [morpheme.surface() for part in parts for morpheme in tokenizer.tokenize(part)]

    return split
