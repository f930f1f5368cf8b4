"""How good answers are, in numbers that people can cite: scikit-learn's and scipy's."""

from __future__ import annotations

from typing import Any

import numpy as np

from bothways.errors import MissingExtraError

__all__ = ["classification_metrics", "need_metrics", "regression_metrics"]


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
