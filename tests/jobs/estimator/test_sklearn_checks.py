"""Scikit-learn's own checks of estimators, and columns of pandas."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted, validate_data

from jobs.estimator.text_cnn import TextCNNClassifier
from tests.support.toy_data import make_toy_rows

LABELS, TEXTS = (list(column) for column in zip(*make_toy_rows(120), strict=True))
SMALL: dict[str, Any] = {"embedding": "rand", "feature_maps": 8, "filter_widths": (1, 2), "epochs": 1, "batch_size": 10}
# The reasons for which scikit-learn's checks may fail, and those that it skips.
EXPECTED_FAILURES = {
    "check_sample_weight_equivalence_on_dense_data": "a row of weight 0 is in a batch too, and repeated rows are in "
    "several",
}
SKIPPED = {
    "check_array_api_input": "SCIPY_ARRAY_API is not set: not checking array_api input",
    "check_classifiers_multilabel_output_format_decision_function": "NumericTextCNN does not have a decision_function "
    "method.",
}


class NumericTextCNN(TextCNNClassifier):
    """Estimator of rows of numbers, which scikit-learn's checks need: each number becomes a word."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "NumericTextCNN":  # type: ignore[override]
        several = isinstance(y, list | np.ndarray) and np.ndim(y) == 2 and np.shape(y)[1] > 1
        X, y = validate_data(self, X, y, multi_output=several)
        super().fit(self._to_texts(X), y, sample_weight)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return super().predict_proba(self._to_texts(validate_data(self, X, reset=False)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.one_d_array = tags.input_tags.string = False
        tags.classifier_tags.poor_score = True  # words have no order
        return tags

    def _to_texts(self, rows: np.ndarray) -> list[str]:
        return [" ".join(f"w{column}x{int(abs(value))}" for column, value in enumerate(row)) for row in rows]


@pytest.mark.slow
def test_the_checks_of_scikit_learn_pass() -> None:
    """They are for estimators of numbers; exactly the listed ones fail or are skipped."""
    results = check_estimator(
        NumericTextCNN(**SMALL), expected_failed_checks=EXPECTED_FAILURES, on_fail=None, on_skip=None
    )
    exceptions: dict[str, dict[str, str]] = {}
    for result in results:
        exceptions.setdefault(result["status"], {})[result["check_name"]] = str(result["exception"])
    passed, expected_failures = exceptions.pop("passed"), exceptions.pop("xfail")
    assert exceptions == {"skipped": SKIPPED}
    assert expected_failures.keys() == EXPECTED_FAILURES.keys()
    assert len(passed) > 55


@pytest.mark.parametrize("convert", [
    pd.Series,
    lambda values: pd.Series(values, dtype="string"),
    lambda values: pd.Series(values, dtype="str"),
    lambda values: pd.Series(values, dtype="category"),
    lambda values: pd.Series(values, index=np.random.default_rng(0).permutation(len(values))),
], ids=["object", "string", "str", "category", "index"])  # fmt: skip
def test_columns_of_pandas_are_equal_to_lists(convert: Callable[[list[str]], Any]) -> None:
    """In the order of their rows, whatever their index, also as validation rows and with weights."""
    weights = pd.Series(np.arange(1.0, 121), index=range(120, 0, -1))
    expected = TextCNNClassifier(**SMALL).fit(TEXTS, LABELS, weights.tolist(), eval_set=(TEXTS[:9], LABELS[:9]))
    rows = convert(TEXTS), convert(LABELS)
    fitted = TextCNNClassifier(**SMALL).fit(*rows, weights, eval_set=(rows[0].iloc[:9], rows[1].iloc[:9]))
    assert np.array_equal(fitted.predict_proba(rows[0]), expected.predict_proba(TEXTS))
    predicted = fitted.predict(rows[0])
    assert type(predicted) is np.ndarray
    assert predicted.tolist() == expected.predict(TEXTS).tolist()
    assert fitted.score(*rows) == expected.score(TEXTS, LABELS)


def test_a_missing_value_of_pandas_is_an_error() -> None:
    """With its position."""
    for column in (pd.Series(["a", None], dtype="string"), pd.Series(["a", np.nan])):
        with pytest.raises(ValueError, match=r"texts\[1\] is (<NA>|nan|None), not a text"):
            TextCNNClassifier(**SMALL).fit(column, ["x", "y"])
