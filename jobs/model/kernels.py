"""Compiled kernels of training on a CPU: loops that no library has, or has at the same speed.

`jobs.model` calls them on a CPU; on a GPU it uses the kernels of `jobs.model.gpu`. Serving has a kernel of its own,
`jobs.inference.scoring_kernel`. The kernels take and return numpy arrays and import neither torch nor Ray.
`python benchmarks/training.py` measures them, `python benchmarks/kernels.py` compares them with libraries.

Layouts:
    batch           token_indices `(tokens,)` int32, offsets `(texts + 1,)` int64: drawn in `jobs.model.batches`
    filters         rows of `filters` are columns of `projected`: described in `jobs.model.convolution`
    sparse matrix   CSR: row r has `values[i]` in column `indices[i]`, for i from `indptr[r]` to `indptr[r + 1]`;
                    a column may be named twice, and its values are added
"""

import math

import numpy as np

from jobs.compilation.decorator import compiled

# Constants of Philox4x32-10; see `jobs.model.dropout`.
_MULTIPLIER0, _MULTIPLIER1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_KEY_INCREMENT0, _KEY_INCREMENT1 = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
_HALF = np.uint64(32)


@compiled()
def index_unique_words(
    ids: np.ndarray,
    offsets: np.ndarray,
    rows: np.ndarray,
    word_index: np.ndarray,
    word_ids: np.ndarray,
    token_indices: np.ndarray,
    batch_offsets: np.ndarray,
) -> int:
    """Write a batch's distinct words and each token's index among them; return the number of words.

    Args:
        ids, offsets: all texts, `(all tokens,)` int32 and `(all texts + 1,)` int64.
        rows: `(texts,)` int64, the batch's texts.
        word_index: scratch, `(vocabulary,)` int32, all -1 before and after.
        word_ids, token_indices, batch_offsets: the output; word_ids is as long as token_indices.
    """
    num_words = 0
    num_tokens = 0
    for text in range(len(rows)):
        batch_offsets[text] = num_tokens
        for token in range(offsets[rows[text]], offsets[rows[text] + 1]):
            word = ids[token]
            index = word_index[word]
            if index < 0:
                index = num_words
                word_index[word] = index
                word_ids[index] = word
                num_words += 1
            token_indices[num_tokens] = index
            num_tokens += 1
    batch_offsets[len(rows)] = num_tokens
    for index in range(num_words):
        word_index[word_ids[index]] = -1
    return num_words


@compiled()
def max_over_windows(
    projected: np.ndarray,
    token_indices: np.ndarray,
    offsets: np.ndarray,
    widths: np.ndarray,
    maps: int,
    maxima: np.ndarray,
    argmax: np.ndarray,
) -> None:
    """Write each filter's maximum over each text's windows, and the index of that window.

    Args:
        projected: `(words, sum(widths) * maps)` float, each word's products with the filters.
        widths: `(len(widths),)` int64; maps: filters of each width.
        maxima, argmax: the output, `(texts, len(widths) * maps)` float and int32. Window 0 of a text ends with its
            first token. The empty text has one window, of value 0.
    """
    sums = np.empty(maps, projected.dtype)
    for text in range(len(offsets) - 1):
        start = offsets[text]
        length = offsets[text + 1] - start
        column = 0
        feature = 0
        for width in widths:
            highest = maxima[text, feature : feature + maps]
            highest_window = argmax[text, feature : feature + maps]
            for index in range(maps):
                highest[index] = -np.inf if length else 0
                highest_window[index] = 0
            for window in range(length + width - 1 if length else 0):
                # Positions of the window that are inside the text.
                first = max(0, width - 1 - window)
                last = min(width, length + width - 1 - window)
                token = start + window - (width - 1)
                term = projected[token_indices[token + first], column + first * maps : column + (first + 1) * maps]
                for index in range(maps):
                    sums[index] = term[index]
                for position in range(first + 1, last):
                    term = projected[
                        token_indices[token + position], column + position * maps : column + (position + 1) * maps
                    ]
                    for index in range(maps):
                        sums[index] += term[index]
                number = np.int32(window)
                for index in range(maps):
                    higher = sums[index] > highest[index] or sums[index] != sums[index]  # NaN propagates
                    highest[index] = sums[index] if higher else highest[index]
                    highest_window[index] = number if higher else highest_window[index]
            column += width * maps
            feature += maps


