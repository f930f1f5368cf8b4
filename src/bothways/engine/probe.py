"""What frozen hidden states know: a linear model learns labels from them (Alain & Bengio 2016, arXiv:1610.01644).

Cheap enough to ask at every checkpoint of a run. Which rows are learnt from, and which regularisation is best, goes by
what the rows say and not by their order; so the same rows in any order, in any batches, give the same numbers.
"""

from __future__ import annotations

import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
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
from bothways.nn.config import EncoderConfig
from bothways.nn.pooling import POOLINGS, pool
from bothways.ragged import Ragged
from bothways.tasks.metrics import classification_metrics, need_metrics, regression_metrics
from bothways.text.tokenizer import cut_lengths, warn_of_truncation

__all__ = ["LAYERS", "PAIRS", "FrozenFeatures", "ProbeResult", "ProbeRun", "ProbeSettings", "probe"]

# How strongly weights are held back, most first: the penalty is divided by it, as in scikit-learn's C.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
HELD_OUT = 0.2
MOST_STEPS = 200
# A linear model has a row of weights for each label, and is fitted several times.
MOST_LABELS = 1000
# Scores further than so many spreads from those that are learnt from could not be squared.
MOST_SPREADS = 1e18


@dataclass(frozen=True)
class ProbeSettings:
    """How to ask.

    pooling: what makes one vector of a text's hidden states, a name in `nn.pooling.POOLINGS`.
    pairs: what is known of a pair, a name in `PAIRS`; if None, "apart", and single texts will do.
    seeds: so many divisions of the rows, each with its own result.
    max_length: tokens a text, or a pair read together, may have; the model's own limit if None.
    layer: whose hidden states: a number, from 0 for the embeddings, or a name in `LAYERS`.
    """

    pooling: str = "mean"
    pairs: str | None = None
    seeds: int = 1
    max_length: int | None = None
    layer: int | str = "last"

    def __post_init__(self) -> None:
        _known("pooling", self.pooling, POOLINGS)
        _known("pairs", self.pairs, (None, *PAIRS))
        if isinstance(self.layer, str):
            _known("layer", self.layer, LAYERS, ", or a number")
        if self.seeds < 1:
            raise InputError(f"seeds must be at least 1, got {self.seeds}")


def _known(key: str, value: str | None, allowed: Iterable[str | None], more: str = "") -> None:
    allowed = tuple(allowed)
    if value not in allowed:
        raise InputError(f"unknown {key} {value!r}; known: {', '.join(filter(None, allowed))}{more}")


