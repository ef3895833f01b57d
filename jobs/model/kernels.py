"""The loops of training that no library has in one pass, compiled for this processor by numba.

Nothing here knows of torch or Ray: numpy arrays in, numpy arrays out. Compiled code is kept beside this
file (or in the user's cache, where this folder cannot be written), so that a second process starts at once.
What each saves is shown by `python benchmarks/training.py`.
"""

import math

import numpy as np
from numba import njit

_compiled = njit(cache=True, error_model="numpy", nogil=True)


@_compiled
def index_unique_words(ids, offsets, rows, word_index, word_ids, token_indices, batch_offsets):
    """Fill in a batch's distinct words and each token's place among them; return the number of words.

    Args:
        ids, offsets: a part's texts, `(all tokens,)` and `(texts + 1,)`.
        rows: `(rows,)` the texts of the batch.
        mark: `(vocabulary,)` int32, all -1 before and after.
        words, places: `(tokens,)` out. starts: `(rows + 1,)` out: where each text begins in `places`.
    """
    num_words = 0
    filled = 0
    for row in range(len(rows)):
        batch_offsets[row] = filled
        for at in range(offsets[rows[row]], offsets[rows[row] + 1]):
            word = ids[at]
            place = word_index[word]
            if place < 0:
                place = num_words
                word_index[word] = place
                word_ids[place] = word
                num_words += 1
            token_indices[filled] = place
            filled += 1
    batch_offsets[len(rows)] = filled
    for place in range(num_words):
        word_index[word_ids[place]] = -1
    return num_words


@_compiled
def max_over_windows(projected, token_indices, offsets, widths, maps, maxima, argmax):
    """Fill in each filter's maximum over each text's windows, and which window it is.

    Args:
        projected: `(words, sum of widths * maps)`: width after width, place after place, map after map.
        best, where: `(rows, len(widths) * maps)` out; the empty text has one window, which is 0.
    """
    sums = np.empty(maps, projected.dtype)
    for row in range(len(offsets) - 1):
        start = offsets[row]
        length = offsets[row + 1] - start
        column = 0
        feature = 0
        for width in widths:
            highest = maxima[row, feature : feature + maps]
            at = argmax[row, feature : feature + maps]
            for one in range(maps):
                highest[one] = -np.inf if length else 0
                at[one] = 0
            for window in range(length + width - 1 if length else 0):
                first = max(0, width - 1 - window)
                last = min(width, length + width - 1 - window)
                token = start + window - (width - 1)
                term = projected[token_indices[token + first], column + first * maps : column + (first + 1) * maps]
                for one in range(maps):
                    sums[one] = term[one]
                for place in range(first + 1, last):
                    term = projected[token_indices[token + place], column + place * maps : column + (place + 1) * maps]
                    for one in range(maps):
                        sums[one] += term[one]
                number = np.int32(window)
                for one in range(maps):
                    higher = sums[one] > highest[one] or sums[one] != sums[one]  # what is no number stays
                    highest[one] = sums[one] if higher else highest[one]
                    at[one] = number if higher else at[one]
            column += width * maps
            feature += maps


@_compiled
def max_over_windows_backward(gradient, argmax, token_indices, offsets, widths, maps):
    """Return the gradient of `windows`' projected, which is sparse: (bounds, words, values), filter after filter.

    Args:
        gradient, where: `(len(widths) * maps, rows)`, of `best` and as it gave.

    Returns:
        The gradient's row for filter place `r` has `values[i]` at word `words[i]`, i from `bounds[r]` to
        `bounds[r + 1]`; a word may come twice, and counts twice.
    """
    rows = len(offsets) - 1
    total = 0
    for width in widths:
        total += width * maps
    bounds = np.empty(total + 1, np.int64)
    words = np.empty(total * rows, np.int32)
    values = np.empty(total * rows, gradient.dtype)
    alive = np.empty(rows, np.int64)  # rows whose gradient is not zero, of one filter
    found = 0
    first = 0  # the filter places before this width's
    feature = 0
    for width in widths:
        for place in range(width):
            for one in range(maps):
                bounds[first + place * maps + one] = found
                number = 0
                for row in range(rows):
                    # Zero where it was dropped, or the maximum is below zero.
                    alive[number] = row
                    number += gradient[feature + one, row] != 0
                for row in alive[:number]:
                    token = argmax[feature + one, row] - (width - 1) + place
                    if 0 <= token < offsets[row + 1] - offsets[row]:
                        words[found] = token_indices[offsets[row] + token]
                        values[found] = gradient[feature + one, row]
                        found += 1
        first += width * maps
        feature += maps
    bounds[total] = found
    return bounds, words[:found], values[:found]


@_compiled
def transpose_csr(indptr, indices, values, num_columns):
    """Return a sparse matrix, as `slopes` gives it, with its rows as columns; `size` columns become rows."""
    counts = np.zeros(num_columns + 1, np.int64)
    for column in indices:
        counts[column + 1] += 1
    for row in range(num_columns):
        counts[row + 1] += counts[row]
    at = counts.copy()
    rows = np.empty_like(indices)
    moved = np.empty_like(values)
    for row in range(len(indptr) - 1):
        for number in range(indptr[row], indptr[row + 1]):
            place = at[indices[number]]
            at[indices[number]] = place + 1
            rows[place] = row
            moved[place] = values[number]
    return counts, rows, moved


@_compiled
def multiply_csr(indptr, indices, values, matrix, out):
    """Fill `out`, `(rows, n)`, with the product of a sparse matrix, as `slopes` gives it, and `(columns, n)`."""
    for row in range(len(indptr) - 1):
        target = out[row]
        for at in range(len(target)):
            target[at] = 0
        for number in range(indptr[row], indptr[row + 1]):
            value = values[number]
            term = matrix[indices[number]]
            for at in range(len(target)):
                target[at] += value * term[at]


@_compiled
def lazy_adam_step(table, exp_avg, exp_avg_sq, word_ids, gradient, learning_rate, beta1, beta2, eps, step):
    """Take a step of Adam (Kingma & Ba 2015) on some rows of a table, and on no other row's moments.

    Args:
        table, first, second: `(vocabulary, dimensions)`: the rows and their two moments.
        words: `(rows,)` distinct; gradient: `(rows, dimensions)`.
        step: from 1.
    """
    kind = table.dtype.type
    keep1, keep2 = kind(beta1), kind(beta2)
    new1, new2 = kind(1 - beta1), kind(1 - beta2)
    factor = kind(learning_rate / (1 - beta1**step))
    correction = kind(1 / math.sqrt(1 - beta2**step))
    small = kind(eps)
    for row in range(len(word_ids)):
        value = table[word_ids[row]]
        mean = exp_avg[word_ids[row]]
        square = exp_avg_sq[word_ids[row]]
        slope = gradient[row]
        for at in range(len(value)):
            mean[at] = keep1 * mean[at] + new1 * slope[at]
            square[at] = keep2 * square[at] + new2 * slope[at] * slope[at]
            value[at] -= factor * mean[at] / (np.sqrt(square[at]) * correction + small)
