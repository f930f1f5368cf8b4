"""Documents out of files of any size, one at a time: text, JSON lines, Parquet, each also compressed, and data sets.

Only one document is held at a time (of Parquet, one batch of rows), and whatever cannot be read is named with its file
and line or row.
"""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from bothways.data.records import (
    COMPRESSED,
    MOST_BYTES,
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
    text_of,
)
from bothways.errors import InputError

__all__ = ["FORMATS", "Source", "documents"]

SUFFIXES = {".txt": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


@dataclass(frozen=True)
class Source:
    """Where documents come from: files, or a data set of the `datasets` library.

    inputs: files, folders (searched through, in the order of names), glob patterns, or "-" for standard input.
    dataset: the id or the folder of a data set, read in place of files, and its split.
    column: the field of JSON lines, the column of Parquet or of the data set, that holds the text.
    lines: each line of a text file is a document; else blank lines stand between documents.
    format: "txt", "jsonl" or "parquet", where the names of the files do not say.
    """

    inputs: tuple[str, ...] = ()
    dataset: str | None = None
    split: str = "train"
    column: str = "text"
    lines: bool = False
    format: str | None = None

    def __post_init__(self) -> None:
        if bool(self.inputs) == bool(self.dataset):
            raise InputError("say where the documents are: files with --input, or a data set with --dataset")

    @property
    def name(self) -> str:
        """What messages call it."""
        if self.dataset is not None:
            return f"{self.dataset} ({self.split})"
        return ", ".join(map(str, self.inputs[:8])) + (", …" if self.inputs[8:] else "")

    @property
    def repeatable(self) -> bool:
        """Whether it can be read a second time."""
        return not {STANDARD_INPUT, "/dev/stdin"}.intersection(self.inputs)

    def documents(self) -> Iterator[str]:
        """The documents, in order. Raises InputError or MissingExtraError as `documents` does."""
        if self.dataset is not None:
            return _dataset(self.dataset, self.split, self.column)
        return documents(self.inputs, column=self.column, lines=self.lines, format=self.format)


def documents(
    paths: Sequence[str | Path], *, column: str = "text", lines: bool = False, format: str | None = None
) -> Iterator[str]:
    """The documents of all files, in order; those of nothing but space are passed over.

    Arguments as for `Source`. Files may be compressed with gzip or zstd, whatever their names say.

    Raises InputError, naming file and line or row, on what cannot be read; MissingExtraError if that takes pyarrow.
    """
    if format is not None and format not in FORMATS:
        raise InputError(f"format {format!r} is not one of {', '.join(FORMATS)}")
    files = [file for path in paths for file in _files(str(path), format)]
    return (text for name, kind in files for text in _read(name, kind, column, lines) if not text.isspace() and text)


def _files(path: str, format: str | None) -> list[tuple[str, str]]:
    """The files that one argument stands for, each with its format."""
    if path == STANDARD_INPUT:
        return [(path, format or "txt")]
    if Path(path).is_dir():
        found = sorted(str(file) for file in Path(path).rglob("*") if file.is_file() and file.name[0] != ".")
        known = [(file, kind) for file in found if (kind := _format(file))]
        if not known:
            raise InputError(
                f"{path}: no file in this folder is called {', '.join(SUFFIXES)} (or those with .gz, .zst)"
            )
        return known
    found = [path] if Path(path).exists() else sorted(f for f in glob.glob(path, recursive=True) if Path(f).is_file())
    if not found:
        raise InputError(f"{path}: no such file")
    return [(file, format or _format(file) or _unknown(file)) for file in found]


def _format(file: str) -> str | None:
    path = Path(file)
    return SUFFIXES.get(Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix)


def _unknown(file: str) -> str:
    if Path(file).is_file():
        raise InputError(f"{file}: its name does not say what it is; give --format {'|'.join(FORMATS)}")
    return "txt"  # a pipe or a device


def _read(name: str, kind: str, column: str, lines: bool) -> Iterator[str]:
    with ExitStack() as stack:
        yield from FORMATS[kind](opened(name, stack), name, column, lines)


def _txt(file: BinaryIO, name: str, column: str, lines: bool) -> Iterator[str]:
    if lines:
        yield from (text for _, text in numbered_lines(file, name))
        return
    document: list[str] = []
    size = 0
    for number, line in numbered_lines(file, name):
        if not line.strip():
            yield "\n".join(document)
            document, size = [], 0
            continue
        document.append(line)
        size += len(line)
        if size > MOST_BYTES:
            advice = "put blank lines between documents, or give --lines"
            raise InputError(f"{name}: line {number}: a document of more than {MOST_BYTES:,} characters; {advice}")
    yield "\n".join(document)


def _jsonl(file: BinaryIO, name: str, column: str, lines: bool) -> Iterator[str]:
    for number, row in json_objects(file, name):
        place = f"{name}: line {number}"
        if column not in row:
            raise InputError(f"{place} has no field {column!r}; it has {some(row)}; say which with --column")
        yield text_of(row[column], place, column)


def _parquet(file: BinaryIO, name: str, column: str, lines: bool) -> Iterator[str]:
    with tempfile.TemporaryFile() as spool:
        table = parquet_table(file, name, cast(BinaryIO, spool))
        if column not in parquet_names(table):
            columns = some(parquet_names(table))
            raise InputError(f"{name} has no column {column!r}; it has {columns}; say which with --column")
        yield from _column(parquet_rows(table, name, [column]), name, column)


def _column(rows: Iterable[tuple[int, Mapping[str, Any]]], name: str, column: str) -> Iterator[str]:
    for number, row in rows:
        place = f"{name}: row {number}"
        if column not in row:
            raise InputError(f"{place} has no column {column!r}; it has {some(row)}; say which with --column")
        yield text_of(row[column], place, column)


FORMATS: dict[str, Callable[[BinaryIO, str, str, bool], Iterator[str]]] = {
    "txt": _txt,
    "jsonl": _jsonl,
    "parquet": _parquet,
}


def _dataset(name: str, split: str, column: str) -> Iterator[str]:
    """The rows of a data set, streamed."""
    rows = data_set_rows(data_set(name, split), name)
    return (text for text in _column(rows, name, column) if text and not text.isspace())
