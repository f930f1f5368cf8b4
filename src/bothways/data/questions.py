"""Questions about contexts, and where in these their answers are: SQuAD's own files, and tables of questions.

SQuAD 1.1 (Rajpurkar et al. 2016, arXiv:1606.05250) and 2.0 (2018, arXiv:1806.03822), where some have no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

from bothways.data.columns import NoColumn, Row, cell, find_column, plain
from bothways.data.records import json_value, opened, some, text_of
from bothways.data.table import Table, TableSource, format_of, open_table, suffix
from bothways.errors import InputError

__all__ = ["Question", "QuestionColumns", "QuestionRows", "holds_questions", "questions"]

# SQuAD's whole training set has 42 MB; parsed, a file takes several times its size in memory.
MOST_JSON_BYTES = 1 << 30
# Names of columns as `find_column` takes them.
QUESTIONS = ("question", "query")
CONTEXTS = ("context", "passage", "paragraph", "document")
ANSWERS = ("answers", "answer")
IDS = ("id", "qid", "questionid")
# Characters of a text that a message shows.
SHOWN = 40

Answers = tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Question:
    """id: as the file has it, or the number of its row.    place: file and line or question, for messages.

    answers: the first character in the context and the text, of each answer that counts as right; () where the context
    has none; None where it is not known.
    """

    id: str
    question: str
    context: str
    answers: Answers | None
    place: str


@dataclass(frozen=True)
class QuestionColumns:
    """The names of columns in a table; None for those that are to be found."""

    question: str | None = None
    context: str | None = None
    answers: str | None = None
    id: str | None = None


# Of SQuAD's own files.
SQUAD = QuestionColumns("question", "context", "answers", "id")


@dataclass(eq=False)
class QuestionRows:
    """Questions being read. said: what was found out about the file, for people; questions: in order, once.

    misplaced: how many answers were passed over so far since they are not where they are said to be.
    """

    said: str
    questions: Iterator[Question] = field(default_factory=lambda: iter(()))
    misplaced: int = 0


@contextmanager
def questions(
    source: TableSource,
    columns: QuestionColumns = QuestionColumns(),
    *,
    labelled: bool = True,
    skip_misplaced: bool = False,
) -> Iterator[QuestionRows]:
    """Read questions one by one, as long as the context lasts. A file of SQuAD's form is held in memory whole.

    source: a file of SQuAD's form (format "json", or the suffix .json), of a list of flat rows in one, or a table with
    columns question, context, answers ({"text": […], "answer_start": […]}, or a list of objects of the two).
    labelled: whether there must be answers.    skip_misplaced: pass over answers that are not in the context where
    they are said to be, and a question that has no other ones.

    Raises InputError, naming file and question, on what cannot be read, and on a misplaced answer.
    """
    with ExitStack() as stack:
        if _is_json(source):
            value = json_value(opened(cast(str, source.path), stack), source.name, MOST_JSON_BYTES)
            if isinstance(value, dict) and "data" in value:
                found = QuestionRows(f"{source.name}: SQuAD's form{_version(value)}")
                rows = _nested(value["data"], source.name)
                found.questions = _read(rows, found, SQUAD, labelled, skip_misplaced)
            else:
                table = _flat(value, source.name)
                found = _from_table(table, source.name, columns, labelled, skip_misplaced)
        else:
            table = stack.enter_context(open_table(source))
            found = _from_table(table, source.name, columns, labelled, skip_misplaced)
        yield found


def holds_questions(table: Table) -> bool:
    """Whether a table looks like one of questions about contexts."""
    named = {plain(name) for name in table.names}
    return all(named.intersection(names) for names in (QUESTIONS, CONTEXTS, ANSWERS))


def _is_json(source: TableSource) -> bool:
    if source.path is None or format_of(source) not in (None, "json"):
        return False
    return source.format == "json" or (suffix(source.path) == ".json" and Path(source.path).is_file())


def _version(value: Mapping[str, Any]) -> str:
    return f", version {value['version']!s:.20}" if "version" in value else ""


@dataclass(frozen=True, eq=False)
class _Form:
    """Where in a row things are, and what is done with answers. columns: of all but those that there are not."""

    columns: QuestionColumns
    labelled: bool
    skip_misplaced: bool
    found: QuestionRows

    def question(self, row: Row, number: int, place: str) -> Question | None:
        """The question of a row; None if it is passed over."""
        names = self.columns
        told = _id(row, names.id, number, place)
        if names.id is not None and row.get(names.id) is not None:
            place = f"{place}, question {told!r:.60}"
        question, context = (self._text(row, name or "", place) for name in (names.question, names.context))
        answers = self._answers(row, place)
        if answers is None or row.get("is_impossible") is True or not answers:
            return Question(told, question, context, None if answers is None else (), place)
        right = tuple(answer for answer in answers if self._stands(answer, context, place))
        return Question(told, question, context, right, place) if right else None

    def _text(self, row: Row, name: str, place: str) -> str:
        return text_of(cell(row, name, place), place, name)

    def _answers(self, row: Row, place: str) -> Answers | None:
        name = self.columns.answers
        missing = name is None or row.get(name) is None
        if missing and row.get("is_impossible") is True:
            return ()
        if name is None or (missing and not self.labelled):
            return None
        value = cell(row, name, place)
        return tuple(_answer(one, f"{place}, answer {i}") for i, one in enumerate(_paired(value, name, place), start=1))

    def _stands(self, answer: tuple[int, str], context: str, place: str) -> bool:
        """Whether an answer is where it is said to be. Raises InputError if not, unless such are passed over."""
        start, text = answer
        if start >= 0 and context.startswith(text, start):
            return True
        if not self.skip_misplaced:
            there = f"there is {_short(context[start:])}" if 0 <= start < len(context) else "the context ends before it"
            where = context.find(text)
            hint = f"; its first place is {where}" if where >= 0 else ""
            advice = "; correct it, or say skip_misplaced to pass over such"
            raise InputError(f"{place}: the answer {_short(text)} is not at character {start}: {there}{hint}{advice}")
        self.found.misplaced += 1
        return False


def _short(text: str) -> str:
    return repr(text[:SHOWN] + ("…" if len(text) > SHOWN else ""))


def _id(row: Row, column: str | None, number: int, place: str) -> str:
    value = None if column is None else row.get(column)
    if value is None:
        return str(number)
    if not isinstance(value, (str, int)):
        raise InputError(f"{place}: {column!r} is not a text but {type(value).__name__}: {value!r:.60}")
    return text_of(str(value), place, column or "")


def _paired(value: Any, name: str, place: str) -> list[tuple[Any, Any]]:
    """Starts and texts: of an object of two lists, or of a list of objects."""
    if isinstance(value, dict):
        starts, texts = (_list(cell(value, key, f"{place}, {name!r}"), key, place) for key in ("answer_start", "text"))
        if len(starts) != len(texts):
            raise InputError(f"{place}: {len(texts)} answers in 'text', but {len(starts)} in 'answer_start'")
        return list(zip(starts, texts))
    found = []
    for i, one in enumerate(_list(value, name, place), start=1):
        if not isinstance(one, dict):
            raise InputError(f'{place}, answer {i}: {{"text", "answer_start"}} was expected, not {one!r:.60}')
        found.append(tuple(cell(one, key, f"{place}, answer {i}") for key in ("answer_start", "text")))
    return [(start, text) for start, text in found]


def _list(value: Any, name: str, place: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{place}: {name!r} is not a list but {type(value).__name__}: {value!r:.60}")
    return list(value)


def _answer(value: tuple[Any, Any], place: str) -> tuple[int, str]:
    start, text = value
    if type(start) is not int:
        raise InputError(f"{place}: 'answer_start' is not a whole number but {start!r:.60}")
    if not text_of(text, place, "text"):
        raise InputError(f"{place}: an empty answer; a question without answer has none")
    return start, text


def _from_table(
    table: Table, name: str, columns: QuestionColumns, labelled: bool, skip_misplaced: bool
) -> QuestionRows:
    find: Callable[..., str | None] = partial(find_column, names=table.names, table=name)
    found = QuestionColumns(
        find(columns.question, QUESTIONS, flag="--question"),
        find(columns.context, CONTEXTS, flag="--context"),
        find(columns.answers, ANSWERS, flag="--answers"),
        find(columns.id, IDS, flag="--id"),
    )
    for role in ("question", "context", *(["answers"] if labelled else [])):
        if getattr(found, role) is None:
            raise NoColumn(f"{name}: no column with the {role}; say --{role}; it has {some(table.names)}")
    roles = [(role, getattr(found, role)) for role in ("question", "context", "answers", "id")]
    said = ", ".join(f"{role} {column!r}" for role, column in roles if column is not None)
    needed = [column for _, column in roles if column is not None]
    extra = ["is_impossible"] if "is_impossible" in table.names else []
    placed = ((f"{name}: {table.unit} {number}", row) for number, row in table.rows([*needed, *extra]))
    rows = QuestionRows(f"{name}: {said}")
    rows.questions = _read(placed, rows, found, labelled, skip_misplaced)
    return rows


def _read(
    rows: Iterator[tuple[str, Row]],
    found: QuestionRows,
    columns: QuestionColumns,
    labelled: bool,
    skip_misplaced: bool,
) -> Iterator[Question]:
    form = _Form(columns, labelled, skip_misplaced, found)
    for number, (place, row) in enumerate(rows, start=1):
        question = form.question(row, number, place)
        if question is not None:
            yield question


def _flat(value: Any, name: str) -> Table:
    """A file's list of rows as a table."""
    rows = value if isinstance(value, list) else [value]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise InputError(f"{name}: row {number}: an object was expected, not {type(row).__name__}")
    if not rows:
        raise InputError(f"{name}: no rows")
    names = tuple(dict.fromkeys(key for row in rows for key in row))
    return Table(names, rows[:1], lambda columns: enumerate(rows, start=1), unit="row")


def _nested(articles: Any, name: str) -> Iterator[tuple[str, Row]]:
    """Each question as a row with its context. Raises InputError, naming the place, on what is not SQuAD's form."""
    for a, article in _objects(articles, "data", name):
        if "question" in article:  # a list of flat rows, under the name that SQuAD gives it
            yield f"{name}: row {a}", article
            continue
        place = f"{name}: article {a}"
        for p, paragraph in _objects(cell(article, "paragraphs", place), "paragraphs", place):
            there = f"{place}, paragraph {p}"
            context = cell(paragraph, "context", there)
            for _, asked in _objects(cell(paragraph, "qas", there), "qas", there):
                yield there, {**asked, "context": context}


def _objects(value: Any, key: str, place: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, one in enumerate(_list(value, key, place), start=1):
        if not isinstance(one, dict):
            raise InputError(f"{place}: {key!r} has a {type(one).__name__} as number {number}, not an object")
        yield number, one
