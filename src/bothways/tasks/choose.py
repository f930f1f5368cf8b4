"""multiple-choice: which of several choices a question is best answered with, or a text best goes on with (Devlin et
al. 2018, section 4.4). Each choice is read as a pair with the question, and has one score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bothways.data.batch import Answers, Batch
from bothways.data.choices import Choice
from bothways.data.labelled import Labels
from bothways.errors import InputError
from bothways.nn.encoder import EncoderOutput
from bothways.nn.heads import Classifier
from bothways.nn.losses import segment_cross_entropy
from bothways.objectives.objective import Losses, Part
from bothways.ragged import Layout
from bothways.tasks.learning import Sample, Weighing
from bothways.tasks.task import Facts, Request, Round, Rounds
from bothways.text.tokenizer import Encoded, Tokenizer
from bothways.text.windows import Windows

__all__ = ["ChoiceOutcome", "MultipleChoice"]

LOSS = "choose"
FEWEST = 2


@dataclass(frozen=True)
class Options:
    """counts: how many choices each question has; they stand one after another in the request."""

    counts: Sequence[int]


class ChoiceOutcome(NamedTuple):
    """Which choice was right, which was taken, and the probabilities fp32 [choices]."""

    truth: int
    taken: int
    scores: np.ndarray


@dataclass(frozen=True)
class MultipleChoice:
    """A question with its choices gives `{label, scores}`: the number of the best choice, from 0, and the probability
    of each; a list of questions, each with choices of its own, a list of those.
    """

    head: str | None = "choose"

    def request(
        self,
        question: str | Sequence[str],
        choices: Sequence[str] | Sequence[Sequence[str]],
        *,
        max_length: int | None = None,
    ) -> Request:
        """question: one, or a list.    choices: at least two texts; a list of such lists for a list of questions.

        max_length: tokens of a question with a choice; by default what the model takes. What is too long is cut, with a
        TruncationWarning: the end of the question first; only where a choice alone has no room, the choice too.

        Raises InputError on anything else.
        """
        if max_length is not None and (type(max_length) is not int or max_length < 1):
            raise InputError(f"max_length must be a whole number of at least 1, got {max_length!r}")
        single = isinstance(question, str)
        questions = [question] if single else _listed(question, "a question or a list of questions")
        every = [choices] if single else _listed(choices, "a list of choices for each question")
        if len(every) != len(questions):
            raise InputError(f"{len(questions)} questions need as many lists of choices, got {len(every)}")
        checked = [_checked(one, own, number) for number, (one, own) in enumerate(zip(questions, every))]
        return _request(checked, single, max_length)

    def rooms(self, request: Request, encoded: Sequence[Encoded], facts: Facts) -> Sequence[int]:
        return [0] * len(encoded)

    def check(self, request: Request, encoded: Sequence[Encoded], facts: Facts) -> None:
        """Every question has a choice that is best."""

    def rounds(self, request: Request, encoded: Sequence[Encoded], facts: Facts) -> Rounds:
        scores = yield Round(encoded)
        return [_answer(scores[own]) for own in _parts(request.options.counts)]

    def predict(self, output: EncoderOutput, head: nn.Module | None, batch: Batch, asked: Any) -> Sequence[Tensor]:
        """The score of each pair, a number in fp32."""
        assert head is not None
        return list(head(output.last)[:, 0].float().cpu())

    # How it is learnt

    @property
    def losses(self) -> Mapping[str, float]:
        """choose: cross-entropy over the choices of each question."""
        return {LOSS: 1.0}

    def best(self, labels: Labels) -> str:
        return "accuracy"

    def says(self, rows: Sequence[Choice]) -> Mapping[str, Any]:
        return {}

    def weighs(self, labels: Labels) -> frozenset[str]:
        return frozenset()

    def labels_of(self, rows: Sequence[Choice], labels: Labels | None = None) -> Labels:
        """None that have names: a choice is told by its number."""
        if not rows:
            raise InputError("no questions with choices")
        for row in rows:
            _truth(row)
        return Labels("single")

    def samples(
        self, rows: Sequence[Choice], labels: Labels, facts: Facts, windows: Windows | None, max_length: int | None
    ) -> list[Sample]:
        _check_cut(windows)
        answers = [_truth(row) for row in rows]
        encoded = _read(_request([(row.question, row.choices) for row in rows], False, max_length), facts)
        parts = [tuple(encoded[own]) for own in _parts([len(row.choices) for row in rows])]
        return [Sample(part, answer, sum(e.dropped for e in part)) for part, answer in zip(parts, answers)]

    def answers(self, samples: Sequence[Sample], layout: Layout) -> Mapping[str, Answers]:
        first = accumulate((len(sample.sequences) for sample in samples), initial=0)
        rows = torch.tensor([layout.starts[i] for i, _ in zip(first, samples)], dtype=torch.int64)
        return {LOSS: Answers(torch.tensor([sample.answer for sample in samples], dtype=torch.int64), rows)}

    def loss(self, output: EncoderOutput, head: nn.Module, batch: Batch, weighing: Weighing) -> Losses:
        """Raises InputError on smoothing and class weights, which are for labels."""
        assert isinstance(head, Classifier)
        assert batch.groups is not None
        if weighing.smoothing or weighing.classes is not None:
            raise InputError("label smoothing and class weights are for labels, not for choices; leave them out")
        truth = batch.labels[LOSS].values
        total, right = segment_cross_entropy(head.scores(output.last)[:, 0], batch.groups, truth)
        return Losses({LOSS: Part(total, len(truth))}, {"accuracy": Part(right, len(truth))})

    def request_of(self, rows: Sequence[Choice], windows: Windows | None, max_length: int | None) -> Request:
        _check_cut(windows)
        return _request([(row.question, row.choices) for row in rows], False, max_length)

    def outcome(self, row: Choice, answer: Mapping[str, Any], labels: Labels) -> ChoiceOutcome:
        return ChoiceOutcome(_truth(row), answer["label"], np.array(answer["scores"], dtype=np.float32))

    def metrics(self, outcomes: Sequence[ChoiceOutcome], labels: Labels) -> dict[str, float]:
        """accuracy. Raises InputError where there is nothing to measure, or where scores are no numbers."""
        if not outcomes:
            raise InputError("no questions to measure")
        wrong = sum(not np.isfinite(outcome.scores).all() for outcome in outcomes)
        if wrong:
            raise InputError(f"the model's scores of {wrong:,} of {len(outcomes):,} questions are no numbers")
        return {"accuracy": sum(outcome.truth == outcome.taken for outcome in outcomes) / len(outcomes)}


def _answer(scores: Sequence[Tensor]) -> dict[str, Any]:
    probabilities = torch.stack(list(scores)).softmax(0).tolist()
    return {"label": probabilities.index(max(probabilities)), "scores": probabilities}


def _parts(counts: Sequence[int]) -> list[slice]:
    """Where so many choices each are among those of all questions."""
    ends = list(accumulate(counts, initial=0))
    return [slice(start, end) for start, end in pairwise(ends)]


# What is asked


def _request(asked: Sequence[tuple[str, Sequence[str]]], single: bool, max_length: int | None) -> Request:
    """Questions with their choices."""
    questions = [question for question, choices in asked for _ in choices]
    pairs = list(chain.from_iterable(choices for _, choices in asked))
    options = Options([len(choices) for _, choices in asked])
    return Request(questions, single, pairs, options, max_length=max_length, read=_read)


def _listed(given: Any, wanted: str) -> list[Any]:
    if not isinstance(given, (list, tuple)):
        raise InputError(f"{wanted} was expected, not {type(given).__name__}: {given!r:.60}")
    return list(given)


def _checked(question: Any, choices: Any, number: int) -> tuple[str, list[str]]:
    if not isinstance(question, str):
        raise InputError(f"question {number} is not a string but {type(question).__name__}: {question!r:.60}")
    if not isinstance(choices, (list, tuple)):
        kind = type(choices).__name__
        raise InputError(f"the choices of question {number} are not a list but {kind}: {choices!r:.60}")
    for place, choice in enumerate(choices):
        if not isinstance(choice, str):
            kind = type(choice).__name__
            raise InputError(f"choice {place} of question {number} is not a string but {kind}: {choice!r:.60}")
    if len(choices) < FEWEST:
        raise InputError(f"question {number} has {len(choices)} of the choices that it needs, at least {FEWEST}")
    return question, list(choices)


def _check_cut(windows: Windows | None) -> None:
    if windows is not None:
        raise InputError("questions with choices are not read in windows; leave windows and stride out")


def _truth(row: Choice) -> int:
    """The number of the right choice. Raises InputError, naming the row, where it has none."""
    if len(row.choices) < FEWEST:
        raise InputError(f"{row.place}: {len(row.choices)} of the choices that it needs, at least {FEWEST}")
    if row.label is None:
        raise InputError(f"{row.place}: no label that says which choice is right")
    if not 0 <= row.label < len(row.choices):
        raise InputError(f"{row.place}: choice {row.label} is right, but there are {len(row.choices)}, counted from 0")
    return row.label


# Tokens


def _read(request: Request, facts: Facts) -> list[Encoded]:
    """Pairs of question and choice. Where one is too long, its question is cut; the choice, too, only if it would
    leave no token of the question."""
    tokenizer, longest = facts.tokenizer, request.max_length or facts.longest
    if longest > facts.longest:
        raise InputError(f"max_length must be between 1 and the model's {facts.longest} positions, got {longest}")
    questions, choices = request.texts, request.pairs or []
    encoded = tokenizer.encode(questions, choices, max_length=longest)
    long = [i for i, one in enumerate(encoded) if one.dropped]
    room = longest - tokenizer.backend.num_special_tokens_to_add(True)
    own = _lengths(tokenizer, [choices[i] for i in long])
    fitting = [i for i, tokens in zip(long, own) if tokens < room]
    cut = tokenizer.encode(
        [questions[i] for i in fitting],
        [choices[i] for i in fitting],
        max_length=longest,
        strategy="only_first",
    )
    for i, one in zip(fitting, cut):
        encoded[i] = one
    return encoded


def _lengths(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """Tokens of each text by itself, without special ones."""
    special = tokenizer.backend.num_special_tokens_to_add(False)
    return [len(one) - special for one in tokenizer.encode(texts, offsets=False)]
