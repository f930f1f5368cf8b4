"""Tables out of files of any size, row by row: csv, tsv, JSON lines, Parquet, each also compressed, and data sets.

What a csv or tsv file does not say of itself (what separates its cells, whether they are quoted, whether its first row
holds names) is guessed from its beginning, and can be said.
"""

from __future__ import annotations

import csv
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, cast

from bothways.data.columns import NoColumn, Row, is_number, known, plain
from bothways.data.records import (
    COMPRESSED,
    STANDARD_INPUT,
    data_set,
    data_set_rows,
    json_objects,
    numbered_lines,
    opened,
    parquet_names,
    parquet_rows,
    parquet_table,
    some,
)
from bothways.errors import InputError

__all__ = ["TABLES", "Table", "TableSource", "format_of", "open_table", "suffix"]

SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
# Forms of files that are no tables, but have readers that take a `TableSource`, too.
OTHERS = {"conll": "words with their tags", "json": "a single JSON value"}
# What guesses are made from.
SAMPLE_CHARACTERS = 1 << 20
SAMPLE_ROWS = 1000
# Lines that a cell may still go on for where the sample ends in the middle of it.
OPEN_LINES = 64
# Characters of a quoted cell; more are an open quotation.
MOST_CELL = 1 << 24
LANGUAGE = re.compile("[a-z]{2}([-_][A-Za-z]{2,8})?")
QUOTED_CELL = re.compile('(^|\t)"')


@dataclass(frozen=True)
class TableSource:
    """Where a table is: a file, or a data set of the `datasets` library.

    path: a file, or "-" for standard input.
    dataset: the id or the folder of a data set, read in place of a file, and its split.
    format: "csv", "tsv", "jsonl" or "parquet", where the name of the file does not say; "conll" for columns of words
    and tags (`data.tagged`), "json" for SQuAD's form (`data.questions`).
    header: whether the first row of csv or tsv holds names.    quoted: whether quotation marks around a cell are no
    part of it. None: guessed.
    surplus: whether rows of csv or tsv may have more cells than the first, which are passed over.
    texts: of rows of texts alone, names that columns have, as `plain` writes them; none of such texts comes again, so
    that another first row holds names only where it is words, and what stands below is not.
    """

    path: str | None = None
    dataset: str | None = None
    split: str = "train"
    format: str | None = None
    header: bool | None = None
    quoted: bool | None = None
    surplus: bool = False
    texts: frozenset[str] = field(default=frozenset(), repr=False)

    def __post_init__(self) -> None:
        if (self.path is None) == (self.dataset is None):
            raise InputError("say where the rows are: a file, or a data set")
        if self.format is not None and self.format not in (*TABLES, *OTHERS):
            raise InputError(f"format {self.format!r} is not one of {', '.join(TABLES)}")

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.path if self.path is not None else f"{self.dataset} ({self.split})"


@dataclass(frozen=True, eq=False)
class Table:
    """An open table.

    names: of its columns; their numbers, from 1, where the file gives none.
    sample: its first rows.    said: how its form is described, or "".
    unit: what rows are counted in, "line" or "row".
    doubt: what may help where a column is not there, since names, or that there are none, were guessed; or "".
    rows: called once with the columns that are needed, each row with its number; a row may have other columns too.
    """

    names: tuple[str, ...]
    sample: Sequence[Row]
    rows: Callable[[Sequence[str]], Iterator[tuple[int, Row]]]
    unit: str = "line"
    said: str = ""
    doubt: str = ""


@contextmanager
def open_table(source: TableSource) -> Iterator[Table]:
    """The table, as long as the context lasts; its rows come in one pass, so that a pipe will do.

    Raises InputError, naming file and line or row, on what cannot be read, and on a table without rows;
    MissingExtraError if that takes a library that is not installed.
    """
    with ExitStack() as stack:
        if source.path is None:
            table = _data_set(source)
        else:
            kind = source.format or _format(source.path)
            if kind in OTHERS:
                raise InputError(f"{source.name}: {kind} is {OTHERS[kind]}; a table is one of {', '.join(TABLES)}")
            table = TABLES[kind](opened(source.path, stack), source, stack)
        if not table.sample:
            raise InputError(f"{source.name}: no rows")
        try:
            yield table
        except NoColumn as error:
            raise InputError(f"{error}{table.doubt}") from None


def format_of(source: TableSource) -> str | None:
    """The form of the file: the one that is said, or that its name has; None if there is neither, or no file."""
    if source.format is not None or source.path is None:
        return source.format
    return SUFFIXES.get(suffix(source.path))


