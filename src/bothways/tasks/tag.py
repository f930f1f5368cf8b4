"""token-classification: a label for each token, and entities made of them (Devlin et al. 2018, section 5.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bothways.data.batch import Answers, Batch
from bothways.data.labelled import Labels
from bothways.data.records import some
from bothways.data.tagged import Tagged
from bothways.errors import InputError, meant
from bothways.nn.encoder import EncoderOutput
from bothways.nn.heads import Classifier
from bothways.objectives.objective import Losses, Part
from bothways.ragged import Layout, Ragged
from bothways.tasks.entities import STRATEGIES, Span, entities, first_pieces, is_span_label, joiner, pieces_of
from bothways.tasks.learning import Sample, Weighing
from bothways.tasks.metrics import classification_metrics, entity_metrics
from bothways.tasks.task import Facts, Request, Round, Rounds
from bothways.text.tokenizer import Encoded, as_texts
from bothways.text.windows import Place, Windows, by_text, in_windows, speaking

__all__ = ["TokenClassification"]

OUTSIDE = "O"
"""The label of what is in no entity."""


@dataclass(frozen=True)
class Options:
    """strategy: one of STRATEGIES.    ignored: labels that are left out.    words: of each text; None: tokens."""

    strategy: str = "none"
    ignored: frozenset[str] = frozenset((OUTSIDE,))
    words: Sequence[Sequence[Span]] | None = None


@dataclass(frozen=True)
class _Read:
    """A text as it is read, in windows. places: the row that speaks for each token."""

    windows: list[Encoded]
    places: list[Place]

    @classmethod
    def of(cls, windows: list[Encoded]) -> _Read:
        return cls(windows, speaking(windows))

    def rows(self) -> list[int]:
        """The same, among the rows of all windows laid end to end."""
        starts = [0, *accumulate(map(len, self.windows))]
        return [starts[place.window] + place.row for place in self.places]

    def spans(self) -> list[Span]:
        offsets = [window.offsets for window in self.windows]
        return [offsets[place.window][place.row] for place in self.places]

    def first(self) -> int:
        """How many special tokens stand before the text."""
        return self.places[0].row if self.places else 0


@dataclass(frozen=True)
class TokenClassification:
    """A text gives `[{entity, score, index, word, start, end}, …]`, a token each; with another strategy than "none"
    `[{entity_group, score, word, start, end}, …]`, an entity each.

    `text[start:end]` is what was found, without the space before it that some tokenizers count as a token's own (as
    transformers gives it). Long texts are read in windows; what is said of a token comes from the window in which it
    has most context, and entities are made of the tokens of the whole text.

    Learnt from `data.tagged.Tagged`: a word's label is that of the first token that has a character of it.
    """

    head: str | None = "tag"
    losses: Mapping[str, float] = field(default_factory=lambda: {"tag": 1.0})

    def request(
        self,
        texts: str | Sequence[str],
        *,
        aggregation_strategy: str = "none",
        ignore_labels: Sequence[str] = (OUTSIDE,),
        stride: int | None = None,
        max_length: int | None = None,
        words: Sequence[Any] | None = None,
    ) -> Request:
        """aggregation_strategy: "none" for tokens; "simple" for entities: neighbours of one kind, by B- and I-; with
        "first", "average" and "max", a word has the label of its first token, of its tokens' mean, of the surest one.
        ignore_labels: what is left out, labels or, of entities, their kinds.
        stride: tokens that windows of long texts share; by default a quarter of a window.
        max_length: tokens that a window has at most; by default what the model takes.
        words: of each text, (start, end) of its words; then each gets one answer, {entity, score, start, end}, from its
        first token; one without a token "O", or the first label where there is no "O".

        Raises InputError on an unknown strategy, on numbers that are no counts, and on words that are not in a text.
        """
        if aggregation_strategy not in STRATEGIES:
            hint = meant(str(aggregation_strategy), STRATEGIES, f"; known: {', '.join(STRATEGIES)}")
            raise InputError(f"unknown aggregation_strategy {aggregation_strategy!r:.60}{hint}")
        for name, value in (("stride", stride), ("max_length", max_length)):
            if value is not None and type(value) is not int:
                raise InputError(f"{name} must be a whole number, got {value!r:.60}")
        ignored = as_texts(ignore_labels)
        if not all(isinstance(label, str) for label in ignored):
            raise InputError(f"ignore_labels must be names of labels, got {ignore_labels!r:.60}")
        given, single = as_texts(texts), isinstance(texts, str)
        spans = None
        if words is not None:
            if aggregation_strategy != "none":
                raise InputError("give words, which have an answer each, or an aggregation_strategy, not both")
            spans = _checked_words([words] if single else words, given)
        options = Options(aggregation_strategy, frozenset(ignored), spans)
        return Request(given, single, options=options, windows=Windows(max_length, stride))

    def rooms(self, request: Request, encoded: Sequence[Encoded], facts: Facts) -> Sequence[int]:
        return [0] * len(encoded)

    def check(self, request: Request, encoded: Sequence[Encoded], facts: Facts) -> None:
        """Every text has tokens, if only none."""

    def rounds(self, request: Request, encoded: Sequence[Encoded], facts: Facts) -> Rounds:
        predicted = yield Round(encoded)
        answers = []
        for number, windows in enumerate(by_text(encoded, len(request.texts))):
            read = _Read.of([encoded[i] for i in windows])
            scores = np.concatenate([predicted[i].numpy() for i in windows])
            answers.append(_answer(request, number, read, scores[read.rows()], facts))
        return answers

    def predict(self, output: EncoderOutput, head: nn.Module | None, batch: Batch, asked: None) -> list[Tensor]:
        """Probabilities [tokens, labels] for each sequence."""
        assert head is not None
        return Ragged(head(output.last).float().softmax(-1).cpu(), batch.tokens.layout).unbind()

    # Learning

    def best(self, labels: Labels) -> str:
        return "f1" if _has_spans(labels) else "accuracy"

    def says(self, rows: Sequence[Tagged]) -> Mapping[str, Any]:
        return {}

    def weighs(self, labels: Labels) -> frozenset[str]:
        return frozenset(("smoothing", "class_weights"))

    def labels_of(self, rows: Sequence[Tagged], labels: Labels | None = None) -> Labels:
        """Names sorted, "O" first. A single one is refused unless labels are known."""
        if not rows:
            raise InputError("no rows to learn from")
        if labels is not None:
            known = _known(labels)
            for row in rows:
                _numbers(row, known)
            return labels
        names = sorted({tag for row in rows for tag in _tags(row)}, key=lambda name: (name != OUTSIDE, name))
        if not names:
            raise InputError(f"{rows[0].place}: no words to learn from in {len(rows):,} rows")
        if len(names) == 1:
            words = sum(len(row.words) for row in rows)
            raise InputError(f"{rows[0].place}: all {words:,} words have the tag {names[0]!r:.60}; nothing to learn")
        return Labels("single", tuple(names), "tag")

    def samples(
        self, rows: Sequence[Tagged], labels: Labels, facts: Facts, windows: Windows | None, max_length: int | None
    ) -> list[Sample]:
        """Each word of a row is learnt once, in the window that speaks for it, by its first token.

        `Sample.answer`: (row among those of its sequences, number of the label) of each word that has a token.
        """
        known = _known(labels)
        numbers = [_numbers(row, known) for row in rows]
        texts, how = [row.text for row in rows], _windows(windows, max_length)
        encoded = in_windows(facts.tokenizer, texts, None, how, facts.longest)
        samples = []
        for row, own, mine in zip(rows, numbers, by_text(encoded, len(rows))):
            read = _Read.of([encoded[i] for i in mine])
            rows_of, firsts = read.rows(), first_pieces(read.spans(), row.words)
            answer = tuple((rows_of[token], number) for token, number in zip(firsts, own) if token is not None)
            samples.append(Sample(tuple(read.windows), answer))
        return samples

    def answers(self, samples: Sequence[Sample], layout: Layout) -> Mapping[str, Answers]:
        starts = accumulate(map(len, samples), initial=0)
        learnt = [(start + row, number) for start, sample in zip(starts, samples) for row, number in sample.answer]
        pairs = torch.tensor(learnt, dtype=torch.int64).view(-1, 2)
        return {"tag": Answers(pairs[:, 1].contiguous(), pairs[:, 0].contiguous())}

    def loss(self, output: EncoderOutput, head: nn.Module, batch: Batch, weighing: Weighing) -> Losses:
        answers = batch.labels["tag"]
        assert isinstance(head, Classifier)
        assert answers.rows is not None
        rows = output.last.data.index_select(0, answers.rows)
        weights = None if weighing.classes is None else torch.tensor(weighing.classes, device=rows.device)
        total, correct = head.loss(rows, answers.values, smoothing=weighing.smoothing, weights=weights)
        count = len(answers.values)
        return Losses({"tag": Part(total, count)}, {"accuracy": Part(correct, count)})

    def request_of(self, rows: Sequence[Tagged], windows: Windows | None, max_length: int | None) -> Request:
        options = Options(words=[row.words for row in rows])
        return Request([row.text for row in rows], False, options=options, windows=_windows(windows, max_length))

    def outcome(self, row: Tagged, answer: Any, labels: Labels) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The words' tags, and those that were found."""
        return _tags(row), tuple(word["entity"] for word in answer)

    def metrics(self, outcomes: Sequence[tuple[Sequence[str], Sequence[str]]], labels: Labels) -> dict[str, float]:
        """Of entities what `entity_metrics` gives; of plain tags accuracy and F1 as the mean over those in truth."""
        truth, found = [one for one, _ in outcomes], [one for _, one in outcomes]
        if _has_spans(labels):
            return entity_metrics(truth, found)
        numbers: dict[str, int] = {}
        flat = [np.array([numbers.setdefault(n, len(numbers)) for one in side for n in one]) for side in (truth, found)]
        if not len(flat[0]):
            return {"accuracy": 0.0, "macro_f1": 0.0}
        said = classification_metrics(flat[0], flat[1])
        return {name: said[name] for name in ("accuracy", "macro_f1")}


