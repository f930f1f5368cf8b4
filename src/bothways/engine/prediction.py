"""Answers to the rows of a file of any size: some at a time, as lines that say which row they answer."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import blake2b
from io import StringIO
from itertools import islice
from typing import Any, Literal, Protocol

import numpy as np

from bothways.data.choices import Choice
from bothways.data.labelled import Example, Labels
from bothways.data.questions import Question
from bothways.data.tagged import Tagged
from bothways.engine.evaluation import Reading
from bothways.engine.lines import PartialLines
from bothways.engine.pipeline import Pipeline
from bothways.errors import InputError
from bothways.tasks.answer import QuestionAnswering
from bothways.tasks.choose import MultipleChoice
from bothways.tasks.classify import TextClassification
from bothways.tasks.tag import TokenClassification
from bothways.tasks.task import Request
from bothways.text.tokenizer import Cuts

__all__ = [
    "FORMS",
    "AnswerLines",
    "ChoiceLines",
    "ClassLines",
    "Form",
    "Lines",
    "TagLines",
    "add_lines",
    "in_form",
    "predict",
]

ROWS_AT_A_TIME = 1024  # what a killed process loses at most
WORDS = "words"


class Shown(Protocol):
    """How answers are written."""

    def line(self, row: Any, answer: Any) -> dict[str, Any]:
        """What there is to say of a row, beside its number. Cells of csv have its values."""

    def cells(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """The same for csv: a value for each column. Raises InputError where that cannot be."""


class Lines(Shown, Protocol):
    """How a task's rows are asked, and how its answers are written."""

    def request(self, rows: Sequence[Any], reading: Reading) -> Request: ...