@compiled()
def max_over_windows_backward(
    gradient: np.ndarray,
    argmax: np.ndarray,
    token_indices: np.ndarray,
    offsets: np.ndarray,
    widths: np.ndarray,
    maps: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradient of `projected` of `max_over_windows`, transposed, as a sparse matrix.

    Args:
        gradient, argmax: `(len(widths) * maps, texts)`, the gradient of `maxima`, and `argmax` transposed.

    Returns:
        indptr, indices, values of a matrix `(sum(widths) * maps, words)`.
    """
    num_texts = len(offsets) - 1
    num_filter_rows = 0
    for width in widths:
        num_filter_rows += width * maps
    indptr = np.empty(num_filter_rows + 1, np.int64)
    indices = np.empty(num_filter_rows * num_texts, np.int32)
    values = np.empty(num_filter_rows * num_texts, gradient.dtype)
    nonzero = np.empty(num_texts, np.int64)  # texts where one filter's gradient is not zero
    size = 0
    first_row = 0  # of this width's filters
    feature = 0
    for width in widths:
        for position in range(width):
            for index in range(maps):
                indptr[first_row + position * maps + index] = size
                count = 0
                for text in range(num_texts):
                    # Zero where dropout dropped it, or ReLU cut the maximum off.
                    nonzero[count] = text
                    count += gradient[feature + index, text] != 0
                for text in nonzero[:count]:
                    token = argmax[feature + index, text] - (width - 1) + position
                    if 0 <= token < offsets[text + 1] - offsets[text]:
                        indices[size] = token_indices[offsets[text] + token]
                        values[size] = gradient[feature + index, text]
                        size += 1
        first_row += width * maps
        feature += maps
    indptr[num_filter_rows] = size
    return indptr, indices[:size], values[:size]


@compiled()
def lazy_adam_step(
    table: np.ndarray,
    exp_avg: np.ndarray,
    exp_avg_sq: np.ndarray,
    word_ids: np.ndarray,
    gradient: np.ndarray,
    learning_rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
) -> None:
    """Take a step of Adam (Kingma & Ba 2015) on some rows of a table and their moments, in place.

    Args:
        table, exp_avg, exp_avg_sq: `(vocabulary, dimensions)` float, the vectors and their two moments.
        word_ids: `(rows,)` int64, distinct; gradient: `(rows, dimensions)`.
        step: number of the step, from 1.
    """
    dtype = table.dtype.type
    # Of the table's type; the powers of beta1 and beta2 below are computed in float64.
    decay1, decay2 = dtype(beta1), dtype(beta2)
    one_minus_beta1, one_minus_beta2 = dtype(1 - beta1), dtype(1 - beta2)
    factor = dtype(learning_rate / (1 - beta1**step))
    correction = dtype(1 / math.sqrt(1 - beta2**step))
    epsilon = dtype(eps)
    for row in range(len(word_ids)):
        vector = table[word_ids[row]]
        mean = exp_avg[word_ids[row]]
        mean_square = exp_avg_sq[word_ids[row]]
        row_gradient = gradient[row]
        for index in range(len(vector)):
            value = row_gradient[index]
            mean[index] = decay1 * mean[index] + one_minus_beta1 * value
            mean_square[index] = decay2 * mean_square[index] + one_minus_beta2 * value * value
            vector[index] -= factor * mean[index] / (np.sqrt(mean_square[index]) * correction + epsilon)


@compiled()
def add_rows(target: np.ndarray, indices: np.ndarray, rows: np.ndarray) -> None:
    """Add rows, `(rows, columns)`, to those of `target` with some indices, `(rows,)`."""
    for row in range(len(indices)):
        target_row = target[indices[row]]
        for column in range(rows.shape[1]):
            target_row[column] += rows[row, column]


@compiled()
def philox(words: np.ndarray, key0: int, key1: int) -> None:
    """Replace the counters of blocks by the blocks of Philox4x32-10 (Salmon et al. 2011).

    Args:
        words: `(4, blocks)` uint32, contiguous.
    """
    first, second, third, fourth = words[0], words[1], words[2], words[3]
    round_key0, round_key1 = np.uint32(key0), np.uint32(key1)
    for _ in range(10):
        for block in range(words.shape[1]):  # vectorized, unlike a loop over the rounds of one block
            product0 = _MULTIPLIER0 * np.uint64(first[block])
            product1 = _MULTIPLIER1 * np.uint64(third[block])
            first[block] = np.uint32(product1 >> _HALF) ^ second[block] ^ round_key0
            second[block] = np.uint32(product1)
            third[block] = np.uint32(product0 >> _HALF) ^ fourth[block] ^ round_key1
            fourth[block] = np.uint32(product0)
        round_key0 = np.uint32(round_key0 + _KEY_INCREMENT0)
        round_key1 = np.uint32(round_key1 + _KEY_INCREMENT1)


@compiled()
def draw_dropout_mask(
    rows: np.ndarray, seed: int, epoch: int, step: int, limit: int, scale: float, mask: np.ndarray
) -> None:
    """Write the factors of features: `scale` where the random word is below the limit, otherwise 0.

    Args:
        rows: `(rows,)` int64; seed, epoch, step: as in `jobs.model.dropout`.
        mask: the output, `(rows, features)` float32.
    """
    num_features = mask.shape[1]
    words = np.empty((4, (num_features + 3) // 4), np.uint32)
    features = words.reshape(-1)
    factor, word_limit = np.float32(scale), np.uint32(limit)
    for row in range(len(rows)):
        for block in range(words.shape[1]):  # to assign whole rows takes far longer to compile
            words[0, block], words[1, block], words[2, block], words[3, block] = block, rows[row], step, 0
        philox(words, seed, epoch)
        for feature in range(num_features):
            mask[row, feature] = factor if features[feature] < word_limit else np.float32(0)
