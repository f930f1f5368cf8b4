"""A model with a head, judged on labelled rows: metrics, each label by itself, calibration, thresholds, mistakes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np

from bothways.data.choices import Choice
from bothways.data.labelled import Example, Labels
from bothways.data.questions import Question
from bothways.data.tagged import Tagged
from bothways.engine import evaluation
from bothways.engine.calibration import Calibration
from bothways.engine.evaluation import Reading, evaluated, need_metrics_of
from bothways.engine.mistakes import Mistake, Worst
from bothways.engine.pipeline import Pipeline
from bothways.tasks.answer import Answered, QuestionAnswering
from bothways.tasks.choose import MultipleChoice
from bothways.tasks.classify import Outcome, TextClassification
from bothways.tasks.entities import is_span_label
from bothways.tasks.learning import Learnable
from bothways.tasks.metrics import (
    LabelScore,
    best_thresholds,
    confusion_matrix,
    label_scores,
    marked,
    multi_metrics,
)
from bothways.tasks.tag import TokenClassification

__all__ = ["Confusion", "Report", "Tuned", "judged"]

ENDS = Labels("single", ("start", "end"), "answers")


class Tuned(NamedTuple):
    """The threshold with the best F1 of a label on the rows it was tuned on; and the label's F1 as it is now."""

    label: str
    threshold: float
    f1: float
    tuned_f1: float


class Confusion(NamedTuple):
    """counts: int [labels, labels], how many of each label (down) got each label (across)."""

    names: tuple[str, ...]
    counts: np.ndarray


@dataclass(frozen=True, eq=False)
class Report:
    """What came out.

    metrics: of the whole file.    table: each label or kind of entity.    confusion: of single labels and plain tags.
    calibration: None where answers have no probabilities.    tuned: of each label that may be answered beside others,
    and of the second of two.    tuned_metrics: with those thresholds; none where that is not told.
    thresholds: what a config would say to have them.    mistakes: the worst ones.
    """

    labels: Labels
    rows: int
    metrics: Mapping[str, float]
    table: Mapping[str, LabelScore]
    confusion: Confusion | None
    calibration: Calibration | None
    tuned: Sequence[Tuned]
    tuned_metrics: Mapping[str, float]
    thresholds: tuple[float, ...]
    mistakes: Worst


def judged(pipeline: Pipeline, rows: Iterable[Any], reading: Reading, *, most: int, bar: bool | None = None) -> Report:
    """Answer every row and judge the answers; of the rows only the `most` worst mistakes are kept.

    Raises InputError, naming file and row, on a label that the model does not have, and MissingExtraError, before
    anything is computed, where metrics take a library that is not installed.
    """
    task: Any = pipeline.task
    labels = pipeline.labels if isinstance(task, (TextClassification, TokenClassification)) else ENDS
    need_metrics_of(task, labels)
    calibration, worst = Calibration(), Worst(most)
    look = LOOKS[type(task)]

    def watch(row: Any, answer: Any) -> None:
        scores, right, mistake = look(row, answer, labels)
        calibration.add(scores, right)
        if mistake is not None:
            worst.add(mistake)

    metrics, outcomes = evaluated(pipeline, task, _checked(task, rows, labels), labels, reading, watch, bar)
    tuned, tuned_metrics, thresholds = (
        _tuned(outcomes, labels) if isinstance(task, TextClassification) else ([], {}, ())
    )
    table, confusion = _tables(task, outcomes, labels, metrics)
    seen = calibration if calibration.count else None
    whole = {name: value for name, value in metrics.items() if "/" not in name}
    if seen is not None and "ece" not in whole:
        whole["ece"] = seen.error
    return Report(labels, len(outcomes), whole, table, confusion, seen, tuned, tuned_metrics, thresholds, worst)


def _checked(task: Learnable[Any], rows: Iterable[Any], labels: Labels) -> Iterator[Any]:
    """The rows, their labels looked at before any of as many as are answered together is."""
    rows = iter(rows)
    while some := list(islice(rows, evaluation.ROWS_AT_A_TIME)):
        task.labels_of(some, labels)
        yield from some


# What an answer says of itself: scores from 0 to 1 and which of them are right, and what is wrong with the whole

Look = tuple[np.ndarray, np.ndarray, "Mistake | None"]
NOTHING = np.zeros(0)


def _texts(row: Example) -> dict[str, Any]:
    pair = {} if row.text_pair is None else {"text_pair": row.text_pair}
    return {"place": row.place, "text": row.text, **pair}


def _look_at_label(row: Example, answer: Any, labels: Labels) -> Look:
    task = TextClassification()
    truth, scores = task.outcome(row, answer, labels)
    if labels.kind == "regression":
        off = abs(float(scores[0]) - float(truth))
        said = {**_texts(row), "truth": truth, "answer": float(scores[0])}
        return NOTHING, NOTHING, Mistake(said, off) if off else None
    decided = task.decided(scores[None], labels)[0]
    if labels.kind == "multi":
        return scores, np.asarray(truth) > 0, _wrong_set(row, np.asarray(truth) > 0, decided, scores, labels)
    said = {**_texts(row), "truth": labels.names[int(truth)], "answer": labels.names[decided]}
    wrong = None if decided == truth else Mistake(said, float(scores[decided]))
    return scores.max(keepdims=True), np.array([scores.argmax() == truth]), wrong


