"""Documents out of files of any size, one at a time: text, JSON lines, Parquet, each also compressed, and data sets.

Only one document is held at a time (of Parquet, one batch of rows), and whatever cannot be read is named with its file
and line or row.
"""

from __future__ import annotations

import glob
import gzip
import io
import json
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from bothways.errors import InputError, MissingExtraError

__all__ = ["FORMATS", "Source", "documents"]

# A line or a document of more bytes than this is taken for a damaged file, so that memory stays bounded.
MOST_BYTES = 1 << 28
PARQUET_ROWS = 256
STANDARD_INPUT = "-"
SUFFIXES = {".txt": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
COMPRESSED = (".gz", ".zst")
DAMAGED = (EOFError, OSError, zlib.error)


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
        yield from FORMATS[kind](_open(name, stack), name, column, lines)


def _open(name: str, stack: ExitStack) -> BinaryIO:
    """The file's bytes, decompressed if its first bytes say that they have to be: no UTF-8 text begins like that."""
    try:
        file = sys.stdin.buffer if name == STANDARD_INPUT else stack.enter_context(Path(name).open("rb"))  # noqa: SIM115
        buffered = file if isinstance(file, io.BufferedReader) else io.BufferedReader(cast(io.RawIOBase, file))
        head = buffered.peek(4)
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror or error}") from None
    for magic, decompress in MAGIC.items():
        if head.startswith(magic):
            return stack.enter_context(decompress(buffered))
    return buffered


def _gunzip(file: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(fileobj=file))


def _unzstd(file: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_pyarrow().CompressedInputStream(file, "zstd"), 1 << 20))


MAGIC: dict[bytes, Callable[[BinaryIO], BinaryIO]] = {b"\x1f\x8b": _gunzip, b"\x28\xb5\x2f\xfd": _unzstd}


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise MissingExtraError('reading zstd and Parquet takes pyarrow: pip install "bothways[corpus]"') from None
    return pyarrow


def _lines(file: BinaryIO, name: str) -> Iterator[tuple[int, str]]:
    """The lines of UTF-8 text, numbered from 1, without their ends."""
    for number, line in enumerate(iter(partial(_line, file, name), b""), start=1):
        if len(line) > MOST_BYTES:
            raise InputError(f"{name}: line {number} is longer than {MOST_BYTES:,} bytes")
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{name}: line {number} is not UTF-8 (byte {error.start}); convert the file first"
            ) from None


def _line(file: BinaryIO, name: str) -> bytes:
    try:
        return file.readline(MOST_BYTES + 1)
    except DAMAGED as error:
        raise InputError(f"{name}: cannot be read to its end: {error}") from None


def _txt(file: BinaryIO, name: str, column: str, lines: bool) -> Iterator[str]:
    if lines:
        yield from (text for _, text in _lines(file, name))
        return
    document: list[str] = []
    size = 0
    for number, line in _lines(file, name):
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
    for number, line in _lines(file, name):
        if line.strip():
            yield _field(line, f"{name}: line {number}", column)


def _field(line: str, place: str, column: str) -> str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{place} is not JSON: {error.msg} in column {error.colno}") from None
    except (RecursionError, ValueError) as error:
        raise InputError(f"{place} is not JSON that can be read: {error}") from None
    if not isinstance(row, dict):
        raise InputError(f"{place}: an object was expected, not a {type(row).__name__}")
    if column not in row:
        raise InputError(f"{place} has no field {column!r}; it has {_some(row)}; say which with --column")
    return _text(row[column], place, column)


def _text(value: Any, place: str, column: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{place}: {column!r} is not a text but {type(value).__name__}: {value!r:.60}")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"{place}: character {error.start} is half of a surrogate pair, which no text has"
            ) from None
    return value


def _some(names: Any) -> str:
    names = [str(name)[:40] for name in names]
    return ", ".join(names[:8]) + (", …" if names[8:] else "") if names else "none"


def _parquet(file: BinaryIO, name: str, column: str, lines: bool) -> Iterator[str]:
    _pyarrow()
    from pyarrow import parquet

    with tempfile.TemporaryFile() as spool:
        try:
            table = parquet.ParquetFile(_seekable(file, spool), pre_buffer=False, buffer_size=1 << 20)
            if column not in table.schema_arrow.names:
                columns = _some(table.schema_arrow.names)
                raise InputError(f"{name} has no column {column!r}; it has {columns}; say which with --column")
            row = 0
            for batch in table.iter_batches(PARQUET_ROWS, columns=[column]):
                for value in batch.column(0).to_pylist():
                    row += 1
                    yield _text(value, f"{name}: row {row}", column)
        except (*DAMAGED, _pyarrow().ArrowException, UnicodeDecodeError) as error:
            raise InputError(f"{name}: not a Parquet file that can be read: {str(error)[:200]}") from None


def _seekable(file: BinaryIO, spool: Any) -> Any:
    """The file, or a copy of it on disk if it can be read only once through."""
    if isinstance(file, io.BufferedReader) and file.seekable() and not _is_arrow(file.raw):
        return file
    shutil.copyfileobj(file, spool)
    return spool


def _is_arrow(stream: Any) -> bool:
    return isinstance(stream, _pyarrow().NativeFile)


FORMATS: dict[str, Callable[[BinaryIO, str, str, bool], Iterator[str]]] = {
    "txt": _txt,
    "jsonl": _jsonl,
    "parquet": _parquet,
}


def _dataset(name: str, split: str, column: str) -> Iterator[str]:
    """The rows of a data set, streamed."""
    try:
        import datasets
    except ImportError:
        raise MissingExtraError('data sets are read with datasets: pip install "bothways[datasets]"') from None
    try:
        rows = _saved(name, split, datasets) if Path(name).is_dir() else None
        rows = datasets.load_dataset(name, split=split, streaming=True) if rows is None else rows
        for number, row in enumerate(rows, start=1):
            place = f"{name}: row {number}"
            if column not in row:
                raise InputError(f"{place} has no column {column!r}; it has {_some(row)}; say which with --column")
            text = _text(row[column], place, column)
            if text and not text.isspace():
                yield text
    except InputError:
        raise
    except Exception as error:  # whatever the library, or the network behind it, raises
        raise InputError(f"{name}: cannot be read as a data set: {type(error).__name__}: {str(error)[:300]}") from None


def _saved(name: str, split: str, datasets: Any) -> Any:
    """A folder that `save_to_disk` wrote; None if it is not one."""
    folder = Path(name)
    if not any((folder / file).exists() for file in ("state.json", "dataset_dict.json")):
        return None
    saved = datasets.load_from_disk(name)
    return saved if (folder / "state.json").exists() else saved[split]
