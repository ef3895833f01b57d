"""Texts of a large source: in a file that is mapped into memory, and decoded when they are read.

Arrays of the file, of all rows of the source:

    content       (bytes,) uint8, all texts in UTF-8, one after the other
    offsets       (rows + 1,) int64, text i has the bytes from offsets[i] to offsets[i + 1]
    hashes        (rows, 2) uint64, of each text
    lines         (rows,) int64, line of each row in its file
    file_indices  (rows,) int32, index of each row's file among those of the source
    labels        (rows,) int32, indices into the metadata's `labels`, in the order of their occurrence
    weights       (rows,) float64, if the rows have weights
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from jobs.datasets.prepared.array_file import ArrayFile, release

BLOCK_BYTES = 1 << 20


class Texts(Sequence[str]):
    """Rows of a file of texts.

    Args:
        rows: `(texts,)` int64, the numbers of the rows; None: all.
        cache: folder of what is derived from the texts, None to store it nowhere.
        tokens: of all rows of the file, by tokenizer and lower case; those that are made are added.
    """

    def __init__(
        self,
        file: ArrayFile,
        cache: Path | None,
        rows: np.ndarray | None = None,
        tokens: dict[tuple[str, bool], ArrayFile] | None = None,
    ) -> None:
        self.file, self.cache = file, cache
        self.rows = np.arange(len(file.arrays["offsets"]) - 1) if rows is None else rows
        self.tokens: dict[tuple[str, bool], ArrayFile] = {} if tokens is None else tokens

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[str]:
        """Yield the texts; only a block of them is in memory."""
        content, offsets = self.file.arrays["content"], self.file.arrays["offsets"]
        for rows in self.iter_blocks():
            starts, ends = offsets[rows], offsets[rows + 1]
            first, last = starts.min(), ends.max()
            if last - first <= 64 * BLOCK_BYTES:  # in the order of the file
                block = content[first:last].tobytes()
                release(content[first:last])
                for start, end in zip((starts - first).tolist(), (ends - first).tolist(), strict=True):
                    yield block[start:end].decode("utf-8", "surrogatepass")
            else:
                yield from (self._decode(row) for row in rows.tolist())

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Return a text, or a list of texts."""
        if isinstance(index, slice):
            return list(Texts(self.file, self.cache, self.rows[index]))
        return self._decode(int(self.rows[index]))

    def __eq__(self, other: object) -> bool:
        """Return whether another sequence has the same texts."""
        return (
            isinstance(other, Sequence)
            and len(self) == len(other)
            and all(text == other_text for text, other_text in zip(self, other, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]  # as lists

    def select(self, indices: Iterable[int]) -> "Texts":
        """Return the texts at some indices."""
        indices = indices if isinstance(indices, np.ndarray) else np.fromiter(indices, np.int64)
        return Texts(self.file, self.cache, self.rows[indices], self.tokens)

    def hashes(self) -> np.ndarray:
        """Return the hash of each text, `(texts, 2)` uint64."""
        hashes = self.file.arrays["hashes"]
        selected: np.ndarray = hashes[self.rows]
        release(hashes)
        return selected

    def iter_blocks(self) -> Iterator[np.ndarray]:
        """Yield the numbers of the rows in blocks of about `BLOCK_BYTES` of texts, int64."""
        offsets = self.file.arrays["offsets"]
        sizes = (offsets[self.rows + 1] - offsets[self.rows]).cumsum()
        start = 0
        while start < len(self.rows):
            before = int(sizes[start - 1]) if start else 0
            end = max(start + 1, int(np.searchsorted(sizes, before + BLOCK_BYTES, side="right")))
            yield self.rows[start:end]
            start = end

    def _decode(self, row: int) -> str:
        content, offsets = self.file.arrays["content"], self.file.arrays["offsets"]
        return content[offsets[row] : offsets[row + 1]].tobytes().decode("utf-8", "surrogatepass")


def concatenate_texts(texts: Sequence[str], others: Sequence[str]) -> Sequence[str]:
    """Return the texts of two parts; of the same large source, as rows of it."""
    if isinstance(texts, Texts) and isinstance(others, Texts) and texts.file is others.file:
        return Texts(texts.file, texts.cache, np.concatenate([texts.rows, others.rows]), texts.tokens)
    return [*texts, *others]
