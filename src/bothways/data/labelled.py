"""Labelled rows: a text, perhaps a second one, and what is to be learnt of it; and what its labels are."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from hashlib import blake2b
from heapq import nsmallest
from typing import Any, Literal, TypeAlias

from bothways.data.columns import Columns, Row, cell, find_columns, is_integer, is_number
from bothways.data.records import some, text_of
from bothways.data.table import Table, TableSource, open_table
from bothways.errors import InputError

__all__ = ["Example", "Kind", "Label", "Labelled", "Labels", "chosen", "labelled"]

Label: TypeAlias = "str | float | tuple[str, ...]"
Kind: TypeAlias = Literal["single", "regression", "multi"]
KINDS = ("single", "regression", "multi")
# With more rows than this, a label for each is the number of the row.
FEW_ROWS = 10


@dataclass(frozen=True)
class Example:
    """A labelled row.

    label: a name; a number that the file gives as one with a fraction (JSON, Parquet); several names; None if there is
    none, which only rows to predict for may have.
    place: file and line or row, for messages.
    """

    text: str
    text_pair: str | None
    label: Label | None
    place: str

    def digest(self, salt: str) -> bytes:
        """What stands for the texts, the label and a salt: in place of chance, it does not go by the order of rows."""
        said = repr((salt, self.text, self.text_pair, self.label))
        return blake2b(said.encode("utf-8"), digest_size=16).digest()


@dataclass(frozen=True, eq=False)
class Labelled:
    """Rows being read. said: what was found out about the file, for people; examples: in order, once."""

    columns: Columns
    said: str
    examples: Iterator[Example]


@contextmanager
def labelled(
    source: TableSource,
    columns: Columns = Columns(),  # noqa: B008 (frozen)
    *,
    separator: str | None = None,
    unlabelled: bool = False,
    names: Sequence[str] = (),
) -> Iterator[Labelled]:
    """Read a table's labelled rows one by one, as long as the context lasts.

    columns: those that are said; the others are guessed (`Labelled.said` tells how).
    separator: what stands between several labels in one cell.
    unlabelled: whether rows may be without label, and tables without its column; it is then not guessed by values.
    names: of labels that are whole numbers, from 0.

    Raises InputError, naming file, line or row, and column, on what cannot be read, on a row without label, and on a
    number that none of the names has.
    """
    with open_table(source) as table:
        found = find_columns(columns, table.names, table.sample, source.name, labelled=not unlabelled)
        said = f"{source.name}: {found.said()}" + (f" ({table.said})" if table.said else "")
        yield Labelled(found, said, _examples(table, found, source.name, _Answers(separator, unlabelled, names)))


def chosen(examples: Iterable[Example], most: int | None) -> list[Example]:
    """At most so many examples, from all over; which, goes by what they say. Only these are held in memory."""
    if most is not None and most < 1:
        raise InputError(f"max_rows must be at least 1, got {most}")
    return list(examples) if most is None else nsmallest(most, examples, key=lambda example: example.digest("rows"))


@dataclass(frozen=True)
class _Answers:
    """How labels are read. Arguments as for `labelled`."""

    separator: str | None
    unlabelled: bool
    names: Sequence[str]

    def of(self, row: Row, column: str | None, place: str) -> Label | None:
        if column is None or (self.unlabelled and _is_missing(row.get(column))):
            return None
        value, place = cell(row, column, place), f"{place}, column {column!r}"
        label = _label(value, place, self.separator)
        if not self.names:
            return label
        return (
            tuple(self._named(one, place) for one in label) if isinstance(label, tuple) else self._named(label, place)
        )

    def _named(self, label: str | float, place: str) -> str:
        if not isinstance(label, str):
            raise InputError(f"{place}: {label} is no whole number, so none of {len(self.names)} names is meant")
        if is_integer(label) and not 0 <= int(label) < len(self.names):
            raise InputError(f"{place}: label {label}, but there are {len(self.names)} names, from 0")
        return self.names[int(label)] if is_integer(label) else label


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _examples(table: Table, columns: Columns, name: str, answers: _Answers) -> Iterator[Example]:
    for number, row in table.rows(columns.given()):
        place = f"{name}: {table.unit} {number}"
        pair = None if columns.text_pair is None else _text(row, columns.text_pair, place)
        answer = answers.of(row, columns.label, place)
        yield Example(_text(row, columns.text or "", place), pair, answer, place)


def _text(row: Row, column: str, place: str) -> str:
    return text_of(cell(row, column, place), place, column)


def _label(value: Any, place: str, separator: str | None) -> Label:
    """The label as a name, a number or several names. Raises InputError if there is none."""
    if isinstance(value, list):
        return tuple(_name(one, place) for one in value)
    if separator is not None and isinstance(value, str):
        return tuple(part.strip() for part in value.split(separator) if part.strip())
    return value if isinstance(value, float) else _name(value, place)


def _name(value: Any, place: str) -> str:
    if _is_missing(value):
        raise InputError(f"{place}: no label")
    if isinstance(value, str):
        return text_of(value.strip(), place, "label")
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    raise InputError(f"{place}: a label was expected, not {type(value).__name__}: {value!r:.60}")


@dataclass(frozen=True)
class Labels:
    """What may be answered: one of several names, several of them, or a number.

    names: in the order of their numbers; none for regression.    column: where they are, for messages.
    thresholds: from which score on a label is answered, one for each name; () for the usual ones.
    """

    kind: Kind
    names: tuple[str, ...] = ()
    column: str = "label"
    thresholds: tuple[float, ...] = ()

    @classmethod
    def of(
        cls, examples: Sequence[Example], column: str = "label", *, kind: str | None = None, names: Sequence[str] = ()
    ) -> Labels:
        """What these examples are labelled with.

        kind: if None, "multi" where rows have several names, "regression" where all are numbers and not all whole ones,
        else "single".    names: in the order to number them; by default sorted, whole numbers by size.

        Raises InputError on no rows, on labels that do not fit the kind, on one that `names` has not, and where there
        is nothing to learn: a single label, or a label of its own for each row.
        """
        if not examples:
            raise InputError("no rows to learn from")
        if kind is not None and kind not in KINDS:
            raise InputError(f"unknown kind of labels {kind!r}; known: {', '.join(KINDS)}")
        found = _kind(examples) if kind is None else next(k for k in KINDS if k == kind)
        if found == "regression":
            labels = cls("regression", (), column)
        else:
            occurring = {name for example in examples for name in _names(example.label)}
            labels = cls("multi" if found == "multi" else "single", tuple(names) or _sorted(occurring), column)
        labels._check(examples)
        return labels

    def number(self, example: Example) -> int | float | list[int]:
        """The example's label as a number; those of several. Raises InputError, naming its place, if it has none."""
        if example.label is None:
            raise InputError(f"{self._place(example)}: no label")
        if self.kind == "regression":
            return self._score(example)
        if self.kind == "multi":
            return [self._index(name, example) for name in _names(example.label)]
        (name, *more) = _names(example.label) or ("",)
        if more:
            raise InputError(f"{self._place(example)}: several labels, where one is expected: {some((name, *more))}")
        return self._index(name, example)

    def _score(self, example: Example) -> float:
        if example.label is None or isinstance(example.label, tuple) or not is_number(example.label):
            raise InputError(f"{self._place(example)}: {example.label!r:.60} is not a number")
        score = float(example.label)
        if not math.isfinite(score):
            raise InputError(f"{self._place(example)}: {score} is not a number that can be learnt")
        return score

    def _index(self, name: str, example: Example) -> int:
        if name not in self._numbers:
            near = get_close_matches(name, self.names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {some(self.names)}"
            raise InputError(f"{self._place(example)}: unknown label {name!r:.60}{hint}")
        return self._numbers[name]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    def _place(self, example: Example) -> str:
        return f"{example.place}, column {self.column!r}"

    def _check(self, examples: Sequence[Example]) -> None:
        """Refuse labels of which nothing can be learnt."""
        different = {tuple(n) if isinstance(n := self.number(example), list) else n for example in examples}
        first = examples[0]
        if len(different) == 1:
            raise InputError(f"{self._place(first)}: all {len(examples):,} rows have the label {first.label!r:.60}")
        if self.kind == "single" and len(different) == len(examples) > FEW_ROWS:
            raise InputError(
                f"{self._place(first)}: each of {len(examples):,} rows has a label of its own; say --label"
            )


def _kind(examples: Iterable[Example]) -> Kind:
    labels = [example.label for example in examples]
    if any(isinstance(label, tuple) for label in labels):
        return "multi"
    return "regression" if all(map(is_number, labels)) and not all(map(is_integer, labels)) else "single"


def _names(label: Label | None) -> tuple[str, ...]:
    if label is None:
        return ()
    return label if isinstance(label, tuple) else (label if isinstance(label, str) else json.dumps(label),)


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    names = list(names)
    return tuple(sorted(names, key=int) if all(map(is_integer, names)) else sorted(names))