def _windows(windows: Windows | None, max_length: int | None) -> Windows:
    windows = windows or Windows()
    return windows if windows.length is not None else replace(windows, length=max_length)


def _answer(request: Request, number: int, read: _Read, scores: np.ndarray, facts: Facts) -> list[dict[str, Any]]:
    """What is said of a text. scores: [tokens, labels]."""
    text, options, names = request.texts[number], request.options, facts.labels.names
    if options.words is not None:
        return _of_words(options.words[number], read.spans(), scores, names)
    pieces = pieces_of(text, read.windows, read.places, facts.tokenizer)
    found = entities(text, pieces, scores, names, options.strategy, joiner(facts.tokenizer), read.first())
    key = "entity" if options.strategy == "none" else "entity_group"
    return [one for one in found if one[key] not in options.ignored]


def _of_words(
    words: Sequence[Span], spans: Sequence[Span], scores: np.ndarray, names: Sequence[str]
) -> list[dict[str, Any]]:
    otherwise = OUTSIDE if OUTSIDE in names else names[0]
    answers = []
    for (start, end), token in zip(words, first_pieces(spans, words)):
        name, score = otherwise, 0.0
        if token is not None:
            label = int(scores[token].argmax())
            name, score = names[label], float(scores[token][label])
        answers.append({"entity": name, "score": score, "start": start, "end": end})
    return answers