@dataclass(frozen=True)
class ProbeRun:
    """One division of the rows. layer, strength: those which were best on held-out rows; layer: None for a mean."""

    seed: int
    layer: int | None
    strength: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class ProbeResult:
    """What came out. Each run has other rows, but as many of each label.

    rows, evaluated: how many were learnt from, and how many asked.    width: numbers that a row is described by.
    asked: of how many labels there were rows to evaluate on; None for regression, and so is
    majority: the accuracy of always giving the most frequent label.
    """

    labels: Labels
    rows: int
    evaluated: int
    width: int
    asked: int | None
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
    """Pooled hidden states of texts and pairs, float32, the same whatever else is in the list.

    The encoder's weights are copied: what becomes of them later does not matter.
    batch_tokens: tokens of one forward; memory against speed.

    layers: the numbers of those whose states are given, to choose from; None for a mean.
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
        self.layers = _layers(settings.layer, len(encoder.config.order))
        _check_pooling(settings.pooling, encoder.config)
        self._longest = _longest(encoder, settings.max_length)
        self._batch_tokens = batch_tokens
        self._placement = place(device, precision)
        self._network = BACKENDS["eager"](encoder.network, self._placement)
        self._streams = Streams(self._placement.device)

    def of(self, examples: Sequence[Example]) -> np.ndarray:
        """[layers, n, width] for texts; pairs as the settings say, and wider. Warns of texts that are cut.

        Raises InputError on single texts where it is said how pairs are read.
        """
        texts = [example.text for example in examples]
        pairs = [example.text_pair for example in examples if example.text_pair is not None]
        if pairs:
            return np.concatenate(PAIRS[self.settings.pairs or "apart"](self._states, texts, pairs), axis=-1)
        if self.settings.pairs is not None:
            raise InputError(f"pairs {self.settings.pairs!r} needs two texts a row; name the column of the second one")
        return self._states(texts)

    def _states(self, texts: list[str], pairs: list[str] | None = None) -> np.ndarray:
        encoded = self._tokenizer.encode(texts, pairs, max_length=self._longest, offsets=False)
        check_types(encoded, self._config)
        warn_of_truncation(cut_lengths(encoded), len(encoded), self._longest)
        rows = torch.empty(len(self.layers), len(encoded), self._config.width)

        @torch.inference_mode()
        def work(batch: Batch) -> None:
            for i, states in enumerate(self._chosen(batch)):
                rows[i, list(batch.origin)] = self._pooled(Ragged(states, batch.tokens.layout)).cpu()

        device = self._placement.device
        steps = schedule(encoded, work, self._streams, device=device, batch_tokens=self._batch_tokens)
        deque(progress(steps, len(encoded), "texts"), maxlen=0)
        return rows.numpy()

    def _chosen(self, batch: Batch) -> Sequence[Tensor]:
        """The hidden states [T, width] of each of `layers`."""
        if self.layers == (len(self._config.order),):
            return (self._network(batch.tokens, batch.types).last.data,)
        states = self._network(batch.tokens, batch.types, keep=True).hidden_states or ()
        return [_mean(states) if layer is None else states[layer] for layer in self.layers]

    def _pooled(self, hidden: Ragged) -> Tensor:
        return pool(Ragged(hidden.data.float(), hidden.layout), (self.settings.pooling,))


LAYERS: dict[str, Callable[[int], tuple[int | None, ...]]] = {
    "last": lambda depth: (depth,),
    "mean": lambda depth: (None,),
    "best": lambda depth: tuple(range(depth + 1)),
}
"""Names in place of a layer's number: the last one, the mean of all hidden states, the embeddings' too, and that which
does best on held-out training rows (Liu et al. 2019, arXiv:1903.08855: it is seldom the last)."""


def _layers(layer: int | str, depth: int) -> tuple[int | None, ...]:
    if isinstance(layer, str):
        return LAYERS[layer](depth)
    if not 0 <= layer <= depth:
        raise InputError(f"layer must be between 0 (the embeddings) and the model's {depth}, got {layer}")
    return (layer,)


def _mean(states: Sequence[Tensor]) -> Tensor:
    return torch.stack([one.float() for one in states]).mean(0)


def _check_pooling(pooling: str, config: EncoderConfig) -> None:
    if pooling == "cls" and config.causal:
        raise InputError(
            "pooling 'cls' takes the first token, which in a causal model has seen no other; try mean or lasttoken"
        )


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
    `STRENGTHS` (and that layer) which does best on a fifth of the training rows, then learnt from all of them.
    evaluation: if None, a fifth of `train` is kept aside for it, another one for each seed. If there is one, all of
    `train` is learnt from each time, and a seed changes nothing but the rows that the choice is made on.

    Raises MissingExtraError without scikit-learn; InputError on labels that `labels` has not, on several labels a row
    or more than can be learnt, on pairs beside single texts, on too few rows to be divided, and on scores that are too
    large to be computed with.
    """
    need_metrics()
    _check_labels(labels)
    _check(train, evaluation or (), labels)
    numbers = _numbers(train, labels)
    rows = _rows(features, train, labels, numbers)
    asked = None if evaluation is None else _rows(features, evaluation, labels, numbers)
    divisions = [
        rows.divided(f"evaluation {seed}", labels) if asked is None else (rows, asked)
        for seed in range(features.settings.seeds)
    ]
    runs = [_run(*parts, seed, labels, features.layers) for seed, parts in enumerate(divisions)]
    learnt, evaluated = divisions[0]
    single = labels.kind == "single"
    return ProbeResult(
        labels,
        rows=len(learnt.y),
        evaluated=len(evaluated.y),
        width=rows.x.shape[-1],
        asked=len(set(evaluated.y)) if single else None,
        majority=_majority(learnt.y, evaluated.y) if single else None,
        runs=tuple(runs),
    )


@dataclass(frozen=True, eq=False)
class _Rows:
    """Features x [layers, n, width] and label numbers or scores y [n] of examples, in an order that depends on them
    alone."""

    examples: Sequence[Example]
    x: np.ndarray
    y: np.ndarray

    def divided(self, salt: str, labels: Labels) -> tuple[_Rows, _Rows]:
        """Most rows, and a fifth (of each label, at least one row where there are two); which, goes by what they say
        and the salt."""
        groups = defaultdict(list)
        for i in sorted(range(len(self.y)), key=lambda i: self.examples[i].digest(salt)):
            groups[None if labels.kind == "regression" else self.y[i]].append(i)
        held = {i for group in groups.values() for i in group[: _held(len(group))]}
        if not held:
            raise InputError(f"{len(self.y)} rows are too few to keep some of each label aside; give more")
        kept = [i for i in range(len(self.y)) if i not in held]
        return self._part(kept), self._part(sorted(held))

    def _part(self, indices: list[int]) -> _Rows:
        return _Rows([self.examples[i] for i in indices], self.x[:, indices], self.y[indices])


