"""Parallel texts: a source and what is to be written from it, such as its translation or summary; rows of a table, or
two files whose lines go together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from bothways.data.columns import NoColumn, Row, cell, find_column
from bothways.data.records import STANDARD_INPUT, numbered_lines, opened, some, text_of
from bothways.data.table import Table, TableSource, open_table
from bothways.errors import InputError

__all__ = ["Parallel", "ParallelColumns", "ParallelRows", "aligned", "parallel"]

# Names of columns as `find_column` takes them: those of SciTLDR, XSum, CNN/DailyMail, SAMSum, Alpaca, E2E and others.
SOURCES = (
    *("source", "src", "sourcetext", "inputtext", "input", "article", "document", "dialogue", "report", "bill"),
    *("text", "question", "prompt", "instruction", "meaningrepresentation", "sentence1", "original", "content"),
)
TARGETS = (
    *("target", "tgt", "targettext", "outputtext", "output", "summary", "highlights", "tldr", "translation"),
    *("response", "completion", "answer", "humanreference", "reference", "sentence2", "headline", "title"),
)


@dataclass(frozen=True)
class Parallel:
    """source: what is read.    targets: what may be written from it, at least one where the file has any; all are
    right.    place: file and line, for messages.
    """

    source: str
    targets: tuple[str, ...]
    place: str


@dataclass(frozen=True)
class ParallelColumns:
    """The names of columns; None for those that are to be found."""

    source: str | None = None
    target: str | None = None


class ParallelRows:
    """Rows being read.

    said: what was found out about the file, for people.    rows: in order, once.
    empty: how many were passed over, since a side of them is empty.
    """

    def __init__(self, columns: ParallelColumns, said: str) -> None:
        self.columns, self.said = columns, said
        self.rows: Iterator[Parallel] = iter(())
        self.empty = 0


@contextmanager
def parallel(
    source: TableSource, columns: ParallelColumns = ParallelColumns(), *, targets: bool = True, skip_empty: bool = False
) -> Iterator[ParallelRows]:
    """Read the rows of a table one by one, as long as the context lasts.

    A list in the column of sources is one text, whose parts are joined with spaces; in that of targets, several that
    are right.    columns: those that are said; the others are guessed (`ParallelRows.said` tells how).
    targets: whether they are needed; else they are not read, and a column of them only tells which one is no source.
    skip_empty: pass over rows of which a side is empty.

    Raises InputError, naming file, line or row, and column, on what cannot be read and on an empty side.
    """
    with open_table(replace(source, texts=frozenset((*SOURCES, *TARGETS)))) as table:
        found = _find(columns, table, source.name, targets)
        said = f"source {found.source!r}" + (f", target {found.target!r}" if found.target else "")
        whole = f"{source.name}: {said}" + (f" ({table.said})" if table.said else "")
        result = ParallelRows(found, whole)
        needed = [name for name in (found.source, found.target) if name is not None]
        placed = ((f"{source.name}: {table.unit} {number}", row) for number, row in table.rows(needed))
        rows = (_row(found, row, place) for place, row in placed)
        result.rows = _whole(rows, result, needed=targets, skip=skip_empty)
        yield result


@contextmanager
def aligned(source: str, target: str, *, skip_empty: bool = False) -> Iterator[ParallelRows]:
    """Read two files of plain text, also compressed, whose lines go together, as long as the context lasts.

    Raises InputError on an empty line, naming it, and, with both counts, where one file has more lines.
    """
    if source == target == STANDARD_INPUT:
        raise InputError("source and target cannot both be standard input; name a file for one of them")
    with ExitStack() as stack:
        sides = [numbered_lines(opened(name, stack), name) for name in (source, target)]
        result = ParallelRows(ParallelColumns(source, target), f"lines of {source} with those of {target}")
        result.rows = _whole(_zipped(source, target, *sides), result, needed=True, skip=skip_empty)
        yield result


def _zipped(
    source: str, target: str, ours: Iterator[tuple[int, str]], theirs: Iterator[tuple[int, str]]
) -> Iterator[Parallel]:
    count = 0
    for one, other in zip_longest(ours, theirs):
        if one is None or other is None:
            rest = 1 + sum(1 for _ in (theirs if one is None else ours))
            counts = (count, count + rest) if one is None else (count + rest, count)
            raise InputError(
                f"{source} has {counts[0]:,} lines, {target} {counts[1]:,}: their lines must go together, one with one"
            )
        count += 1
        yield Parallel(one[1].strip(), tuple(filter(None, [other[1].strip()])), f"{source}: line {count}")
    if not count:
        raise InputError(f"{source}: no rows")


def _find(wanted: ParallelColumns, table: Table, name: str, needed: bool) -> ParallelColumns:
    for role, said in (("--source", wanted.source), *([("--target", wanted.target)] if needed else [])):
        find_column(said, (), table.names, name, role)
    target = wanted.target if wanted.target in table.names else None
    # Of two of a name none can be read; what is not needed may be so called.
    names = table.names if needed else [one for one in table.names if table.names.count(one) == 1]
    if needed or target is None:
        target = find_column(target, TARGETS, [one for one in names if one != wanted.source], name, "--target")
    free = [one for one in table.names if one != target]
    source = find_column(wanted.source, SOURCES, free, name, "--source")
    if source is None and not needed:
        source = _only_text(table, wanted.target)
    if source is None or (target is None and needed):
        source, target = _by_place(source, target, table)
    for role, found in (("source", source), *([("target", target)] if needed else [])):
        if found is None:
            raise NoColumn(f"{name}: cannot tell which column is the {role}; say --{role}; it has {some(table.names)}")
    return ParallelColumns(source, target if needed else None)


def _only_text(table: Table, target: str | None) -> str | None:
    """The column of texts, if there is but one beside what is said to be the target."""
    texts = [one for one in table.names if one != target and _is_texts([row.get(one) for row in table.sample])]
    return texts[0] if len(texts) == 1 else None


def _by_place(source: str | None, target: str | None, table: Table) -> tuple[str | None, str | None]:
    """Of two columns of texts the first is the source, the second the target; where one is known, the other one."""
    texts = [name for name in table.names if _is_texts([row.get(name) for row in table.sample])]
    free = [name for name in texts if name not in (source, target)]
    if source is None and target is None:
        return (free[0], free[1]) if len(free) == 2 else (free[0] if len(table.names) == 1 and free else None, None)
    if len(free) != 1:
        return source, target
    return (source, free[0]) if target is None else (free[0], target)


def _is_texts(values: Sequence[Any]) -> bool:
    """Whether these are texts, most of them different, and no numbers."""
    texts = [value for value in values if isinstance(value, str) and not value.replace(".", "").isdigit()]
    return bool(texts) and len(texts) == len(values) and 2 * len(set(texts)) >= len(texts)


def _row(columns: ParallelColumns, row: Row, place: str) -> Parallel:
    source = " ".join(_texts(row, columns.source or "", place))
    if columns.target is None or columns.target not in row:
        return Parallel(source, (), place)
    return Parallel(source, tuple(_texts(row, columns.target, place)), place)


def _texts(row: Row, column: str, place: str) -> list[str]:
    """The text, or the texts, without those that are empty."""
    value = cell(row, column, place)
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return [text for one in values if one is not None and (text := text_of(one, place, column).strip())]


def _whole(rows: Iterator[Parallel], result: ParallelRows, *, needed: bool, skip: bool) -> Iterator[Parallel]:
    """The rows of which no side is empty. needed: whether targets are."""
    for row in rows:
        if row.source and (row.targets or not needed):
            yield row
        elif skip:
            result.empty += 1
        else:
            side, column = ("source", result.columns.source) if not row.source else ("target", result.columns.target)
            raise InputError(f"{row.place}: its {side} ({column!r}) is empty; say --skip-empty to pass over such rows")
