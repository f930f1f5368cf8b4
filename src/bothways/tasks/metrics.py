"""How good answers are, in numbers that people can cite: of scikit-learn, scipy, seqeval and the scripts of SQuAD."""

from __future__ import annotations

import re
import string
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bothways.errors import InputError, MissingExtraError

__all__ = [
    "LabelScore",
    "Marks",
    "best_null_threshold",
    "best_thresholds",
    "classification_metrics",
    "confusion_matrix",
    "entity_metrics",
    "expected_calibration_error",
    "label_scores",
    "marked",
    "mean_marks",
    "multi_metrics",
    "need_metrics",
    "regression_metrics",
    "single_metrics",
    "squad_metrics",
]

ARTICLES = re.compile(r"\b(a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
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


def single_metrics(truth: np.ndarray, scores: np.ndarray, predicted: np.ndarray | None = None) -> dict[str, float]:
    """Of label numbers int [n] and probabilities [n, labels]: those of `classification_metrics`, micro_f1 (over all
    labels, so it is the accuracy) and ece, of the likeliest label; of two labels also f1, the second one's (GLUE's).

    predicted: int [n], the answers; None: the likeliest labels.
    """
    best = scores.argmax(1)
    answers = best if predicted is None else predicted
    found = classification_metrics(truth, answers)
    second = {"f1": label_scores(truth, answers, 2)[1].f1} if scores.shape[1] == 2 else {}
    error = expected_calibration_error(scores.max(1), best == truth)
    return {**found, **second, "micro_f1": found["accuracy"], "ece": error}


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


class Marks(NamedTuple):
    """How good an answer is by SQuAD's scripts, from 0 to 1: em, whether it is one of the right ones; f1, of its words.

    They are those of version 2.0, which leaves out right answers that consist of articles and punctuation; and those of
    1.1, which does not.
    """

    em: float
    f1: float
    em_1: float
    f1_1: float


def marked(answer: str, golds: Sequence[str]) -> Marks:
    """An answer, "" for none, compared with all that are right; with none of them, "" is right."""
    said, right = _words(answer), [_words(gold) for gold in golds]
    known = [gold for gold in right if gold] or [[]]
    f1 = max(_f1(said, gold) if said and gold else float(said == gold) for gold in known)
    return Marks(
        float(said in known),
        f1,
        float(said in right),
        max((_f1(said, gold) for gold in right), default=0.0),
    )


def squad_metrics(pairs: Sequence[tuple[str, tuple[str, ...]]]) -> dict[str, float]:
    """em and f1 of answers and of what is right for each, as SQuAD's scripts have them (but from 0 to 1).

    pairs: the answer, "" for none; the right ones, () where there is none. If some have none, as in version 2.0, also
    the means over those that have some (has_answer_em, has_answer_f1) and those that have none.
    """
    return mean_marks([marked(answer, golds) for answer, golds in pairs], [bool(golds) for _, golds in pairs])


def mean_marks(marks: Sequence[Marks], answerable: Sequence[bool]) -> dict[str, float]:
    """The means of version 1.1 where all are answerable, else those of version 2.0."""
    if all(answerable):
        return {"em": _mean([one.em_1 for one in marks]), "f1": _mean([one.f1_1 for one in marks])}
    found = {"em": _mean([one.em for one in marks]), "f1": _mean([one.f1 for one in marks])}
    for name, kind in (("has_answer", True), ("no_answer", False)):
        own = [one for one, can in zip(marks, answerable) if can == kind]
        if own:
            found |= {f"{name}_em": _mean([one.em for one in own]), f"{name}_f1": _mean([one.f1 for one in own])}
    return found


def best_null_threshold(
    marks: Sequence[float], odds: Sequence[float], answerable: Sequence[bool], answered: Sequence[bool] | None = None
) -> tuple[float, float]:
    """The best mean there can be if answers with odds above a threshold are held back, and the least such threshold;
    `find_best_thresh` of SQuAD 2.0's script.

    marks: of the answers that would be given.    odds: that there is none, at least 0.
    answered: whether each of these answers is one; None: all are.
    """
    if not marks:
        return 0.0, 0.0
    order = np.argsort(np.asarray(odds, dtype=np.float64), kind="stable")
    given = np.ones(len(marks), dtype=bool) if answered is None else np.asarray(answered, dtype=bool)
    gains = np.where(answerable, marks, -given.astype(np.float64))[order]
    totals = np.cumsum([float(len(marks) - sum(answerable)), *gains])
    best = int(totals.argmax())
    return float(totals[best] / len(marks)), 0.0 if best == 0 else float(odds[order[best - 1]])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _words(answer: str) -> list[str]:
    """In lower case, without punctuation and articles."""
    return ARTICLES.sub(" ", answer.lower().translate(WITHOUT_PUNCTUATION)).split()


def _f1(said: Sequence[str], right: Sequence[str]) -> float:
    same = sum((Counter(said) & Counter(right)).values())
    if not same:
        return 0.0
    precision, recall = same / len(said), same / len(right)
    return 2 * precision * recall / (precision + recall)
