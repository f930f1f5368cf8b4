"""What frozen hidden states know: a linear model learns labels from them (Alain & Bengio 2016, arXiv:1610.01644).

Cheap enough to ask at every checkpoint of a run. Which rows are learnt from, and which regularisation is best, goes by
what the rows say and not by their order; so the same rows in any order, in any batches, give the same numbers.
"""

from __future__ import annotations

import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bothways.checkpoint.encoder import Encoder, tokenizer_of
from bothways.data.batch import Batch
from bothways.data.labelled import Example, Labels
from bothways.engine.backends import BACKENDS, place
from bothways.engine.pipeline import check_types
from bothways.engine.scheduler import progress, schedule
from bothways.engine.streams import Streams
from bothways.errors import InputError
from bothways.nn.pooling import POOLINGS, pool
from bothways.ragged import Ragged
from bothways.tasks.metrics import classification_metrics, need_metrics, regression_metrics
from bothways.text.tokenizer import cut_lengths, warn_of_truncation

__all__ = ["PAIRS", "FrozenFeatures", "ProbeResult", "ProbeRun", "ProbeSettings", "probe"]

# How strongly weights are held back, most first: the penalty is divided by it, as in scikit-learn's C.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
HELD_OUT = 0.2
MOST_STEPS = 200


@dataclass(frozen=True)
class ProbeSettings:
    """How to ask.

    pooling: what makes one vector of a text's last hidden states, a name in `nn.pooling.POOLINGS`.
    pairs: what is known of a pair, a name in `PAIRS`.
    seeds: so many divisions of the rows, each with its own result.
    max_length: tokens a text, or a pair read together, may have; the model's own limit if None.
    """

    pooling: str = "mean"
    pairs: str = "apart"
    seeds: int = 1
    max_length: int | None = None

    def __post_init__(self) -> None:
        for key, value, allowed in (("pooling", self.pooling, POOLINGS), ("pairs", self.pairs, PAIRS)):
            if value not in allowed:
                raise InputError(f"unknown {key} {value!r}; known: {', '.join(allowed)}")
        if self.seeds < 1:
            raise InputError(f"seeds must be at least 1, got {self.seeds}")


@dataclass(frozen=True)
class ProbeRun:
    """One division of the rows. strength: that which was best on held-out rows."""

    seed: int
    strength: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class ProbeResult:
    """What came out.

    rows, evaluated: how many were learnt from, and how many asked.    width: numbers that a row is described by.
    majority: the accuracy of always giving the most frequent label; None for regression.
    """

    labels: Labels
    rows: int
    evaluated: int
    width: int
    majority: float | None
    runs: tuple[ProbeRun, ...]

    @property
    def means(self) -> dict[str, float]:
        """Each metric as the mean over the runs."""
        return self._over_runs(fmean)

    @property
    def spreads(self) -> dict[str, float]:
        """Each metric's standard deviation over the runs."""
        return self._over_runs(pstdev)

    def _over_runs(self, reduce: Callable[[list[float]], float]) -> dict[str, float]:
        return {name: reduce([run.metrics[name] for run in self.runs]) for name in self.runs[0].metrics}


