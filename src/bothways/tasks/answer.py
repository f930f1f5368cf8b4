"""question-answering: where in a context the answer to a question is (Devlin et al. 2018, sections 4.2 and 4.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import nn

from bothways.data.batch import Answers, Batch
from bothways.data.labelled import Labels
from bothways.data.questions import Question
from bothways.errors import ConfigError, InputError
from bothways.nn.encoder import EncoderOutput
from bothways.nn.losses import segment_cross_entropy
from bothways.objectives.objective import Losses, Part
from bothways.ragged import Layout, Ragged
from bothways.tasks.contexts import Reading
from bothways.tasks.learning import Sample, Weighing
from bothways.tasks.metrics import Marks, best_null_threshold, marked, mean_marks
from bothways.tasks.spans import NONE, Span, best_spans, null_score, rows_of
from bothways.tasks.task import Facts, Request, Round, Rounds
from bothways.text.tokenizer import Encoded, as_texts
from bothways.text.windows import Windows, by_text

__all__ = ["NULL_THRESHOLD", "Answered", "Outcome", "QuestionAnswering"]

NULL_THRESHOLD = "null_threshold"
"""The key of a model's config with the odds from which on a question counts as one without an answer."""

LABELS = Labels("single", (), "answers")  # which have no names
ENDS = 2
# Likelihoods as small as this are as good as none; odds stay numbers that a file can have.
LEAST = 1e-300
NOWHERE: Mapping[str, Any] = {"start": 0, "end": 0, "answer": ""}


@dataclass(frozen=True)
class Options:
    """impossible: whether there may be no answer; None: as the model's config says.    places: what to call each input.

    scored: whether `Answered` is wanted.
    """

    top_k: int
    longest: int
    impossible: bool | None
    reading: Reading
    places: tuple[str, ...]
    scored: bool = False


class Answered(NamedTuple):
    """What there is to say of a question, for metrics.

    text: the answer, "" for none.    best: the best answer that is one.    odds: of none against that; None where the
    model has no way to say it.    score: of text, as the pipeline gives it.
    """

    text: str
    best: str
    odds: float | None
    score: float


class Outcome(NamedTuple):
    """How good an answer is, and how good the best one that is none of "there is none"."""

    marks: Marks
    best: Marks
    odds: float | None
    answerable: bool