@dataclass(frozen=True)
class ClassLines:
    """`{label, score}` of the best label; where there may be several, `labels`, those that are answered (`decided`).

    scores: how many labels of them beside, best first, as `[{label, score}, …]`; None: all.
    """

    labels: Labels
    scores: int | None = 0

    def request(self, rows: Sequence[Example], reading: Reading) -> Request:
        return TextClassification().request_of(rows, reading.windows, reading.max_length)

    def line(self, row: Example, answer: list[dict[str, Any]]) -> dict[str, Any]:
        said = {one["label"]: one["score"] for one in answer}
        best = answer[0]
        decided = TextClassification().decided(np.array([[said[name] for name in self.labels.names]]), self.labels)[0]
        more: dict[str, Any] = {}
        if self.labels.kind == "multi":
            more["labels"] = [one["label"] for one in answer if decided[self.labels.names.index(one["label"])]]
        elif self.labels.kind == "single":
            name = self.labels.names[decided]
            best = {"label": name, "score": said[name]}
        if self.scores != 0:
            more["scores"] = answer[: self.scores]
        return {**best, **more}

    def cells(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """Of all labels a column each, by their names; of some, label_2 and score_2 and so on."""
        cells = {"label": said["label"], "score": said["score"]}
        if "labels" in said:
            cells["labels"] = json.dumps(said["labels"], ensure_ascii=False)
        if self.scores is None:
            by_name = {one["label"]: one["score"] for one in said["scores"]}
            return cells | {f"score of {name}": by_name[name] for name in self.labels.names}
        others = [one for one in said.get("scores", []) if one["label"] != said["label"]]
        for i, one in enumerate(others, start=2):
            cells |= {f"label_{i}": one["label"], f"score_{i}": one["score"]}
        return cells


@dataclass(frozen=True)
class TagLines:
    """`text` and `entities`, whose characters are those of the text; strategy "words": `words`, `tags` and `scores`."""

    strategy: str = "simple"

    def request(self, rows: Sequence[Tagged], reading: Reading) -> Request:
        task, texts = TokenClassification(), [row.text for row in rows]
        if self.strategy == WORDS:
            return task.request_of(rows, reading.windows, reading.max_length)
        stride = None if reading.windows is None else reading.windows.stride
        return task.request(texts, aggregation_strategy=self.strategy, stride=stride, max_length=reading.max_length)

    def line(self, row: Tagged, answer: list[dict[str, Any]]) -> dict[str, Any]:
        if self.strategy != WORDS:
            return {"text": row.text, "entities": answer}
        words = [row.text[start:end] for start, end in row.words]
        return {"words": words, "tags": [one["entity"] for one in answer], "scores": [one["score"] for one in answer]}

    def cells(self, said: Mapping[str, Any]) -> dict[str, Any]:
        raise InputError("tags are written as JSON lines: end the name of --output in .jsonl")


@dataclass(frozen=True)
class AnswerLines:
    """`id`, `answer`, `score`, `start` and `end`; with more than one answer a question, `answers`, best first."""

    top_k: int = 1
    impossible: bool | None = None

    def request(self, rows: Sequence[Question], reading: Reading) -> Request:
        request = QuestionAnswering().request_of(rows, reading.windows, reading.max_length)
        options = replace(request.options, top_k=self.top_k, impossible=self.impossible, scored=False)
        return replace(request, options=options)

    def line(self, row: Question, answer: Any) -> dict[str, Any]:
        answers = [answer] if self.top_k == 1 else answer
        best = {name: answers[0][name] for name in ("answer", "score", "start", "end")}
        return {"id": row.id, **best, **({} if self.top_k == 1 else {"answers": answers})}

    def cells(self, said: Mapping[str, Any]) -> dict[str, Any]:
        raise InputError("answers are written as JSON lines: end the name of --output in .jsonl")


@dataclass(frozen=True)
class ChoiceLines:
    """`label`, the number of the best choice from 0, and `scores`, of each choice."""

    def request(self, rows: Sequence[Choice], reading: Reading) -> Request:
        return MultipleChoice().request_of(rows, reading.windows, reading.max_length)

    def line(self, row: Choice, answer: Mapping[str, Any]) -> dict[str, Any]:
        return dict(answer)

    def cells(self, said: Mapping[str, Any]) -> dict[str, Any]:
        return {"label": said["label"], "scores": json.dumps(said["scores"])}


Form = Literal["jsonl", "csv", "txt"]
Write = Callable[[Shown, int, Mapping[str, Any]], bytes]


def _json_line(lines: Shown, number: int, said: Mapping[str, Any]) -> bytes:
    line = json.dumps({"row": number, **said}, ensure_ascii=False, allow_nan=False) + "\n"
    return line.encode("utf-8", errors="backslashreplace")  # half a surrogate pair becomes its escape


def _csv_line(lines: Shown, number: int, said: Mapping[str, Any]) -> bytes:
    """The names of columns stand before the first row."""
    cells = {"row": number, **lines.cells(said)}
    told = StringIO()
    writer = csv.writer(told, lineterminator="\n")
    if number == 1:
        writer.writerow(cells)
    writer.writerow(cells.values())
    return told.getvalue().encode("utf-8", errors="backslashreplace")


def _text_line(lines: Shown, number: int, said: Mapping[str, Any]) -> bytes:
    """The first cell alone, on one line."""
    text = " ".join(str(next(iter(lines.cells(said).values()))).splitlines())
    return f"{text}\n".encode("utf-8", errors="backslashreplace")


FORMS: Mapping[Form, Write] = {"jsonl": _json_line, "csv": _csv_line, "txt": _text_line}


def predict(
    pipeline: Pipeline, rows: Iterable[Any], lines: Lines, reading: Reading, output: PartialLines, form: Form = "jsonl"
) -> Iterator[int]:
    """Answer the rows that `output` does not have yet and add a line for each; yields how many were done at a time.

    Rows are numbered from 1. Warns once, at the end, of texts that were cut.
    Raises InputError where the rows that are done already were others, and where a score is no number.
    """
    cuts = Cuts()

    def tell(some: Sequence[Any], first: int) -> list[bytes]:
        answers = pipeline.answers(lines.request(some, reading), cuts)
        told = enumerate(zip(some, answers), start=first)
        return [in_form(FORMS[form], lines, number, row, answer) for number, (row, answer) in told]

    yield from add_lines(rows, tell, output, lambda done: ROWS_AT_A_TIME)
    cuts.warn()


def add_lines(
    rows: Iterable[Any],
    tell: Callable[[Sequence[Any], int], Sequence[bytes]],
    output: PartialLines,
    at_a_time: Callable[[int], int],
    passed: Callable[[Any], None] = lambda row: None,
) -> Iterator[int]:
    """Add the lines of the rows that `output` does not have yet, some at a time; yields how many these were.

    tell: gives the lines of rows, the first of which has this number.    at_a_time: how many come after so many.
    passed: is told of each row that is done already.
    Raises InputError where the rows that are done were others, and where there are none.
    """
    rows, digest = iter(rows), blake2b(digest_size=16)
    yield from _done(rows, digest, output, passed)
    while some := list(islice(rows, at_a_time(output.rows))):
        lines = tell(some, output.rows + 1)
        for row in some:
            digest.update(_said(row))
        output.add(b"".join(lines), len(some), digest.hexdigest())
        yield len(some)
    if not output.rows:
        raise InputError("no rows to predict")


def _done(rows: Iterator[Any], digest: blake2b, output: PartialLines, told: Callable[[Any], None]) -> Iterator[int]:
    """Pass over the rows that are done."""
    passed = 0
    for row in islice(rows, output.rows):
        digest.update(_said(row))
        told(row)
        passed += 1
    if output.rows and (passed < output.rows or digest.hexdigest() != output.digest):
        raise InputError(f"{output.output}: the rows that are done were others than these; name the same data")
    if passed:
        yield passed


def _said(row: Any) -> bytes:
    """What stands for a row, wherever it is read from."""
    return repr([getattr(row, one.name) for one in fields(row) if one.name != "place"]).encode(
        "utf-8", errors="backslashreplace"
    )


def in_form(write: Write, lines: Shown, number: int, row: Any, answer: Any) -> bytes:
    """The line of a row. Raises InputError, naming the row, where a score is no number."""
    try:
        return write(lines, number, lines.line(row, answer))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{row.place}: the model's scores are no numbers: it is of no use") from None