def _held(count: int) -> int:
    return max(1, int(HELD_OUT * count)) if count > 1 else 0


def _rows(features: FrozenFeatures, examples: Sequence[Example], labels: Labels, learnt: np.ndarray) -> _Rows:
    ordered = sorted(examples, key=lambda example: example.digest("order"))
    y = LEARNERS[labels.kind].answers(_numbers(ordered, labels), learnt)
    return _Rows(ordered, features.of(ordered), y)


def _numbers(examples: Sequence[Example], labels: Labels) -> np.ndarray:
    return np.array([labels.number(example) for example in examples])


def _check_labels(labels: Labels) -> None:
    if labels.kind == "multi":
        raise InputError("the probe learns one label a row, not several")
    if len(labels.names) > MOST_LABELS:
        raise InputError(
            f"column {labels.column!r}: {len(labels.names):,} labels are more than the {MOST_LABELS:,} that a probe "
            "learns; scores are learnt with --kind regression"
        )


def _check(train: Sequence[Example], evaluation: Sequence[Example], labels: Labels) -> None:
    """Refuse what would fail only after the features are computed."""
    if not train:
        raise InputError("no rows to learn from")
    examples, paired = [*train, *evaluation], train[0].text_pair is not None
    LEARNERS[labels.kind].answers(_numbers(examples, labels), _numbers(train, labels))
    for example in examples:
        if (example.text_pair is not None) != paired:
            raise InputError(f"{example.place}: {'one text' if paired else 'two texts'}, other than in the rows before")


def _majority(learnt: np.ndarray, evaluated: np.ndarray) -> float:
    names, counts = np.unique(learnt, return_counts=True)
    return float((evaluated == names[counts.argmax()]).mean())


def _run(rows: _Rows, asked: _Rows, seed: int, labels: Labels, layers: Sequence[int | None]) -> ProbeRun:
    learner = LEARNERS[labels.kind]
    learnt, held = rows.divided(f"strength {seed}", labels)
    candidates = list(product(range(len(layers)), STRENGTHS))
    scores = []
    for i, strength in candidates:
        model = learner.fit(learnt.x[i], learnt.y, strength)
        scores.append(learner.score(held.y, model.predict(held.x[i])))
    i, strength = candidates[int(np.argmax(scores))]  # of equals the first, which holds back most
    model = learner.fit(rows.x[i], rows.y, strength)
    return ProbeRun(seed, layers[i], strength, learner.metrics(asked.y, model.predict(asked.x[i])))


@dataclass(frozen=True)
class _Learner:
    """A linear model: fitted to x, y with a strength; how good its predictions are, to choose by; their metrics.

    answers: label numbers or scores, and those that are learnt from, to the y of the former.
    """

    answers: Callable[[np.ndarray, np.ndarray], np.ndarray]
    fit: Callable[[np.ndarray, np.ndarray, float], Any]
    score: Callable[[np.ndarray, np.ndarray], float]
    metrics: Callable[[np.ndarray, np.ndarray], dict[str, float]]


def _as_they_are(numbers: np.ndarray, learnt: np.ndarray) -> np.ndarray:
    return numbers


def _standardised(scores: np.ndarray, learnt: np.ndarray) -> np.ndarray:
    """Scores in spreads from the mean of those learnt from; what is fitted to them computes in float32, as x is.

    No metric changes by that.
    """
    learnt = np.sort(learnt)  # in another order, their sum has other last bits
    with np.errstate(all="ignore"):
        spread = learnt.std()
        found = (scores - learnt.mean()) / spread
    if not (spread < np.inf and (abs(found) < MOST_SPREADS).all()):
        raise InputError(
            f"scores from {scores.min():g} to {scores.max():g} cannot be computed with beside those that are learnt "
            f"from, {learnt[0]:g} to {learnt[-1]:g}; scale them"
        )
    return found


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
    "single": _Learner(_as_they_are, _logistic, _correlation, classification_metrics),
    "regression": _Learner(_standardised, _ridge, _closeness, regression_metrics),
}