@dataclass(frozen=True)
class QuestionAnswering:
    """A question and a context give `{score, start, end, answer}`; several, or `top_k` over 1, a list of those.

    `answer` is `context[start:end]`, without blanks around it; its score is the probability that it begins where it
    does times the probability that it ends where it does, among the tokens of one window's context and [CLS].
    """

    head: str | None = "answer"

    def request(
        self,
        inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        *,
        question: str | Sequence[str] | None = None,
        context: str | Sequence[str] | None = None,
        top_k: int = 1,
        doc_stride: int | None = None,
        max_seq_len: int = 384,
        max_question_len: int = 64,
        max_answer_len: int = 15,
        handle_impossible_answer: bool | None = None,
    ) -> Request:
        """question, context: one or several of each; one of either goes with all of the other.

        inputs: the same as `{"question": …, "context": …}`, or a list of those.
        top_k: how many answers, best first; fewer where the context has no more.
        max_seq_len: tokens of a window at most; a context that needs more is read in several, and no window is longer
        than the model takes.    doc_stride: tokens that a window shares with the one before; by default 128, or half
        the room beside the question where that is less.
        max_question_len: tokens of a question; a longer one is cut, with a TruncationWarning.
        max_answer_len: tokens of an answer.
        handle_impossible_answer: whether "" (start and end 0) is an answer, too, with the score of [CLS] in the window
        where that is lowest. By default as the model's config says: where it has a `null_threshold`. "" comes before
        an answer if its score is more than so many times the other's; more than once, if the config says nothing.

        Raises InputError, naming it by its number, on an input that is no text, is empty or does not fit, on numbers
        that are no counts, and on lists of different lengths.
        """
        for name, value, least in (
            ("top_k", top_k, 1),
            ("max_seq_len", max_seq_len, 1),
            ("max_question_len", max_question_len, 1),
            ("max_answer_len", max_answer_len, 1),
            ("doc_stride", 0 if doc_stride is None else doc_stride, 0),
        ):
            if type(value) is not int or value < least:
                raise InputError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if handle_impossible_answer not in (None, True, False):
            raise InputError(f"handle_impossible_answer must be True or False, got {handle_impossible_answer!r}")
        questions, contexts, single = _asked(inputs, question, context)
        options = Options(
            top_k,
            max_answer_len,
            handle_impossible_answer,
            Reading(max_seq_len, doc_stride, max_question_len),
            tuple(f"input {i}" for i in range(len(questions))),
        )
        return Request(questions, single, contexts, options, read=_read)

    def rooms(self, request: Request, encoded: Sequence[Encoded], facts: Facts) -> Sequence[int]:
        return [0] * len(encoded)

    def check(self, request: Request, encoded: Sequence[Encoded], facts: Facts) -> None:
        if _impossible(request.options, facts) and encoded and not _has_null(encoded[0], facts):
            raise InputError("this model's tokenizer puts no [CLS] first, which could say that there is no answer")

    def rounds(self, request: Request, encoded: Sequence[Encoded], facts: Facts) -> Rounds:
        scores = yield Round(encoded)
        answers: list[Any] = []
        for text, windows in enumerate(by_text(encoded, len(request.texts))):
            assert request.pairs is not None
            own = [encoded[i] for i in windows], [scores[i] for i in windows]
            answers.append(_answer(*own, request.pairs[text], request.options, facts))
        return answers

    def predict(self, output: EncoderOutput, head: nn.Module | None, batch: Batch, asked: None) -> list[NDArray[Any]]:
        """[tokens, 2] of each sequence: scores of being the answer's first token, and its last."""
        assert head is not None
        scores = Ragged(head(output.last).float().cpu(), batch.tokens.layout)
        return [rows.numpy() for rows in scores.unbind()]

    # How it is learnt

    @property
    def losses(self) -> Mapping[str, float]:
        return {"answer": 1.0}

    def best(self, labels: Labels) -> str:
        return "f1"

    def says(self, rows: Sequence[Question]) -> Mapping[str, Any]:
        """Where some have no answer, that "there is none" is one: from even odds on, until they are tuned."""
        return {NULL_THRESHOLD: 1.0} if any(row.answers == () for row in rows) else {}

    def weighs(self, labels: Labels) -> frozenset[str]:
        return frozenset()

    def labels_of(self, rows: Sequence[Question], labels: Labels | None = None) -> Labels:
        """None that have names: an answer is told by where it begins and ends. Raises InputError on a row of which the
        answer is not known, and where none has one."""
        if not rows:
            raise InputError("no rows to learn from")
        for row in rows:
            _golds(row)
        if labels is None and not any(map(_golds, rows)):
            raise InputError(f"{rows[0].place}: none of {len(rows):,} questions has an answer")
        if labels is not None and labels.names and len(labels.names) != ENDS:
            raise InputError(f"an answer has a start and an end, but the model has {len(labels.names)} labels")
        return labels or LABELS

    def samples(
        self,
        rows: Sequence[Question],
        labels: Labels,
        facts: Facts,
        windows: Windows | None,
        max_length: int | None,
    ) -> list[Sample]:
        """answer: the rows of the first answer's ends in each window; the first row where that is not all in it."""
        places = [row.place for row in rows]
        read = _reading(windows, max_length)([r.question for r in rows], [r.context for r in rows], places, facts)
        return [Sample(tuple(one.windows), _targets(row, one.windows, facts), one.cut) for row, one in zip(rows, read)]

    def answers(self, samples: Sequence[Sample], layout: Layout) -> Mapping[str, Answers]:
        """values: int64 [sequences, 2], rows counted from each sequence's first."""
        values = [ends for sample in samples for ends in sample.answer]
        rows = torch.tensor(layout.starts, dtype=torch.int64, device=layout.device)
        return {"answer": Answers(torch.tensor(values, dtype=torch.int64).view(-1, 2), rows)}

    def loss(self, output: EncoderOutput, head: nn.Module, batch: Batch, weighing: Weighing) -> Losses:
        """The mean of the cross-entropies of an answer's start and of its end, among all rows of a sequence; smoothing
        and classes are of labels, which there are none of."""
        gold = batch.labels["answer"].values
        ends = head(output.last).T.contiguous()
        layout = output.last.layout
        (start, starts), (end, right) = (segment_cross_entropy(ends[i], layout, gold[:, i]) for i in (0, 1))
        return Losses(
            {"answer": Part((start + end) / 2, len(gold))}, {"accuracy": Part((starts + right) / 2, len(gold))}
        )

    def request_of(self, rows: Sequence[Question], windows: Windows | None, max_length: int | None) -> Request:
        impossible = True if any(row.answers == () for row in rows) else None
        places = tuple(row.place for row in rows)
        reading = _reading(windows, max_length)
        request = self.request(
            question=[row.question for row in rows],
            context=[row.context for row in rows],
            handle_impossible_answer=impossible,
        )
        return replace(request, options=replace(request.options, reading=reading, places=places, scored=True))

    def outcome(self, row: Question, answer: Answered, labels: Labels) -> Outcome:
        golds = _golds(row)
        return Outcome(marked(answer.text, golds), marked(answer.best, golds), answer.odds, bool(golds))

    def metrics(self, outcomes: Sequence[Outcome], labels: Labels) -> dict[str, float]:
        """em and f1, from 0 to 1. With questions that have no answer also has_answer_f1 and no_answer_f1, those of each
        kind (and em); best_f1, were all answers of which `odds` are above best_threshold held back."""
        answerable = [one.answerable for one in outcomes]
        found = mean_marks([one.marks for one in outcomes], answerable)
        odds = [one.odds for one in outcomes if one.odds is not None]
        if all(answerable) or len(odds) < len(outcomes):
            return found
        best, threshold = best_null_threshold([one.best.f1 for one in outcomes], odds, answerable)
        return {**found, "best_threshold": threshold, "best_f1": best}