def suffix(file: str) -> str:
    """The end of a file's name, without that of its compression."""
    path = Path(file)
    return (Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix).lower()


def _format(file: str) -> str:
    path = Path(file)
    if path.is_dir():
        raise InputError(f"{file}: a folder; name a file in it, or give --dataset for a saved data set")
    if not path.exists() and file != STANDARD_INPUT:
        raise InputError(f"{file}: no such file")
    kind = SUFFIXES.get(suffix(file))
    if kind is None:
        raise InputError(f"{file}: its name does not say what it is; give --format {'|'.join(TABLES)}")
    return kind


def _jsonl(file: BinaryIO, source: TableSource, stack: ExitStack) -> Table:
    rows: Iterator[tuple[int, Row]] = json_objects(file, source.name)
    first = list(islice(rows, SAMPLE_ROWS))
    names = tuple(dict.fromkeys(name for _, row in first for name in row))
    return Table(names, [row for _, row in first], lambda columns: chain(first, rows))


def _parquet(file: BinaryIO, source: TableSource, stack: ExitStack) -> Table:
    table = parquet_table(file, source.name, _spool(stack))
    names = tuple(parquet_names(table))
    first = [row for _, row in islice(parquet_rows(table, source.name, names), SAMPLE_ROWS)]
    return Table(names, first, lambda columns: parquet_rows(table, source.name, columns), unit="row")


def _spool(stack: ExitStack) -> BinaryIO:
    return cast(BinaryIO, stack.enter_context(tempfile.TemporaryFile()))


def _data_set(source: TableSource) -> Table:
    found = data_set(source.dataset or "", source.split)
    first = [row for _, row in islice(data_set_rows(found, source.name), SAMPLE_ROWS)]
    names = tuple(dict.fromkeys(name for row in first for name in row))
    return Table(names, first, lambda columns: data_set_rows(found, source.name), unit="row")


@dataclass(frozen=True)
class Cells:
    """How lines are divided.

    quoted: cells may stand in quotation marks and then hold anything, line ends too (RFC 4180); else every character
    counts and every line is a row, as in GLUE's files.
    """

    separator: str
    quoted: bool

    def rows(self, lines: Iterable[tuple[int, str]], name: str) -> Iterator[tuple[int, list[str]]]:
        """The cells of each row that is not blank, with the number of its first line."""
        if self.quoted:
            return self._quoted(lines, name)
        plain = ((number, line.rstrip("\r\n")) for number, line in lines)
        return ((number, line.split(self.separator)) for number, line in plain if line)

    def _quoted(self, lines: Iterable[tuple[int, str]], name: str) -> Iterator[tuple[int, list[str]]]:
        csv.field_size_limit(max(csv.field_size_limit(), MOST_CELL))  # else documents of 131,072 characters are refused
        reader = csv.reader((line for _, line in lines), delimiter=self.separator, strict=True)
        while True:
            start = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise Unquotable(f"{name}: line {start}: {error}", reader.line_num) from None
            if cells is None:
                return
            if cells:
                yield start, cells


class Unquotable(InputError):
    """Quotation marks that do not pair; line: where that was noticed."""

    def __init__(self, message: str, line: int) -> None:
        advice = "quotation marks do not pair there; if they are part of the text, say --no-quoted"
        super().__init__(f"{message} ({advice})")
        self.line = line


# The likeliest first.
CELLS = {
    "csv": (Cells(",", True), Cells(";", True), Cells("\t", True)),
    "tsv": (Cells("\t", True), Cells("\t", False)),
}


def _separated(kind: str) -> Callable[[BinaryIO, TableSource, ExitStack], Table]:
    def read(file: BinaryIO, source: TableSource, stack: ExitStack) -> Table:
        lines = numbered_lines(file, source.name, ends=True)
        first, whole = _first(lines)
        cells = _cells(first, whole, _likely(kind, source.quoted))
        rows = cells.rows(chain(first, lines), source.name)
        sample = list(islice(rows, SAMPLE_ROWS))
        header, sure = _header([row for _, row in sample], source)
        names = _names([row for _, row in sample], header)
        named = _with_names(names, islice(chain(sample, rows), int(header), None), source)
        shown = [row for _, row in _with_names(names, sample[int(header) :], source)]
        return Table(names, shown, lambda columns: named, said=_said(cells, header, sure), doubt=_doubt(header, sure))

    return read


TABLES: dict[str, Callable[[BinaryIO, TableSource, ExitStack], Table]] = {
    "csv": _separated("csv"),
    "tsv": _separated("tsv"),
    "jsonl": _jsonl,
    "parquet": _parquet,
}


