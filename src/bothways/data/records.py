"""What is in a file, piece by piece: bytes unpacked, numbered lines, JSON objects, rows of Parquet and of data sets.

Nothing is held but the piece at hand (of Parquet, one batch of rows), and whatever cannot be read is named with its
file and line or row.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from bothways.errors import InputError, MissingExtraError

__all__ = [
    "COMPRESSED",
    "MOST_BYTES",
    "STANDARD_INPUT",
    "data_set",
    "data_set_rows",
    "json_objects",
    "json_row",
    "json_value",
    "numbered_lines",
    "opened",
    "parquet_names",
    "parquet_rows",
    "parquet_table",
    "some",
    "text_of",
]

# A line or a document of more bytes than this is taken for a damaged file, so that memory stays bounded.
MOST_BYTES = 1 << 28
PARQUET_ROWS = 256
STANDARD_INPUT = "-"
COMPRESSED = (".gz", ".zst")
DAMAGED = (EOFError, OSError, zlib.error)


def opened(name: str, stack: ExitStack) -> BinaryIO:
    """The file's bytes, decompressed if its first bytes say that they have to be: no UTF-8 text begins like that.

    name: a path, or "-" for standard input.    Raises InputError if it cannot be opened.
    """
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


def numbered_lines(file: BinaryIO, name: str, *, ends: bool = False) -> Iterator[tuple[int, str]]:
    """The lines of UTF-8 text, numbered from 1, without a byte-order mark; ends: with what ends each.

    Raises InputError on a line that is too long or not UTF-8.
    """
    for number, line in enumerate(iter(partial(_line, file, name), b""), start=1):
        if len(line) > MOST_BYTES:
            raise InputError(f"{name}: line {number} is longer than {MOST_BYTES:,} bytes")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{name}: line {number} is not UTF-8 (byte {error.start}); convert the file first"
            ) from None
        yield number, text if ends else text.rstrip("\r\n")


def _line(file: BinaryIO, name: str) -> bytes:
    try:
        return file.readline(MOST_BYTES + 1)
    except DAMAGED as error:
        raise InputError(f"{name}: cannot be read to its end: {error}") from None


def json_objects(file: BinaryIO, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of JSON lines, with the number of each line. Raises InputError, naming the line, on anything else."""
    for number, line in numbered_lines(file, name):
        if line.strip():
            yield number, json_row(line, f"{name}: line {number}")


def json_row(line: str, place: str) -> dict[str, Any]:
    """The object that a line holds. Raises InputError, naming the place, if it holds none."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{place} is not JSON: {error.msg} in column {error.colno}") from None
    except (RecursionError, ValueError) as error:
        raise InputError(f"{place} is not JSON that can be read: {error}") from None
    if not isinstance(row, dict):
        raise InputError(f"{place}: an object was expected, not a {type(row).__name__}")
    return row


def json_value(file: BinaryIO, name: str, most: int) -> Any:
    """The value that is the whole of a file; of JSON lines, the list of their objects.

    most: how many bytes it may have, since all are held.    Raises InputError, naming the line, on anything else.
    """
    try:
        data = file.read(most + 1)
    except DAMAGED as error:
        raise InputError(f"{name}: cannot be read to its end: {error}") from None
    if len(data) > most:
        raise InputError(f"{name}: more than {most:,} bytes, too many for a single JSON value; write JSON lines")
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8 (byte {error.start}); convert the file first") from None
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and data[:1] == b"{":
            return [row for _, row in json_objects(io.BytesIO(data), name)]
        raise InputError(f"{name}: line {error.lineno} is not JSON: {error.msg} in column {error.colno}") from None
    except (RecursionError, ValueError) as error:
        raise InputError(f"{name}: not JSON that can be read: {error}") from None


def text_of(value: Any, place: str, column: str) -> str:
    """The value, if it is a text that can be written as UTF-8. Raises InputError, naming place and column, if not."""
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


def some(names: Iterable[Any]) -> str:
    """Names for a message: the first of them."""
    names = [str(name)[:40] for name in islice(names, 9)]
    return ", ".join(names[:8]) + (", …" if names[8:] else "") if names else "none"


def parquet_table(file: BinaryIO, name: str, spool: BinaryIO) -> Any:
    """The opened table.

    spool: an empty file on disk for the bytes, if they can be read only once through.
    """
    _pyarrow()
    from pyarrow import parquet

    with _readable(name):
        return parquet.ParquetFile(_seekable(file, spool), pre_buffer=False, buffer_size=1 << 20)


def parquet_names(table: Any) -> list[str]:
    """The names of the table's columns."""
    return list(table.schema_arrow.names)


def parquet_rows(table: Any, name: str, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows, numbered from 1, with these columns only. Raises InputError if the file is damaged."""
    batches = table.iter_batches(PARQUET_ROWS, columns=list(columns))
    row = 0
    while True:
        with _readable(name):
            batch = next(batches, None)
            if batch is None:
                return
            rows = batch.to_pylist()
        yield from enumerate(rows, start=row + 1)
        row += len(rows)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except (*DAMAGED, _pyarrow().ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{name}: not a Parquet file that can be read: {str(error)[:200]}") from None


def _seekable(file: BinaryIO, spool: BinaryIO) -> BinaryIO:
    """The file, or a copy of it on disk if it can be read only once through."""
    if isinstance(file, io.BufferedReader) and file.seekable() and not _is_arrow(file.raw):
        return file
    shutil.copyfileobj(file, spool)
    return spool


def _is_arrow(stream: Any) -> bool:
    return isinstance(stream, _pyarrow().NativeFile)


def data_set(name: str, split: str) -> Any:
    """A split of a data set: of a folder that the library saved, or of the hub, streamed; can be iterated again."""
    try:
        import datasets
    except ImportError:
        raise MissingExtraError('data sets are read with datasets: pip install "bothways[datasets]"') from None
    with _reachable(name):
        rows = _saved(name, split, datasets) if Path(name).is_dir() else None
        return datasets.load_dataset(name, split=split, streaming=True) if rows is None else rows


def data_set_rows(rows: Any, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a data set, numbered from 1. Raises InputError on whatever its library raises."""
    with _reachable(name):
        remaining = enumerate(rows, start=1)
    while True:
        with _reachable(name):
            row = next(remaining, None)
        if row is None:
            return
        yield row


@contextmanager
def _reachable(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever the library, or the network behind it, raises
        raise InputError(f"{name}: cannot be read as a data set: {type(error).__name__}: {str(error)[:300]}") from None


def _saved(name: str, split: str, datasets: Any) -> Any:
    """A folder that `save_to_disk` wrote; None if it is not one."""
    folder = Path(name)
    if not any((folder / file).exists() for file in ("state.json", "dataset_dict.json")):
        return None
    saved = datasets.load_from_disk(name)
    return saved if (folder / "state.json").exists() else saved[split]
