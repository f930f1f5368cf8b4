"""Metrics are scikit-learn's and scipy's, calibration is the paper's, and no threshold does better than the best."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
import sklearn.metrics as theirs
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from bothways.tasks.metrics import (
    best_thresholds,
    classification_metrics,
    confusion_matrix,
    expected_calibration_error,
    label_scores,
    multi_metrics,
    regression_metrics,
    single_metrics,
)

ROWS = st.integers(1, 30)
LABELS = 4


@st.composite
def label_numbers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """truth and scores [n, labels] that are probabilities."""
    rows = draw(ROWS)
    truth = draw(arrays(np.int64, rows, elements=st.integers(0, LABELS - 1)))
    logits = draw(arrays(np.float32, (rows, LABELS), elements=st.integers(-3, 3)))
    return truth, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


@st.composite
def several_labels(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Which labels are right, and scores of few different values, so that many are equal; both [n, labels]."""
    rows = draw(ROWS)
    truth = draw(arrays(np.uint8, (rows, LABELS), elements=st.integers(0, 1)))
    return truth, draw(arrays(np.float32, (rows, LABELS), elements=st.integers(0, 8))) / np.float32(8)


@given(label_numbers())
def test_of_two_labels_the_seconds_f1_is_told(given: tuple[np.ndarray, np.ndarray]) -> None:
    truth, scores = given[0] % 2, given[1][:, :2] / given[1][:, :2].sum(1, keepdims=True)
    found = single_metrics(truth, scores)
    assert found["f1"] == pytest.approx(theirs.f1_score(truth, scores.argmax(1), labels=[0, 1], zero_division=0))
    assert "f1" not in single_metrics(*given)


@given(label_numbers())
def test_single_labels_are_measured_as_by_scikit_learn(given: tuple[np.ndarray, np.ndarray]) -> None:
    truth, scores = given
    predicted = scores.argmax(1)
    found = single_metrics(truth, scores)
    assert found["accuracy"] == pytest.approx(theirs.accuracy_score(truth, predicted))
    every = list(range(LABELS))
    micro = theirs.f1_score(truth, predicted, labels=every, average="micro", zero_division=0)
    assert found["micro_f1"] == pytest.approx(micro)
    there = np.unique(truth)
    macro = theirs.f1_score(truth, predicted, labels=there, average="macro", zero_division=0)
    assert found["macro_f1"] == pytest.approx(macro)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a single label
        assert found["mcc"] == pytest.approx(theirs.matthews_corrcoef(truth, predicted))
    counted = theirs.confusion_matrix(truth, predicted, labels=every)
    np.testing.assert_array_equal(confusion_matrix(truth, predicted, LABELS), counted)
    columns = theirs.precision_recall_fscore_support(truth, predicted, labels=every, zero_division=0)
    for i, one in enumerate(label_scores(truth, predicted, LABELS)):
        assert (one.precision, one.recall, one.f1) == pytest.approx([column[i] for column in columns[:3]])
        assert one.support == columns[3][i]
        assert type(one.support) is int
    assert found.keys() == classification_metrics(truth, predicted).keys() | {"micro_f1", "ece"}


@given(several_labels())
def test_several_labels_are_measured_as_by_scikit_learn(given: tuple[np.ndarray, np.ndarray]) -> None:
    truth, scores = given
    predicted = scores >= 0.5
    found = multi_metrics(truth, predicted)
    assert found["accuracy"] == pytest.approx(theirs.accuracy_score(truth, predicted))
    for average in ("micro", "macro"):
        expected = theirs.f1_score(truth, predicted, average=average, zero_division=0)
        assert found[f"{average}_f1"] == pytest.approx(expected)
    columns = theirs.precision_recall_fscore_support(truth, predicted, zero_division=0)
    for i, one in enumerate(label_scores(truth, predicted, LABELS)):
        assert (one.precision, one.recall, one.f1) == pytest.approx([column[i] for column in columns[:3]])
        assert one.support == columns[3][i]


NUMBERS = st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=30)


@given(NUMBERS)
def test_numbers_are_measured_as_by_scipy(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = np.array(pairs, dtype=np.float64).T
    found = regression_metrics(truth, predicted)
    if np.ptp(truth) == 0 or np.ptp(predicted) == 0:
        assert found == {"pearson": 0.0, "spearman": 0.0}
    else:
        assert found["pearson"] == pytest.approx(np.corrcoef(truth, predicted)[0, 1])
        ranks = [stats.rankdata(side) for side in (truth, predicted)]
        assert found["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1])


def naive_calibration_error(confidence: list[float], right: list[bool], bins: int) -> float:
    """Guo et al. 2017, formula 3, bin by bin."""
    edges, total = np.linspace(0, 1, bins + 1), 0.0
    for number, (low, high) in enumerate(pairwise(edges)):
        own = [i for i, c in enumerate(confidence) if low < c <= high or (number == 0 and c == 0)]
        if own:
            accuracy = sum(right[i] for i in own) / len(own)
            total += len(own) / len(confidence) * abs(accuracy - sum(confidence[i] for i in own) / len(own))
    return total


ANSWERS = st.lists(st.tuples(st.floats(0, 1) | st.sampled_from([k / 15 for k in range(16)]), st.booleans()), min_size=1)


@given(ANSWERS, st.sampled_from([1, 2, 15]))
def test_the_calibration_error_is_the_papers(answers: list[tuple[float, bool]], bins: int) -> None:
    confidence, right = [c for c, _ in answers], [r for _, r in answers]
    ours = expected_calibration_error(np.array(confidence), np.array(right), bins)
    assert ours == pytest.approx(naive_calibration_error(confidence, right, bins))


def test_the_calibration_error_has_fifteen_bins() -> None:
    confidence, right = np.array([0.61, 0.65, 0.99, 1.0000001]), np.array([True, False, True, False])
    assert expected_calibration_error(confidence, right) == pytest.approx((0.26 + 0.9900001) / 4)
    assert expected_calibration_error(confidence, right) == expected_calibration_error(confidence, right, 15)


@given(several_labels())
def test_no_threshold_does_better_than_the_best(given: tuple[np.ndarray, np.ndarray]) -> None:
    truth, scores = given
    thresholds = best_thresholds(scores, truth)
    assert thresholds.shape == (LABELS,)

    def f1(label: int, threshold: float) -> float:
        return theirs.f1_score(truth[:, label], scores[:, label] >= threshold, zero_division=0)

    for label, threshold in enumerate(thresholds):
        others = [*np.unique(scores[:, label]), math.inf, 0.5]
        assert f1(label, threshold) == pytest.approx(max(f1(label, other) for other in others))
        assert 0 <= threshold <= 1
        assert truth[:, label].any() or threshold == 0.5


def test_thresholds_are_for_labels_by_themselves_and_for_one_of_two() -> None:
    scores = np.array([[0.1, 0.9], [0.2, 0.6], [0.3, 0.5], [0.4, 0.1]])
    truth = np.array([[0, 1], [1, 1], [1, 0], [1, 0]])
    np.testing.assert_allclose(best_thresholds(scores, truth), [0.15, 0.55])
    np.testing.assert_allclose(best_thresholds(scores[:, :1], truth[:, :1]), [0.15])
    close = np.array([[np.nextafter(0.5, 1)], [0.5]])
    assert (close >= best_thresholds(close, np.array([[1], [0]]))).ravel().tolist() == [True, False]
