"""Near duplicates: texts that share most of their words and pairs of words, found with MinHash in linear time.

The similarity of two texts is the Jaccard similarity of their sets of words and of pairs of adjacent words, without
punctuation marks and letter case. MinHash (Broder 1997) estimates it; texts that agree in one of the bands of their
signatures are compared (locality-sensitive hashing, Indyk and Motwani 1998), each with the first text of its bucket and
with its predecessor. So the number of comparisons is proportional to the number of texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cluster import choose_form
from jobs.data_checks.findings import Finding, FindingRow, Severity
from jobs.data_checks.rows import TRAINING, Rows
from jobs.datasets.tokenizer import fold_case
from jobs.evaluation.seen_texts import mix

MIN_SIMILARITY = 0.8
# Two texts with a similarity of 0.8 agree in one of 16 bands of 4 hashes with a probability of 99.98 %.
NUM_BANDS, BAND_SIZE = 16, 4
# Estimates of 64 hashes have a standard deviation of at most 0.06; candidates far below are not compared exactly.
ESTIMATE_MARGIN = 0.2
CHUNK_SHINGLES = 1 << 18  # of 8 bytes, so that they stay in the processor's cache
CHUNK_PAIRS = 50_000


@dataclass(frozen=True)
class SimilarPairs:
    """Pairs of similar texts. first, second: `(pairs,)` int64, first < second; similarity: `(pairs,)` float64."""

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray


def check_near_duplicates(rows: Rows, first: np.ndarray) -> list[Finding]:
    """Return findings on near duplicates, without identical texts; `first` as of `find_first_copies`."""
    unique = np.flatnonzero(first == np.arange(len(rows)))
    pairs = find_similar_pairs([rows.tokens[index] for index in unique])
    earlier, later = unique[pairs.first], unique[pairs.second]
    labels = rows.label_indices()
    differs, parts_differ = labels[earlier] != labels[later], rows.part[earlier] != rows.part[later]
    is_train = rows.part[earlier] == TRAINING
    groups = (
        ("near duplicates, other label", Severity.MEDIUM, differs, "that has another label", "check the labels"),
        (
            "near duplicates, other part",
            Severity.MEDIUM,
            ~differs & parts_differ,
            "in another part",
            "results on them may be too good",
        ),
        (
            "near duplicates in training",
            Severity.INFO,
            ~differs & is_train & ~parts_differ,
            "in the training part",
            "they add little",
        ),
    )
    findings = []
    for name, severity, mask, relation, advice in groups:
        similar_rows = _describe_pairs(rows, earlier[mask], later[mask], pairs.similarity[mask])
        if similar_rows:
            noun = choose_form(len(similar_rows), "near duplicate", "near duplicates")
            message = f"{len(similar_rows):,} {noun} of an earlier text {relation}; {advice}"
            findings.append(Finding(name, severity, message, similar_rows))
    return findings


def _describe_pairs(rows: Rows, earlier: np.ndarray, later: np.ndarray, similarity: np.ndarray) -> list[FindingRow]:
    """Return a row for each later text of the pairs, with its most similar earlier text, the most similar first."""
    closest: dict[int, FindingRow] = {}
    for pair in np.argsort(-similarity, kind="stable"):
        original, index = int(earlier[pair]), int(later[pair])
        label = "" if rows.labels[original] == rows.labels[index] else f" ({rows.labels[original]})"
        note = f"{similarity[pair]:.0%} as {rows.name(original)}{label}: {rows.texts[original]}"
        closest.setdefault(index, FindingRow(index, note=note, score=float(similarity[pair])))
    return list(closest.values())


def find_similar_pairs(tokens: Sequence[Sequence[str]], min_similarity: float = MIN_SIMILARITY) -> SimilarPairs:
    """Return pairs of texts with at least that similarity.

    Of more than two similar texts not every pair is returned, but each of them is in a pair. Texts without tokens are
    in no pair.
    """
    shingles, offsets = hash_shingles(tokens)
    texts = np.flatnonzero(np.diff(offsets))  # those with shingles; the offsets of the others are those of the next
    if len(texts) < 2:
        return SimilarPairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    signatures = compute_signatures(shingles, np.append(offsets[texts], offsets[-1]))
    first, second = _find_candidates(signatures)
    estimates = (signatures[first] == signatures[second]).mean(axis=1)
    likely = estimates >= min_similarity - ESTIMATE_MARGIN
    first, second = texts[first[likely]], texts[second[likely]]
    similarity = _compute_similarities(shingles, offsets, first, second)
    similar = similarity >= min_similarity
    return SimilarPairs(first[similar], second[similar], similarity[similar])


def hash_shingles(tokens: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
    """Return hashes of the words and pairs of adjacent words of all texts, uint64, and the offsets of the texts.

    Hashes are repeated. Punctuation marks are left out, except in texts of nothing else.
    """
    ids: dict[str, int] = {}
    words: dict[str, str] = {}  # folded form by token, empty for punctuation marks
    flat: list[int] = []
    offsets = [0]
    for text in tokens:
        folded = []
        for token in text:
            word = words.get(token)
            if word is None:
                word = words[token] = fold_case(token) if any(map(str.isalnum, token)) else ""
            if word:
                folded.append(word)
        flat += [ids.setdefault(word, len(ids)) for word in folded or text]
        offsets.append(len(flat))
    hashes = mix(np.array(flat, np.uint64))
    following = np.roll(hashes, -1)
    pairs = mix(hashes + np.uint64(3) * following)
    ends = np.array(offsets[1:], np.int64)[np.diff(offsets) > 0] - 1
    pairs[ends] = hashes[ends]  # the last word has no pair; its own hash again changes no set
    return np.stack([hashes, pairs], axis=1).ravel(), 2 * np.array(offsets, np.int64)


def compute_signatures(shingles: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the MinHash signatures of non-empty sets of hashes, `(texts, hashes)` uint32."""
    num_hashes = NUM_BANDS * BAND_SIZE
    numbers = mix(np.arange(2 * num_hashes, dtype=np.uint64))
    factors, terms = numbers[:num_hashes] | np.uint64(1), numbers[num_hashes:]
    signatures = np.empty((len(offsets) - 1, num_hashes), np.uint32)
    start = 0
    while start < len(signatures):
        end = max(start + 1, int(np.searchsorted(offsets, offsets[start] + CHUNK_SHINGLES, side="right")) - 1)
        chunk, bounds = shingles[offsets[start] : offsets[end]], offsets[start:end] - offsets[start]
        for number in range(num_hashes):
            values = ((chunk * factors[number] + terms[number]) >> np.uint64(32)).astype(np.uint32)
            signatures[start:end, number] = np.minimum.reduceat(values, bounds)
        start = end
    return signatures


