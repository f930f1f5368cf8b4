"""Questions with choices, one of which is right: rows of a table with a list of choices, or a column for each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from bothways.data.columns import NoColumn, Row, cell, find_column, is_integer, plain
from bothways.data.records import some, text_of
from bothways.data.table import Table, TableSource, open_table
from bothways.errors import InputError

__all__ = ["Choice", "ChoiceColumns", "ChoiceRows", "choices", "holds_choices"]

# Names of columns as `find_column` takes them: ARC's, SWAG's, RACE's, COPA's, CommonsenseQA's, HellaSwag's.
QUESTIONS = (
    "question",
    "sent1",
    "startphrase",
    "goal",
    "ctx",
    "premise",
    "prompt",
    "context",
    "text",
    "sentence1",
    "sentence",
)
SECONDS = {"sent1": "sent2"}
LISTS = ("choices", "endings", "options", "answers")
LABELS = ("label", "answerkey", "answer", "gold", "correct", "target", "labels")
# What columns of a choice each are called, before their numbers or letters.
NUMBERED = re.compile(r"(choice|ending|option|answer|solution|sol|alternative)(\d+|[a-z])|()([a-z])")
LEAST = 2


@dataclass(frozen=True)
class Choice:
    """label: the number of the right choice, from 0; None if it is not known.    place: file and line, for messages."""

    question: str
    choices: tuple[str, ...]
    label: int | None
    place: str


@dataclass(frozen=True)
class ChoiceColumns:
    """The names of columns; None or () for those that are to be found.

    choices: of a list of choices; or of each choice, which may be empty in rows of fewer.
    second: what each choice begins with, as SWAG's sent2.
    """

    question: str | None = None
    choices: tuple[str, ...] = ()
    label: str | None = None
    second: str | None = None


@dataclass(frozen=True, eq=False)
class ChoiceRows:
    """Rows being read. said: what was found out about the file, for people; choices: in order, once."""

    columns: ChoiceColumns
    said: str
    choices: Iterator[Choice]


@contextmanager
def choices(
    source: TableSource,
    columns: ChoiceColumns = ChoiceColumns(),
    *,
    labelled: bool = True,
    first: int = 0,
) -> Iterator[ChoiceRows]:
    """Read questions with choices one by one, as long as the context lasts.

    source: a table with a list of choices (texts, or objects of text and label, or {"text": […], "label": […]}), or a
    column for each.    columns: those that are said; the others are guessed (`ChoiceRows.said` tells how).
    labelled: whether there must be labels. A label is a choice's own label, its number, its letter from A, or its text.
    first: the number that the first choice has in the file.

    Raises InputError, naming file, line or row, and column, on what cannot be read, on fewer than two choices, and on a
    label that is none of them.
    """
    with open_table(source) as table:
        found = _find(columns, table, source.name, labelled)
        form = _Form(found, labelled, first)
        form = replace(form, by_text=any(form.is_text(row) for row in table.sample))
        rows = table.rows(form.needed())
        placed = ((f"{source.name}: {table.unit} {number}", row) for number, row in rows)
        said = f"{source.name}: {form.said()}" + (f" ({table.said})" if table.said else "")
        yield ChoiceRows(found, said, (form.choice(row, place) for place, row in placed))


def holds_choices(table: Table) -> bool:
    """Whether a table looks like one of questions with choices."""
    named = {plain(name): name for name in table.names}
    if not named.keys() & set(QUESTIONS):
        return False
    lists = [named[name] for name in LISTS if name in named]
    return bool(_columns_of_choices(table.names)) or any(
        isinstance(row.get(name), (list, dict)) for name in lists for row in table.sample
    )


def _find(wanted: ChoiceColumns, table: Table, name: str, labelled: bool) -> ChoiceColumns:
    for said in wanted.choices:
        find_column(said, (), table.names, name, "--choices")
    several = wanted.choices or _columns_of_choices(table.names)
    one = None if several else find_column(None, LISTS, table.names, name, "--choices")
    listed = several or (() if one is None else (one,))
    free = [column for column in table.names if column not in listed]
    question = find_column(wanted.question, QUESTIONS, free, name, "--question")
    label = find_column(wanted.label, LABELS, free, name, "--label")
    second = wanted.second
    if second is not None or (question is not None and plain(question) in SECONDS):
        second = find_column(second, (SECONDS.get(plain(question or ""), ""),), free, name, "--second")
    for role, there in (("question", question), ("choices", listed), *([("label", label)] if labelled else [])):
        if not there:
            raise NoColumn(f"{name}: cannot tell which column is the {role}; say --{role}; it has {some(table.names)}")
    return ChoiceColumns(question, listed, label, second)


def _columns_of_choices(names: Sequence[str]) -> tuple[str, ...]:
    """Those that are numbered or lettered, the first of them 0, 1 or A, in order; () if there are fewer than two."""
    runs: dict[str, dict[str, str]] = {}
    for name in names:
        match = NUMBERED.fullmatch(plain(name))
        if match is not None:
            runs.setdefault(match[1] or "", {}).setdefault(match[2] or match[4], name)
    for run in runs.values():
        for order in (range(len(run) + 1), range(1, len(run) + 2), map(chr, range(ord("a"), ord("z") + 1))):
            found = []
            for key in map(str, order):
                if key not in run:
                    break
                found.append(run[key])
            if len(found) >= LEAST:
                return tuple(found)
    return ()


@dataclass(frozen=True)
class _Form:
    """Where in a row things are. by_text: whether a label that is a number or a letter is first taken for a text."""

    columns: ChoiceColumns
    labelled: bool
    first: int
    by_text: bool = False

    def needed(self) -> list[str]:
        names = self.columns
        return [one for one in (names.question, names.second, *names.choices, names.label) if one is not None]

    def said(self) -> str:
        names = self.columns
        parts = (("question", names.question), ("second part", names.second), ("label", names.label))
        told = [f"{role} {name!r}" for role, name in parts if name is not None]
        return ", ".join([*told[:1], f"choices {', '.join(map(repr, names.choices))}", *told[1:]])

    def choice(self, row: Row, place: str) -> Choice:
        names = self.columns
        question = text_of(cell(row, names.question or "", place), place, names.question or "")
        texts, labels = self._choices(row, place)
        if len(texts) < LEAST:
            raise InputError(f"{place}: {len(texts)} choice{'' if len(texts) == 1 else 's'}, where two are needed")
        label = self._label(row, texts, labels, place)
        if names.second is not None:
            begun = text_of(cell(row, names.second, place), place, names.second)
            texts = [f"{begun} {text}".strip() for text in texts]
        return Choice(question, tuple(texts), label, place)

    def is_text(self, row: Row) -> bool:
        """Whether the row's label is the text of a choice and can be nothing else."""
        value = row.get(self.columns.label or "")
        try:
            texts, labels = self._choices(row, "")
        except InputError:  # which reading the rows will tell
            return False
        return isinstance(value, str) and _numbered(value, labels, self.first, len(texts)) is None and value in texts

    def _choices(self, row: Row, place: str) -> tuple[list[str], list[str]]:
        """Texts, and the label that each has in the file, if they have."""
        names = self.columns.choices
        values, labels = ([row.get(name) for name in names], []) if len(names) > 1 else _listed(row, names[0], place)
        while values and _is_empty(values[-1]):
            values.pop()
        for i, value in enumerate(values):
            if _is_empty(value):
                raise InputError(f"{place}: choice {i + 1} is empty, but there are further ones")
        said = [names[i] if len(names) > 1 else names[0] for i in range(len(values))]
        return [text_of(value, place, name) for value, name in zip(values, said)], labels[: len(values)]

    def _label(self, row: Row, texts: Sequence[str], labels: Sequence[str], place: str) -> int | None:
        column = self.columns.label
        if column is None or (not self.labelled and _is_unknown(row.get(column))):
            return None
        value, place = cell(row, column, place), f"{place}, column {column!r}"
        if value is None or value == "":
            raise InputError(f"{place}: no label")
        found = _place(value, texts, labels, self.first, self.by_text, place)
        if found is None:
            letters = f"{', '.join(labels)}" if labels else f"A to {chr(ord('A') + min(len(texts), 26) - 1)}"
            numbers = f"{self.first} to {self.first + len(texts) - 1}"
            raise InputError(f"{place}: {value!r:.60} is none of {len(texts)} choices: {numbers}, {letters}, or a text")
        return found


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _is_unknown(value: Any) -> bool:
    """Whether a label says that it is kept secret, as those of test sets do."""
    return _is_empty(value) or value == -1 or value == "-1"


