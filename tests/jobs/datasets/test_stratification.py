"""Stratified drawing: the same rows as scikit-learn's."""

import numpy as np
import pytest

from jobs.datasets.stratification import draw_folds, draw_share


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.03, 0.1, 1 / 3, 0.5, 0.77])
@pytest.mark.parametrize("sizes", [(20, 20), (31, 45, 12), (100, 40, 7, 7, 7, 7, 3), (9,) * 11])
def test_a_share_has_the_rows_that_scikit_learn_draws(sizes: tuple[int, ...], share: float, seed: int) -> None:
    from sklearn.model_selection import train_test_split

    labels = _shuffled_labels(sizes, seed)
    rows = sum(sizes)
    if not len(sizes) <= np.ceil(share * rows) <= rows - len(sizes):
        return  # scikit-learn draws nothing then
    expected = train_test_split(range(rows), test_size=share, random_state=seed, stratify=labels)
    remaining, drawn = draw_share(labels, share, seed)
    assert remaining.tolist() == expected[0]
    assert drawn.tolist() == expected[1]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("folds", [2, 3, 7])
@pytest.mark.parametrize("sizes", [(20, 20), (31, 45, 12), (100, 40, 7, 8, 9), (9,) * 11])
def test_folds_are_those_of_scikit_learn(sizes: tuple[int, ...], folds: int, seed: int) -> None:
    from sklearn.model_selection import StratifiedKFold

    labels = _shuffled_labels(sizes, seed)
    fold_of_row = draw_folds(labels, folds, seed)
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for number, (_, test) in enumerate(splitter.split(labels, labels)):
        assert np.flatnonzero(fold_of_row == number).tolist() == test.tolist()


def _shuffled_labels(sizes: tuple[int, ...], seed: int) -> list[str]:
    labels = [f"label {number}" for number, size in enumerate(sizes) for _ in range(size)]
    return [labels[index] for index in np.random.default_rng(seed).permutation(len(labels))]