def _find_candidates(signatures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of texts that agree in a band: each text with the first and the previous one of its bucket."""
    number = len(signatures)
    codes = [np.zeros(0, np.int64)]
    for band in range(NUM_BANDS):
        keys = np.zeros(number, np.uint64)
        for column in range(band * BAND_SIZE, (band + 1) * BAND_SIZE):
            keys = mix(keys + signatures[:, column])
        order = np.argsort(keys, kind="stable")
        is_new = np.append(True, np.diff(keys[order].astype(np.int64)) != 0)
        leaders = order[np.maximum.accumulate(np.where(is_new, np.arange(number), 0))]
        later = np.flatnonzero(~is_new)
        codes += [leaders[later] * number + order[later], order[later - 1] * number + order[later]]
    unique = np.unique(np.concatenate(codes))  # the order in a bucket is that of the rows: the first index is smaller
    return unique // number, unique % number


def _compute_similarities(
    shingles: np.ndarray, offsets: np.ndarray, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """Return the Jaccard similarities of pairs of texts, `(pairs,)` float64."""
    from scipy.sparse import csr_array

    texts, compact = np.unique(np.concatenate([first, second]), return_inverse=True)
    if not len(texts):
        return np.zeros(0)
    lengths = np.diff(offsets)[texts]
    bounds = np.append(0, np.cumsum(lengths))
    positions = np.arange(bounds[-1]) + np.repeat(offsets[texts] - bounds[:-1], lengths)
    values, columns = np.unique(shingles[positions], return_inverse=True)
    sets = csr_array((np.ones(len(columns), np.float32), columns, bounds), shape=(len(texts), len(values)))
    sets.sum_duplicates()
    sets.data[:] = 1
    sizes = np.diff(sets.indptr)
    similarities = np.empty(len(first))
    for start in range(0, len(first), CHUNK_PAIRS):
        pairs = slice(start, start + CHUNK_PAIRS)
        earlier, later = compact[: len(first)][pairs], compact[len(first) :][pairs]
        common = sets[earlier].multiply(sets[later]).sum(axis=1)
        similarities[pairs] = common / (sizes[earlier] + sizes[later] - common)
    return similarities
