"""How good a task's answers are, over rows of any number: they are read, answered and judged some at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from bothways.data.labelled import Labels
from bothways.engine.pipeline import Pipeline
from bothways.engine.scheduler import progress
from bothways.errors import InputError
from bothways.tasks.classify import TextClassification
from bothways.tasks.entities import is_span_label
from bothways.tasks.learning import Learnable
from bothways.tasks.metrics import entity_metrics, need_metrics
from bothways.tasks.tag import TokenClassification
from bothways.text.tokenizer import Cuts
from bothways.text.windows import Windows

__all__ = ["Reading", "answered", "evaluated", "need_metrics_of"]

ROWS_AT_A_TIME = 4096  # enough for batches of nearly equal lengths, little to hold in memory


@dataclass(frozen=True)
class Reading:
    """How texts are read: in windows (None: as the task does by default), and how many tokens they may have."""

    windows: Windows | None = None
    max_length: int | None = None


def need_metrics_of(task: Learnable[Any], labels: Labels) -> None:
    """Raise MissingExtraError where a task's metrics take a library that is not installed."""
    if isinstance(task, TokenClassification) and any(map(is_span_label, labels.names)):
        entity_metrics([], [])
    elif isinstance(task, (TextClassification, TokenClassification)) and labels.kind != "multi":
        need_metrics()


def answered(
    pipeline: Pipeline, task: Learnable[Any], rows: Iterable[Any], reading: Reading
) -> Iterator[tuple[Any, Any]]:
    """Each row with the task's answer, in order. Warns once, at the end, of texts that were cut."""
    rows, cuts = iter(rows), Cuts()
    while some := list(islice(rows, ROWS_AT_A_TIME)):
        yield from zip(some, pipeline.answers(task.request_of(some, reading.windows, reading.max_length), cuts))
    cuts.warn()


def evaluated(
    pipeline: Pipeline,
    task: Learnable[Any],
    rows: Iterable[Any],
    labels: Labels,
    reading: Reading,
    watch: Callable[[Any, Any], None] = lambda row, answer: None,
    bar: bool | None = False,
) -> tuple[dict[str, float], Sequence[Any]]:
    """The metrics of a task's answers, and what they were made from, a few numbers a row.

    watch: is told of each row and its answer.    bar: as of `engine.scheduler.progress`, over rows.
    Raises InputError where there is no row.
    """
    outcomes = []

    def judging() -> Iterator[int]:
        for row, answer in answered(pipeline, task, rows, reading):
            watch(row, answer)
            outcomes.append(task.outcome(row, answer, labels))
            yield 1

    deque(progress(judging(), None, "rows", bar), maxlen=0)
    if not outcomes:
        raise InputError("no rows to evaluate on")
    return task.metrics(outcomes, labels), outcomes