class FrozenFeatures:
    """Pooled last hidden states of texts and pairs, float32, the same whatever else is in the list.

    The encoder's weights are copied: what becomes of them later does not matter.
    batch_tokens: tokens of one forward; memory against speed.
    """

    def __init__(
        self,
        encoder: Encoder,
        settings: ProbeSettings,
        *,
        device: str = "auto",
        precision: str = "auto",
        batch_tokens: int | None = None,
    ) -> None:
        if batch_tokens is not None and batch_tokens < 1:
            raise InputError(f"batch_tokens must be at least 1, got {batch_tokens}")
        self._tokenizer = tokenizer_of(encoder)
        self._config = encoder.config
        self.settings = settings
        self._longest = _longest(encoder, settings.max_length)
        self._batch_tokens = batch_tokens
        self._placement = place(device, precision)
        self._network = BACKENDS["eager"](encoder.network, self._placement)
        self._streams = Streams(self._placement.device)

    def of(self, examples: Sequence[Example]) -> np.ndarray:
        """[n, width] for texts; pairs as the settings say. Warns of texts that are cut."""
        texts = [example.text for example in examples]
        pairs = [example.text_pair for example in examples if example.text_pair is not None]
        if not pairs:
            return self._states(texts)
        return np.hstack(PAIRS[self.settings.pairs](self._states, texts, pairs))

    def _states(self, texts: list[str], pairs: list[str] | None = None) -> np.ndarray:
        encoded = self._tokenizer.encode(texts, pairs, max_length=self._longest, offsets=False)
        check_types(encoded, self._config)
        warn_of_truncation(cut_lengths(encoded), len(encoded), self._longest)
        rows = torch.empty(len(encoded), self._config.width)

        @torch.inference_mode()
        def work(batch: Batch) -> None:
            last = self._network(batch.tokens, batch.types).last
            rows[list(batch.origin)] = self._pooled(last).cpu()

        device = self._placement.device
        steps = schedule(encoded, work, self._streams, device=device, batch_tokens=self._batch_tokens)
        deque(progress(steps, len(encoded), "texts"), maxlen=0)
        return rows.numpy()

    def _pooled(self, last: Ragged) -> Tensor:
        return pool(Ragged(last.data.float(), last.layout), (self.settings.pooling,))


def _longest(encoder: Encoder, limit: int | None) -> int:
    longest = encoder.config.longest
    if limit is not None and not 1 <= limit <= longest:
        raise InputError(f"max_length must be between 1 and the model's {longest} positions, got {limit}")
    return limit or min(longest, tokenizer_of(encoder).max_length or longest)


def _together(states: Callable[..., np.ndarray], texts: list[str], pairs: list[str]) -> list[np.ndarray]:
    return [states(texts, pairs)]


def _apart(states: Callable[..., np.ndarray], texts: list[str], pairs: list[str]) -> list[np.ndarray]:
    """u, v, |u − v| and u · v (Conneau et al. 2017, arXiv:1705.02364)."""
    u, v = states(texts), states(pairs)
    return [u, v, abs(u - v), u * v]


def _both(states: Callable[..., np.ndarray], texts: list[str], pairs: list[str]) -> list[np.ndarray]:
    return [*_together(states, texts, pairs), *_apart(states, texts, pairs)]


PAIRS: dict[str, Callable[[Callable[..., np.ndarray], list[str], list[str]], list[np.ndarray]]] = {
    "together": _together,
    "apart": _apart,
    "both": _both,
}
"""What a pair is described by: read together as one input, or each text by itself, or both side by side."""


def probe(
    features: FrozenFeatures, train: Sequence[Example], evaluation: Sequence[Example] | None, labels: Labels
) -> ProbeResult:
    """Learn the labels of `train` from frozen features, and ask for those of `evaluation`.

    Features are standardised; the model is logistic regression, or ridge regression for numbers, with that of
    `STRENGTHS` which does best on a fifth of the training rows, then learnt from all of them.
    evaluation: if None, a fifth of `train` is kept aside for it, another one for each seed.

    Raises MissingExtraError without scikit-learn; InputError on labels that `labels` has not, on several labels a row,
    on pairs beside single texts, and on too few rows to be divided.
    """
    need_metrics()
    if labels.kind == "multi":
        raise InputError("the probe learns one label a row, not several")
    _check([*train, *(evaluation or ())], labels)
    rows = _rows(features, train, labels)
    asked = None if evaluation is None else _rows(features, evaluation, labels)
    runs, parts = [], (rows, rows)
    for seed in range(features.settings.seeds):
        parts = rows.divided(f"evaluation {seed}", labels) if asked is None else (rows, asked)
        runs.append(_run(*parts, seed, labels))
    learnt, evaluated = parts
    majority = None if labels.kind == "regression" else _majority(learnt.y, evaluated.y)
    return ProbeResult(labels, len(learnt.y), len(evaluated.y), rows.x.shape[1], majority, tuple(runs))