def _checked_words(words: Sequence[Any], texts: Sequence[str]) -> tuple[tuple[Span, ...], ...]:
    try:
        checked = tuple(tuple((start, end) for start, end in own) for own in words)
    except (TypeError, ValueError):
        raise InputError(f"words must be (start, end) of each word, for each text, got {words!r:.60}") from None
    if len(checked) != len(texts):
        raise InputError(f"{len(texts)} texts need as many lists of words, got {len(checked)}")
    for i, (own, text) in enumerate(zip(checked, texts)):
        for start, end in own if isinstance(text, str) else ():
            if type(start) is not int or type(end) is not int or not 0 <= start < end <= len(text):
                raise InputError(f"text {i}: no word from {start!r:.20} to {end!r:.20} in {len(text)} characters")
    return checked


def _has_spans(labels: Labels) -> bool:
    return any(map(is_span_label, labels.names))


def _tags(row: Tagged) -> tuple[str, ...]:
    if row.tags is None:
        raise InputError(f"{row.place}: no tags")
    if len(row.tags) != len(row.words):
        raise InputError(f"{row.place}: {len(row.words)} words need as many tags, got {len(row.tags)}")
    return row.tags


def _known(labels: Labels) -> dict[str, int]:
    """The number of each name; of equal ones the first."""
    return {name: labels.names.index(name) for name in labels.names}


def _numbers(row: Tagged, known: Mapping[str, int]) -> list[int]:
    """The numbers of a row's tags. Raises InputError, naming its place, on one that is not known."""
    for tag in _tags(row):
        if tag not in known:
            raise InputError(f"{row.place}: unknown tag {tag!r:.60}{meant(tag, known, f'; known are {some(known)}')}")
    return [known[tag] for tag in row.tags or ()]