def _likely(kind: str, quoted: bool | None) -> tuple[Cells, ...]:
    said = (cells if quoted is None else Cells(cells.separator, quoted) for cells in CELLS[kind])
    return tuple(dict.fromkeys(said))


def _first(lines: Iterator[tuple[int, str]]) -> tuple[list[tuple[int, str]], bool]:
    """The lines that guesses are made from, and whether these are all."""
    first, size = [], 0
    for number, line in lines:
        first.append((number, line))
        size += len(line)
        if size > SAMPLE_CHARACTERS:
            return first, False
    return first, True


def _cells(lines: Sequence[tuple[int, str]], whole: bool, likely: Sequence[Cells]) -> Cells:
    """How the lines are divided: the first way that gives all rows the same two columns or more.

    If there is none, that which gives most columns to the first row: the row that does not fit will be named.
    """
    for cells in likely:
        plain = len(likely) > 1 and cells.separator == "\t" and not any(QUOTED_CELL.search(line) for _, line in lines)
        if not (cells.quoted and plain) and _consistent(cells, lines, whole):
            return cells
    return max(reversed(likely), key=lambda cells: _width(cells, lines))


def _consistent(cells: Cells, lines: Sequence[tuple[int, str]], whole: bool) -> bool:
    widths: set[int] = set()
    done = 0
    try:
        for number, row in cells.rows(lines, ""):
            widths.add(len(row))
            done = number
    except Unquotable as error:
        cut = not whole and error.line == len(lines) and error.line - done <= OPEN_LINES
        if not cut:
            return False
    return len(widths) == 1 and min(widths) > 1


def _width(cells: Cells, lines: Sequence[tuple[int, str]]) -> int:
    try:
        return max((len(row) for _, row in islice(cells.rows(lines, ""), 1)), default=0)
    except Unquotable:
        return 0


def _header(rows: Sequence[Sequence[str]], source: TableSource) -> tuple[bool, bool]:
    """Whether the first row holds names, and whether that is sure: it is said, or one of them is usual."""
    if source.header is not None:
        return source.header, True
    if not rows:
        return False, False
    first, rest = rows[0], rows[1:]
    if any(known(cell) or plain(cell) in source.texts for cell in first):
        return True, True
    if len(first) == 1:  # of texts alone, any could be the name of the others
        return False, False
    if len(set(first)) < len(first) or any(not cell.strip() or cell.isdigit() or is_number(cell) for cell in first):
        return False, False
    return bool(rest) and (_words_over_texts if source.texts else _comes_once)(first, rest), False


def _comes_once(first: Sequence[str], rest: Sequence[Sequence[str]]) -> bool:
    """Whether no cell comes again in its column."""
    return not any(a == b for row in rest for a, b in zip(first, row))


def _words_over_texts(first: Sequence[str], rest: Sequence[Sequence[str]]) -> bool:
    """Whether the cells are single words, in some column over texts of several, or codes of languages."""
    if all(map(LANGUAGE.fullmatch, first)):
        return True
    several = [sum(" " in cell.strip() for cell in column) for column in zip(*rest)]
    return not any(" " in cell.strip() for cell in first) and any(2 * count >= len(rest) for count in several)


def _names(rows: Sequence[Sequence[str]], header: bool) -> tuple[str, ...]:
    first = rows[0] if rows else ()
    return tuple((cell.strip() if header else "") or str(i) for i, cell in enumerate(first, start=1))


def _with_names(
    names: Sequence[str], rows: Iterable[tuple[int, list[str]]], source: TableSource
) -> Iterator[tuple[int, Row]]:
    """The rows as cells by name. Raises InputError, naming the line, on a row of more or fewer cells."""
    for number, row in rows:
        if len(row) != len(names) and not (source.surplus and len(row) > len(names)):
            has = f"{len(row)} {'cell' if len(row) == 1 else 'cells'}"
            hint = "; if what stands beyond them does not count, say --surplus" if len(row) > len(names) else ""
            columns = f"{len(names)} columns: {some(names)}"
            raise InputError(f"{source.name}: line {number} has {has}, but there are {columns}{hint}")
        yield number, dict(zip(names, row))


SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def _said(cells: Cells, header: bool, sure: bool) -> str:
    quotes = "quotation marks around cells" if cells.quoted else "quotation marks as they are"
    names = "names in the first row" if header else "no names, so columns are numbered from 1"
    lost = "; if that is a row like the others, say --no-header" if header and not sure else ""
    return f"{SEPARATORS[cells.separator]}, {quotes}, {names}{lost}"


def _doubt(header: bool, sure: bool) -> str:
    if sure:
        return ""
    return f"; if its first row holds {'no names, say --no-header' if header else 'names, say --header'}"
