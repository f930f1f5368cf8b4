"""How much of what was written stands in what is right: BLEU and chrF by sacrebleu, ROUGE by rouge-score."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, Protocol

from bothways.errors import InputError, MissingExtraError

__all__ = ["OVERLAPS", "ROUGES", "Overlaps", "References", "need_overlap"]

References = Sequence[Sequence[str]]
"""Of each text those that are right, one or several."""

ROUGES = ("rouge1", "rouge2", "rougeL")


class Gathering(Protocol):
    """A metric of texts that come some at a time; of each text no more than some numbers are kept."""

    def add(self, texts: Sequence[str], references: References) -> None: ...

    def values(self) -> dict[str, float]: ...


class _Summed:
    """One of sacrebleu's metrics of a corpus: made from sums of what is counted in each text."""

    def __init__(self, name: str, metric: Any) -> None:
        self._name, self._metric = name, metric
        self._sums: list[float] = []

    def add(self, texts: Sequence[str], references: References) -> None:
        counted = self._metric._extract_corpus_statistics(list(texts), _streams(references))
        self._sums = [sum(column) for column in zip(*counted, *([self._sums] if self._sums else []))]

    def values(self) -> dict[str, float]:
        return {self._name: float(self._metric._compute_score_from_stats(self._sums).score)}


def bleu() -> Gathering:
    """bleu: of the corpus, from 0 to 100, with sacrebleu's tokens "13a" (Post 2018, https://arxiv.org/abs/1804.08771)."""
    from sacrebleu.metrics.bleu import BLEU

    return _Summed("bleu", BLEU(force=True))  # else it complains of texts that look as if they were split into tokens


def chrf() -> Gathering:
    """chrf: chrF2 of the corpus, from 0 to 100 (Popović 2015, https://aclanthology.org/W15-3049)."""
    from sacrebleu.metrics.chrf import CHRF

    return _Summed("chrf", CHRF())


class Rouge:
    """rouge1, rouge2, rougeL: mean F1 over the texts, from 0 to 1, of words and pairs of words that both have, and of
    the longest sequence; stemmed, and of several references the best (Lin 2004, https://aclanthology.org/W04-1013).

    Its words are those of the letters a to z and of digits: it is for English.
    """

    def __init__(self) -> None:
        from rouge_score.rouge_scorer import RougeScorer

        self._scorer = RougeScorer(list(ROUGES), use_stemmer=True)
        self._found = {name: array("d") for name in ROUGES}

    def add(self, texts: Sequence[str], references: References) -> None:
        for text, right in zip(texts, references):
            score = self._scorer.score_multi(list(right), text)
            for name, found in self._found.items():
                found.append(float(score[name].fmeasure))

    def values(self) -> dict[str, float]:
        return {name: fmean(found) for name, found in self._found.items()}


OVERLAPS: Mapping[str, Callable[[], Gathering]] = {"bleu": bleu, "chrf": chrf, "rouge": Rouge}
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
            raise MissingExtraError(
                f'{name} takes {library}: pip install "bothways[metrics]", or say --metrics none'
            ) from None


class Overlaps:
    """Metrics of texts that come some at a time: they are those of all together."""

    def __init__(self, names: Sequence[str]) -> None:
        """names: in OVERLAPS. Raises as `need_overlap`."""
        need_overlap(names)
        self._gathered = [OVERLAPS[name]() for name in names]
        self.count = 0

    def add(self, texts: Sequence[str], references: References) -> None:
        """Raises InputError where not each text has a reference."""
        if len(texts) != len(references):
            raise InputError(f"{len(texts):,} texts cannot be compared with references of {len(references):,}")
        if not all(references):
            missing = self.count + [*map(bool, references)].index(False)
            raise InputError(f"text {missing} has no reference to be compared with")
        self.count += len(texts)
        for one in self._gathered if texts else ():
            one.add(texts, references)

    def values(self) -> dict[str, float]:
        """Raises InputError where there were no texts."""
        if not self.count:
            raise InputError("no texts to measure")
        return {key: value for one in self._gathered for key, value in one.values().items()}


def _streams(references: References) -> list[list[Any]]:
    """The first reference of each text, the second ones, and so on, None where a text has no more."""
    most = max(map(len, references))
    return [[right[i] if i < len(right) else None for right in references] for i in range(most)]