def _listed(row: Row, column: str, place: str) -> tuple[list[Any], list[str]]:
    value = cell(row, column, place)
    if isinstance(value, dict):
        values, labels = (_list(cell(value, key, f"{place}, {column!r}"), key, place) for key in ("text", "label"))
        if len(values) != len(labels):
            raise InputError(f"{place}: {len(values)} choices in 'text', but {len(labels)} in 'label'")
        return values, list(map(str, labels))
    values = _list(value, column, place)
    if values and all(isinstance(one, dict) for one in values):
        placed = [(one, f"{place}, choice {i}") for i, one in enumerate(values, start=1)]
        return [cell(one, "text", at) for one, at in placed], [str(cell(one, "label", at)) for one, at in placed]
    return values, []


def _list(value: Any, column: str, place: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{place}: {column!r} is not a list but {type(value).__name__}: {value!r:.60}")
    return list(value)


def _place(
    value: Any, texts: Sequence[str], labels: Sequence[str], first: int, by_text: bool, place: str
) -> int | None:
    """Which of the choices a label means: its own label, its number, its letter or its text; None if none."""
    if not isinstance(value, str) and type(value) is not int:
        raise InputError(f"{place}: a label was expected, not {type(value).__name__}: {value!r:.60}")
    number = _numbered(value, labels, first, len(texts))
    same = [i for i, text in enumerate(texts) if isinstance(value, str) and text.strip() == value.strip()]
    if number is not None and not (by_text and same):
        return number
    if len(same) > 1:
        raise InputError(f"{place}: {value!r:.60} is the text of {len(same)} choices")
    return same[0] if same else None


def _numbered(value: str | int, labels: Sequence[str], first: int, count: int) -> int | None:
    """Which of the choices has this label, or this number or letter where they have no labels; None if none."""
    said = str(value).strip()
    if labels.count(said) == 1:
        return labels.index(said)
    if labels and isinstance(value, str):
        return None
    number = ord(said.upper()) - ord("A") if len(said) == 1 and "A" <= said.upper() <= "Z" else None
    if is_integer(said):
        number = int(said) - first
    return number if number is not None and 0 <= number < count else None
