"""How good answers are, in numbers that people can cite: scikit-learn's and scipy's, and calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bothways.errors import MissingExtraError

__all__ = [
    "LabelScore",
    "best_thresholds",
    "classification_metrics",
    "confusion_matrix",
    "expected_calibration_error",
    "label_scores",
    "multi_metrics",
    "need_metrics",
    "regression_metrics",
    "single_metrics",
]

BINS = 15
# Where nothing speaks for another one.
USUAL_THRESHOLD = 0.5


@dataclass(frozen=True)
class LabelScore:
    """How good answers are for one label; 0 where there is nothing to divide by.    support: rows that have it."""

    precision: float
    recall: float
    f1: float
    support: int


def need_metrics() -> None:
    """Raise MissingExtraError unless scikit-learn is installed."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise MissingExtraError('metrics take scikit-learn: pip install "bothways[metrics]"') from None


def classification_metrics(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Accuracy, F1 as the mean over the labels there are in truth, and Matthews' correlation, of label numbers int [n].

    The latter is 0 where either side is constant. (A label that is nowhere true is none to be right about: the wrong
    answers that name it count against those that are.)
    """
    need_metrics()
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    return {
        "accuracy": float(accuracy_score(truth, predicted)),
        "macro_f1": float(f1_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0)),
        "mcc": 0.0 if _constant(truth, predicted) else float(matthews_corrcoef(truth, predicted)),
    }


def single_metrics(truth: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Of label numbers int [n] and probabilities [n, labels], the best of which is the answer: those of
    `classification_metrics`, micro_f1 (over all labels, so it is the accuracy) and ece.
    """
    predicted = scores.argmax(1)
    found = classification_metrics(truth, predicted)
    error = expected_calibration_error(scores.max(1), predicted == truth)
    return {**found, "micro_f1": found["accuracy"], "ece": error}


def multi_metrics(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Of several labels, [n, labels], 1 where a row has one: accuracy (all of a row's are right), and F1 over all
    answers together and as the mean over all labels; 0 for one that is nowhere true and nowhere answered.
    """
    truth, predicted = truth > 0, predicted > 0
    f1 = [score.f1 for score in label_scores(truth, predicted, truth.shape[1])]
    micro = _share(2 * (truth & predicted).sum(), truth.sum() + predicted.sum())
    return {"accuracy": float((truth == predicted).all(1).mean()), "micro_f1": micro, "macro_f1": float(np.mean(f1))}


def label_scores(truth: np.ndarray, predicted: np.ndarray, labels: int) -> list[LabelScore]:
    """For each of so many labels; of label numbers int [n], or of several labels [n, labels], 1 where a row has one."""
    if truth.ndim == 1:
        truth, predicted = truth[:, None] == np.arange(labels), predicted[:, None] == np.arange(labels)
    sums = ((truth > 0) & (predicted > 0)).sum(0), (predicted > 0).sum(0), (truth > 0).sum(0)
    return [
        LabelScore(_share(hits, said), _share(hits, there), _share(2 * hits, said + there), int(there))
        for hits, said, there in zip(*sums)
    ]


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, labels: int) -> np.ndarray:
    """int64 [labels, labels] of label numbers int [n]: rows of each label (down) that got each label (across)."""
    counted = np.zeros((labels, labels), dtype=np.int64)
    np.add.at(counted, (truth, predicted), 1)
    return counted


def expected_calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """How far confidence [n], from 0 to 1, is from the share of answers that are right, bool [n]: the mean over bins of
    equal width, each with as much weight as it has answers (Guo et al. 2017, https://arxiv.org/abs/1706.04599).

    A bin has its upper edge; the first one has 0, too.
    """
    edges = np.linspace(0.0, 1.0, bins + 1)
    # In fp32 a probability may come out a little above 1.
    number = np.clip(np.searchsorted(edges, confidence.astype(np.float64)) - 1, 0, bins - 1)
    off = np.bincount(number, right.astype(np.float64) - confidence.astype(np.float64), bins)
    return float(np.abs(off).sum() / len(confidence))


def best_thresholds(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """For each label the threshold, fp64 [labels], with the best F1, where a label is answered that scores at least it.

    scores, truth: [n, labels]; for two labels that exclude each other, [n, 1] with those of the one that is looked for.
    A threshold is halfway between two scores, the highest of those that are as good; 0.5 for a label that is nowhere
    true. Chosen on the rows that it is then measured on, it looks better than it is.
    """
    return np.array([_best_threshold(*column) for column in zip(scores.T.astype(np.float64), truth.T > 0)])


def _best_threshold(scores: np.ndarray, truth: np.ndarray) -> float:
    if not truth.any():
        return USUAL_THRESHOLD
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(truth[order])
    # Among equal scores there is no way to stop.
    stops = np.flatnonzero(np.append(scores[:-1] > scores[1:], True))
    best = int(stops[np.argmax(2 * hits[stops] / (stops + 1 + hits[-1]))])
    if best + 1 == len(scores):
        return float(scores[best])
    halfway = (scores[best] + scores[best + 1]) / 2
    return float(halfway if halfway > scores[best + 1] else scores[best])


def regression_metrics(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Pearson's correlation, and Spearman's of ranks, of numbers [n]; 0 where either side is constant."""
    need_metrics()
    from scipy.stats import pearsonr, spearmanr

    constant = _constant(truth, predicted)
    return {
        "pearson": 0.0 if constant else _statistic(pearsonr(truth, predicted)),
        "spearman": 0.0 if constant else _statistic(spearmanr(truth, predicted)),
    }


def _constant(truth: np.ndarray, predicted: np.ndarray) -> bool:
    return bool(np.ptp(truth) == 0 or np.ptp(predicted) == 0)


def _statistic(result: Any) -> float:
    return float(result.statistic)
