"""How good answers are, in numbers that people can cite: scikit-learn's, scipy's and seqeval's."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from bothways.errors import InputError, MissingExtraError

__all__ = ["classification_metrics", "entity_metrics", "need_metrics", "regression_metrics"]


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


def entity_metrics(
    true_sentences: Sequence[Sequence[str]], predicted_sentences: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Precision, recall and F1 of entities, over all together (micro), and the accuracy of tags, as seqeval has them.

    The sentences' tags in IOB2. An entity is right if its kind, its first and its last word are; one that begins with
    I- is one, as for conlleval. Of each kind too: precision/PER, recall/PER, f1/PER, and how many there are:
    support/PER. What there is nothing of is 0. Raises InputError on sentences of different lengths.
    """
    try:
        from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support
    except ImportError:
        raise MissingExtraError('metrics of entities take seqeval: pip install "bothways[metrics]"') from None
    truth, found = ([list(tags) for tags in side] for side in (true_sentences, predicted_sentences))
    if list(map(len, truth)) != list(map(len, found)):
        raise InputError("entities are compared in the same sentences, but their lengths differ")
    if not truth:
        return dict.fromkeys(("precision", "recall", "f1", "accuracy"), 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tags of no scheme are none of its entities, but it says so of each
        kinds = sorted({kind for side in (truth, found) for kind, _, _ in get_entities(side)})
        every = precision_recall_fscore_support(truth, found, average="micro", zero_division=0)
        each = precision_recall_fscore_support(truth, found, average=None, zero_division=0)
    names = ("precision", "recall", "f1", "support")
    tags = [one == other for a, b in zip(truth, found) for one, other in zip(a, b)]
    metrics = {name: float(value) for name, value in zip(names[:3], every)}
    metrics["accuracy"] = sum(tags) / len(tags) if tags else 0.0
    return metrics | {
        f"{name}/{kind}": float(values[i]) for i, kind in enumerate(kinds) for name, values in zip(names, each)
    }


def _constant(truth: np.ndarray, predicted: np.ndarray) -> bool:
    return bool(np.ptp(truth) == 0 or np.ptp(predicted) == 0)


def _statistic(result: Any) -> float:
    return float(result.statistic)