@dataclass(frozen=True, eq=False)
class _Rows:
    """Features x [n, width] and label numbers or scores y [n] of examples, in an order that depends on them alone."""

    examples: Sequence[Example]
    x: np.ndarray
    y: np.ndarray

    def divided(self, salt: str, labels: Labels) -> tuple[_Rows, _Rows]:
        """Most rows, and a fifth (of each label); which, goes by what they say and the salt."""
        groups = defaultdict(list)
        for i in sorted(range(len(self.y)), key=lambda i: self.examples[i].digest(salt)):
            groups[None if labels.kind == "regression" else self.y[i]].append(i)
        held = {i for group in groups.values() for i in group[: int(HELD_OUT * len(group))]}
        if not held:
            raise InputError(f"{len(self.y)} rows are too few to keep some of each label aside; give more")
        kept = [i for i in range(len(self.y)) if i not in held]
        return self._part(kept), self._part(sorted(held))

    def _part(self, indices: list[int]) -> _Rows:
        return _Rows([self.examples[i] for i in indices], self.x[indices], self.y[indices])


def _rows(features: FrozenFeatures, examples: Sequence[Example], labels: Labels) -> _Rows:
    ordered = sorted(examples, key=lambda example: example.digest("order"))
    y = np.array([labels.number(example) for example in ordered])
    return _Rows(ordered, features.of(ordered), y)


def _check(examples: Sequence[Example], labels: Labels) -> None:
    """Refuse what would fail only after the features are computed."""
    if not examples:
        raise InputError("no rows to learn from")
    paired = examples[0].text_pair is not None
    for example in examples:
        labels.number(example)
        if (example.text_pair is not None) != paired:
            raise InputError(f"{example.place}: {'one text' if paired else 'two texts'}, other than in the rows before")


def _majority(learnt: np.ndarray, evaluated: np.ndarray) -> float:
    names, counts = np.unique(learnt, return_counts=True)
    return float((evaluated == names[counts.argmax()]).mean())


def _run(rows: _Rows, asked: _Rows, seed: int, labels: Labels) -> ProbeRun:
    learner = LEARNERS[labels.kind]
    learnt, held = rows.divided(f"strength {seed}", labels)
    fitted = [learner.fit(learnt.x, learnt.y, strength) for strength in STRENGTHS]
    scores = [learner.score(held.y, model.predict(held.x)) for model in fitted]
    strength = STRENGTHS[int(np.argmax(scores))]  # of equals the first, which holds back most
    model = learner.fit(rows.x, rows.y, strength)
    return ProbeRun(seed, strength, learner.metrics(asked.y, model.predict(asked.x)))


@dataclass(frozen=True)
class _Learner:
    """A linear model: fitted to x, y with a strength; how good its predictions are, to choose by; their metrics."""

    fit: Callable[[np.ndarray, np.ndarray, float], Any]
    score: Callable[[np.ndarray, np.ndarray], float]
    metrics: Callable[[np.ndarray, np.ndarray], dict[str, float]]


def _logistic(x: np.ndarray, y: np.ndarray, strength: float) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=MOST_STEPS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # near enough: what counts is what it says of other rows
        return model.fit(x, y)


def _ridge(x: np.ndarray, y: np.ndarray, strength: float) -> Any:
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), Ridge(alpha=1 / strength)).fit(x, y)


def _correlation(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Matthews': accuracy would choose to say nothing but the most frequent label where labels are uneven."""
    return classification_metrics(truth, predicted)["mcc"]


def _closeness(truth: np.ndarray, predicted: np.ndarray) -> float:
    return -float(np.mean((predicted - truth) ** 2))


LEARNERS = {
    "single": _Learner(_logistic, _correlation, classification_metrics),
    "regression": _Learner(_ridge, _closeness, regression_metrics),
}
