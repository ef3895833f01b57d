"""Compiled index of words: numbers the distinct tokens of texts in the order of their first occurrence.

Layout, as of the vocabulary in tokenizer_kernel.py, but the numbers start with 0, and all arrays grow:

    word_bytes    (bytes,) uint8, the words, one after the other
    word_offsets  (words + 1,) int64, word i has the bytes from word_offsets[i] to word_offsets[i + 1]
    slots         (size,) int64, hash table with linear probing: entries as there
    sizes         (2,) int64, number of words, and number of tokens written by the last call
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from jobs.compilation.decorator import compiled
from jobs.datasets.tokenization import code_points, tokenizer_kernel
from jobs.datasets.tokenization.characters import BUILT_IN
from jobs.datasets.tokenization.tokenizer_kernel import SPACE, find_slot, find_token, get_word, hash_bytes, make_entry
from jobs.datasets.tokenizer import DEFAULT_SETTINGS, TokenizerSettings, Vocabulary, tokenize

Array = np.ndarray

MIN_SLOTS = 1 << 8
BYTES_PER_WORD = 16  # reserved; more are added when they are needed


@compiled()
def _find_or_add(
    text: Array, start: int, end: int, key: np.uint64, word_bytes: Array, word_offsets: Array, slots: Array,
    sizes: Array,
) -> int:  # fmt: skip
    """Return the number of the word at an index of a text, whose hash is `key`; -1 if there is no room for it."""
    slot = find_slot(text, start, end, key, word_bytes, word_offsets, slots)
    if slots[slot] >= 0:
        return get_word(slots[slot])
    number: int = sizes[0]
    first, size = word_offsets[number], end - start
    if 2 * number == len(slots) or first + size > len(word_bytes):
        return -1
    for index in range(size):
        word_bytes[first + index] = text[start + index]
    word_offsets[number + 1] = first + size
    slots[slot] = make_entry(number, key)
    sizes[0] = number + 1
    return number


@compiled()
def _index_texts(
    text: Array, classes: Array, offsets: Array, number: int, word_bytes: Array, word_offsets: Array, slots: Array,
    sizes: Array, ids: Array, starts: Array,
) -> int:  # fmt: skip
    """Write the word numbers of the tokens of normalized texts, from one text on, and where each text starts.

    Return -1, or the number of the text with a word that has no room, from which to start again.
    """
    count = sizes[1]
    while number < len(offsets) - 1:
        sizes[1] = count
        starts[number] = count
        index, end = offsets[number], offsets[number + 1]
        while index < end:
            if classes[index] == SPACE:
                index += 1
                continue
            token_end, key_end, key = find_token(text, classes, index, end)
            word = _find_or_add(text, index, key_end, key, word_bytes, word_offsets, slots, sizes)
            if word < 0:
                return number
            ids[count] = word
            count += 1
            index = token_end
        number += 1
    sizes[1] = starts[number] = count
    return -1


@compiled()
def _index_words(
    text: Array, offsets: Array, number: int, word_bytes: Array, word_offsets: Array, slots: Array, sizes: Array,
    ids: Array,
) -> int:  # fmt: skip
    """Write the numbers of words; return as `_index_texts`."""
    while number < len(offsets) - 1:
        start, end = offsets[number], offsets[number + 1]
        key = hash_bytes(text, start, end)
        word = _find_or_add(text, start, end, key, word_bytes, word_offsets, slots, sizes)
        if word < 0:
            return number
        ids[number] = word
        number += 1
    sizes[1] = number
    return -1


class WordIndex:
    """Distinct tokens of texts; their number grows with each call. Not safe for several threads.

    Args:
        settings: of the tokenizer.
        num_bytes: of the texts, if it is known: few texts need a small table, which the processor caches.
    """

    def __init__(self, settings: TokenizerSettings = DEFAULT_SETTINGS, num_bytes: int = 0) -> None:
        self._settings = settings
        self._sizes = np.zeros(2, np.int64)
        self._word_bytes, self._word_offsets = np.empty(0, np.uint8), np.zeros(1, np.int64)
        self._allocate(max(MIN_SLOTS, 1 << (num_bytes // 8).bit_length()))

    @property
    def num_words(self) -> int:
        """Number of distinct tokens."""
        return int(self._sizes[0])

    def get_words(self) -> tuple[Array, Array]:
        """Return the bytes of all words, one after the other, uint8, and their offsets, `(words + 1,)` int64."""
        offsets = self._word_offsets[: self.num_words + 1]
        return self._word_bytes[: offsets[-1]], offsets

    def list_words(self) -> list[str]:
        """Return the words."""
        word_bytes, offsets = self.get_words()
        content, bounds = word_bytes.tobytes(), offsets.tolist()
        return [content[start:end].decode("utf-8", "surrogatepass") for start, end in itertools.pairwise(bounds)]

    def add_texts(self, text: Array, offsets: Array) -> tuple[Array, Array]:
        """Return the word numbers of the tokens of texts, int32, and where each text starts, `(texts + 1,)` int64.

        Args:
            text: uint8, all texts in UTF-8; text i has the bytes from offsets[i] to offsets[i + 1].
        """
        normalized, classes = np.empty((2, 2 * len(text)), np.uint8)
        ends, is_left = np.empty(len(offsets), np.int64), np.empty(len(offsets) - 1, bool)
        if self._settings.tokenizer in BUILT_IN:
            tables = code_points.make_tables(self._settings.lowercase, self._settings.tokenizer)
            code_points.normalize_texts(text, offsets, *tables, normalized, classes, ends, is_left)
        else:
            ends[:], is_left[:] = 0, True
        ids, starts = self._index(normalized, classes, ends)
        if not is_left.any():
            return ids, starts
        # Texts whose normalized form compiled code cannot write have no tokens so far, nor those of other tokenizers.
        pieces, lengths, position = [], np.diff(starts), 0
        for number in is_left.nonzero()[0].tolist():
            content = text[offsets[number] : offsets[number + 1]].tobytes().decode("utf-8", "surrogatepass")
            added = self.add_words(tokenize(content, self._settings))
            pieces += [ids[position : starts[number]], added]
            position, lengths[number] = starts[number], len(added)
        starts = np.concatenate([[0], lengths.cumsum()])
        return np.concatenate([*pieces, ids[position:]]), starts

    def add_words(self, words: Sequence[str]) -> Array:
        """Return the numbers of words, int32."""
        return self.add_encoded(*code_points.encode_texts(words)) if words else np.empty(0, np.int32)

    def add_encoded(self, text: Array, offsets: Array) -> Array:
        """Return the numbers of words as they are, int32; arguments as of `add_texts`."""
        return self._run(lambda first, ids: _index_words(text, offsets, first, *self._arrays(), ids), len(offsets) - 1)

    def _index(self, text: Array, classes: Array, ends: Array) -> tuple[Array, Array]:
        starts = np.zeros(len(ends), np.int64)
        ids = self._run(
            lambda first, ids: _index_texts(text, classes, ends, first, *self._arrays(), ids, starts), int(ends[-1])
        )
        return ids, starts

    def _run(self, index: Callable[[int, Array], int], max_tokens: int) -> Array:
        ids = np.empty(max_tokens, np.int32)
        self._sizes[1] = 0
        first = 0
        while (first := index(first, ids)) >= 0:
            self._grow()
        return ids[: self._sizes[1]].copy()

    def _arrays(self) -> tuple[Array, Array, Array, Array]:
        return self._word_bytes, self._word_offsets, self._slots, self._sizes

    def _grow(self) -> None:
        """Double the number of words, or of their bytes, whatever is used up."""
        num_words = self.num_words
        if num_words == len(self._slots) // 2:
            self._allocate(2 * len(self._slots))
            tokenizer_kernel.build_hash_table(self._word_bytes, self._word_offsets[: num_words + 1], self._slots)
        else:
            self._word_bytes = np.concatenate([self._word_bytes, np.empty_like(self._word_bytes)])

    def _allocate(self, num_slots: int) -> None:
        self._slots = np.full(num_slots, -1, np.int64)
        word_bytes, word_offsets = self._word_bytes, self._word_offsets
        self._word_bytes = np.empty(max(len(word_bytes), BYTES_PER_WORD * num_slots // 2), np.uint8)
        self._word_bytes[: len(word_bytes)] = word_bytes
        self._word_offsets = np.zeros(num_slots // 2 + 1, np.int64)
        self._word_offsets[: len(word_offsets)] = word_offsets


def build_dictionary(vocabulary: Vocabulary) -> tuple[np.ndarray, ...]:
    """Return a vocabulary for kernels: word_bytes, word_offsets, slots, near_offsets and near_entries."""
    nearest = vocabulary.nearest_words if vocabulary.max_edit_distance else None
    word_bytes, word_offsets = nearest.encoded if nearest else code_points.encode_texts(vocabulary.words)
    size = 1 << (2 * len(vocabulary.words) + 1).bit_length()  # at most half full
    slots = np.full(size, -1, np.int64)
    tokenizer_kernel.build_hash_table(word_bytes, word_offsets, slots)
    index = (nearest.offsets, nearest.entries) if nearest else (np.empty(0, np.int32), np.empty(0, np.int64))
    return word_bytes, word_offsets, slots, *index