def _wrong_set(row: Example, truth: np.ndarray, decided: np.ndarray, scores: np.ndarray, labels: Labels) -> Any:
    """As bad as the surest of its wrong decisions."""
    wrong = truth != decided
    if not wrong.any():
        return None
    sets = ([name for name, there in zip(labels.names, side) if there] for side in (truth, decided))
    said = {**_texts(row), **dict(zip(("truth", "answer"), sets))}
    return Mistake(said, float(np.where(decided, scores, 1 - scores)[wrong].max()))


def _look_at_tags(row: Tagged, answer: Any, labels: Labels) -> Look:
    tags = row.tags or ()
    right = np.array([tag == word["entity"] for tag, word in zip(tags, answer)], dtype=bool)
    scores = np.array([word["score"] for word in answer])
    asked = scores > 0  # a word without a token is answered without a score
    if right.all():
        return scores[asked], right[asked], None
    wrong = [
        {"word": row.text[start:end], "truth": tag, "answer": word["entity"], "score": word["score"]}
        for (start, end), tag, word, fine in zip(row.words, tags, answer, right)
        if not fine
    ]
    found = [word["entity"] for word in answer]
    said = {"place": row.place, "text": row.text, "truth": list(tags), "answer": found, "wrong": wrong}
    return scores[asked], right[asked], Mistake(said, float(scores[~right].max()))


def _look_at_answer(row: Question, answer: Answered, labels: Labels) -> Look:
    golds = tuple(text for _, text in row.answers or ())
    marks = marked(answer.text, golds)
    if marks.em:
        return NOTHING, NOTHING, None
    said: dict[str, Any] = {"place": row.place, "id": row.id, "question": row.question, "context": row.context}
    said |= {"truth": list(dict.fromkeys(golds)), "answer": answer.text, "f1": marks.f1}
    return NOTHING, NOTHING, Mistake(said, answer.score, answer.score * (1 - marks.f1))


def _look_at_choice(row: Choice, answer: Any, labels: Labels) -> Look:
    taken = answer["label"]
    score, right = answer["scores"][taken], np.array([taken == row.label])
    said = {"place": row.place, "question": row.question, "choices": list(row.choices)}
    wrong = None if right[0] else Mistake({**said, "truth": row.label, "answer": taken}, score)
    return np.array([score]), right, wrong


LOOKS: Mapping[type, Callable[[Any, Any, Labels], Look]] = {
    TextClassification: _look_at_label,
    TokenClassification: _look_at_tags,
    QuestionAnswering: _look_at_answer,
    MultipleChoice: _look_at_choice,
}


# Each label by itself


def _tables(
    task: Any, outcomes: Sequence[Any], labels: Labels, metrics: Mapping[str, float]
) -> tuple[Mapping[str, LabelScore], Confusion | None]:
    if isinstance(task, TextClassification) and labels.kind != "regression":
        table = task.table(outcomes, labels)
        single = labels.kind == "single"
        return table, Confusion(labels.names, task.confusion(outcomes, labels)) if single else None
    if not isinstance(task, TokenClassification):
        return {}, None
    if any(map(is_span_label, labels.names)):
        kinds = [name.removeprefix("support/") for name in metrics if name.startswith("support/")]
        return {kind: _of_entities(metrics, kind) for kind in kinds}, None
    return _of_plain_tags(outcomes, labels)


def _of_entities(metrics: Mapping[str, float], kind: str) -> LabelScore:
    precision, recall, f1, support = (metrics[f"{name}/{kind}"] for name in ("precision", "recall", "f1", "support"))
    return LabelScore(precision, recall, f1, int(support))


def _of_plain_tags(outcomes: Sequence[Any], labels: Labels) -> tuple[Mapping[str, LabelScore], Confusion]:
    names = tuple(dict.fromkeys(labels.names))
    numbers = {name: i for i, name in enumerate(names)}
    truth, found = (np.array([numbers[tag] for tag in chain(*side)], dtype=np.int64) for side in zip(*outcomes))
    table = dict(zip(names, label_scores(truth, found, len(names))))
    return table, Confusion(names, confusion_matrix(truth, found, len(names)))


# Thresholds


def _tuned(outcomes: Sequence[Outcome], labels: Labels) -> tuple[list[Tuned], dict[str, float], tuple[float, ...]]:
    """Thresholds with the best F1 on these rows, metrics with them, and what a config would say."""
    if labels.kind != "multi" and (labels.kind != "single" or len(labels.names) != 2):
        return [], {}, ()
    task = TextClassification()
    truth, scores = np.array([one.truth for one in outcomes]), np.stack([one.scores for one in outcomes])
    if labels.kind == "multi":
        thresholds = tuple(best_thresholds(scores, truth).tolist())
    else:
        (second,) = best_thresholds(scores[:, 1:], truth[:, None]).tolist()
        thresholds = (1 - second, second)
    other = Labels(labels.kind, labels.names, labels.column, thresholds)
    now, then = (task.table(outcomes, one) for one in (labels, other))
    names = labels.names if labels.kind == "multi" else labels.names[1:]
    tuned = [Tuned(name, thresholds[labels.names.index(name)], now[name].f1, then[name].f1) for name in names]
    if labels.kind == "multi":
        return tuned, multi_metrics(truth, task.decided(scores, other)), thresholds
    return tuned, task.metrics(outcomes, other), thresholds
