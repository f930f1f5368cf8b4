"""How much of what was written stands in what is right: BLEU and chrF by sacrebleu, ROUGE by rouge-score."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from bothways.errors import InputError, MissingExtraError

__all__ = ["OVERLAPS", "ROUGES", "bleu", "chrf", "need_overlap", "overlap_metrics", "rouge"]

References = Sequence[Sequence[str]]
"""Of each text those that are right, one or several."""

ROUGES = ("rouge1", "rouge2", "rougeL")


def bleu(texts: Sequence[str], references: References) -> dict[str, float]:
    """bleu: of the corpus, from 0 to 100, with sacrebleu's tokens "13a" (Post 2018, https://arxiv.org/abs/1804.08771)."""
    from sacrebleu import corpus_bleu

    return {"bleu": float(corpus_bleu(list(texts), _streams(references)).score)}


def chrf(texts: Sequence[str], references: References) -> dict[str, float]:
    """chrf: chrF2 of the corpus, from 0 to 100 (Popović 2015, https://aclanthology.org/W15-3049)."""
    from sacrebleu import corpus_chrf

    return {"chrf": float(corpus_chrf(list(texts), _streams(references)).score)}


def rouge(texts: Sequence[str], references: References) -> dict[str, float]:
    """rouge1, rouge2, rougeL: mean F1 over the texts, from 0 to 1, of words and pairs of words that both have, and of
    the longest sequence; stemmed, and of several references the best (Lin 2004, https://aclanthology.org/W04-1013).

    Its words are those of the letters a to z and of digits: it is for English.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(ROUGES), use_stemmer=True)
    scores = [scorer.score_multi(list(right), text) for text, right in zip(texts, references)]
    return {name: fmean(float(score[name].fmeasure) for score in scores) for name in ROUGES}


OVERLAPS: Mapping[str, Callable[[Sequence[str], References], dict[str, float]]] = {
    "bleu": bleu,
    "chrf": chrf,
    "rouge": rouge,
}
"""By the names that settings have for them. What each gives is the higher, the better."""


def need_overlap(names: Sequence[str]) -> None:
    """Raise InputError on a name that is not in OVERLAPS, MissingExtraError where a library is not installed."""
    for name in names:
        if name not in OVERLAPS:
            raise InputError(f"unknown metric {name!r:.40}; known: {', '.join(OVERLAPS)}")
        library = "rouge-score" if name == "rouge" else "sacrebleu"
        try:
            __import__(library.replace("-", "_"))
        except ImportError:
            raise MissingExtraError(f'{name} takes {library}: pip install "bothways[metrics]"') from None


def overlap_metrics(texts: Sequence[str], references: References, names: Sequence[str]) -> dict[str, float]:
    """What these metrics, by their names in OVERLAPS, say of texts.

    Raises InputError where there are none, where one has no reference, and on an unknown name; MissingExtraError where
    a library is not installed.
    """
    need_overlap(names)
    if len(texts) != len(references):
        raise InputError(f"{len(texts):,} texts cannot be compared with references of {len(references):,}")
    if not texts:
        raise InputError("no texts to measure")
    if not all(references):
        raise InputError(f"text {[*map(bool, references)].index(False)} has no reference to be compared with")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of texts that look as if they were split into tokens
        return {key: value for name in names for key, value in OVERLAPS[name](texts, references).items()}


def _streams(references: References) -> list[list[Any]]:
    """The first reference of each text, the second ones, and so on, None where a text has no more."""
    most = max(map(len, references))
    return [[right[i] if i < len(right) else None for right in references] for i in range(most)]