def _asked(inputs: Any, question: Any, context: Any) -> tuple[list[str], list[str], bool]:
    """Questions, contexts as many, and whether one input was given."""
    if inputs is not None:
        if question is not None or context is not None:
            raise InputError("give inputs, or question and context, not both")
        if not isinstance(inputs, Mapping):
            return _from_mappings(inputs)
        question, context = _both(inputs, "the input")
    if question is None or context is None:
        absent = "question" if question is None else "context"
        raise InputError(f"a question and a context are needed (texts, or lists of them); {absent} is NoneType")
    questions, contexts = as_texts(question), as_texts(context)
    if isinstance(question, str) and not isinstance(context, str):
        questions = questions * len(contexts)
    if isinstance(context, str):
        contexts = contexts * len(questions)
    if len(questions) != len(contexts):
        raise InputError(f"{len(questions)} questions need as many contexts, or one for all, got {len(contexts)}")
    return questions, contexts, isinstance(question, str) and isinstance(context, str)


def _from_mappings(inputs: Any) -> tuple[list[str], list[str], bool]:
    if isinstance(inputs, (str, bytes)) or not hasattr(inputs, "__iter__"):
        raise InputError(f"a question and a context were expected, or dicts with both, not {type(inputs).__name__}")
    both = [_both(one, f"input {i}") for i, one in enumerate(inputs)]
    return [question for question, _ in both], [context for _, context in both], False


def _both(one: Any, place: str) -> tuple[Any, Any]:
    if not isinstance(one, Mapping):
        raise InputError(f"{place} must be a dict with a question and a context, not {type(one).__name__}: {one!r:.60}")
    for name in ("question", "context"):
        if name not in one:
            raise InputError(f"{place} has no {name}; it has {', '.join(map(str, one)) or 'nothing'}")
    return one["question"], one["context"]


def _read(request: Request, facts: Facts) -> list[Encoded]:
    assert request.pairs is not None
    read = request.options.reading(request.texts, request.pairs, request.options.places, facts)
    return [window for one in read for window in one.windows]


def _reading(windows: Windows | None, max_length: int | None) -> Reading:
    """How rows are read in training and evaluation."""
    usual = Reading() if max_length is None else Reading(max_length)
    return usual if windows is None else replace(usual, length=windows.length or usual.length, stride=windows.stride)


def _impossible(options: Options, facts: Facts) -> bool:
    return NULL_THRESHOLD in facts.extras if options.impossible is None else options.impossible


def _has_null(window: Encoded, facts: Facts) -> bool:
    """Whether the first row is [CLS], which stands for no answer."""
    return window.sequences[0] is None and window.ids[0] == facts.tokenizer.id_of("cls")


def _threshold(facts: Facts) -> float:
    value = facts.extras.get(NULL_THRESHOLD, 1.0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (value >= 0 and math.isfinite(value)):
        raise ConfigError(f"{NULL_THRESHOLD} must be a number of at least 0, got {value!r:.80}")
    return float(value)


def _answer(
    windows: list[Encoded], scores: list[NDArray[Any]], context: str, options: Options, facts: Facts
) -> dict[str, Any] | list[dict[str, Any]] | Answered:
    """What is said of one input."""
    null = _has_null(windows[0], facts)
    spans = best_spans(windows, scores, context, null=null, count=options.top_k, longest=options.longest)
    if not spans:
        place = options.places[windows[0].text]
        raise InputError(f"{place}: nothing in the context can be an answer, since its tokens have no characters")
    none = null_score(windows, scores) if null else 0.0
    above = _threshold(facts) if null and _impossible(options, facts) else math.inf
    rank = next((i for i, span in enumerate(spans) if _odds(none, span) > above), len(spans))
    if options.scored:
        best = context[spans[0].start : spans[0].end]
        text, score = ("", none) if rank == 0 else (best, spans[0].score)
        return Answered(text, best, _odds(none, spans[0]) if null else None, score)
    shown = [{"score": score, "start": start, "end": end, "answer": context[start:end]} for score, start, end in spans]
    if above < math.inf:
        shown.insert(rank, {"score": none, **NOWHERE})
    return shown[0] if options.top_k == 1 else shown[: options.top_k]


def _odds(none: float, span: Span) -> float:
    """How many times as likely as the span it is that there is no answer."""
    return none / max(span.score, LEAST)


def _golds(row: Question) -> tuple[str, ...]:
    """The texts that count as right; none where the context has no answer."""
    if row.answers is None:
        raise InputError(f"{row.place}: no answers are given, not even that there are none")
    return tuple(text for _, text in row.answers)


def _targets(row: Question, windows: Sequence[Encoded], facts: Facts) -> list[tuple[int, int]]:
    """Where the first answer begins and ends in each window."""
    if not _golds(row):
        if not _has_null(windows[0], facts):
            raise InputError(
                f"{row.place}: the question has no answer, but this model's tokenizer puts no [CLS] first to say so"
            )
        return [NONE] * len(windows)
    assert row.answers is not None
    start, text = row.answers[0]
    found = rows_of(windows, start, start + len(text))
    if found is None:
        raise InputError(f"{row.place}: no token has any of the answer's characters: {text!r:.60} at {start}")
    return found
