"""What reads parallel texts for commands: a table, a data set, or two files whose lines go together."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bothways.data.parallel import Parallel, ParallelColumns, aligned, parallel
from bothways.data.records import STANDARD_INPUT
from bothways.data.table import TABLES, TableSource, format_of
from bothways.errors import InputError

__all__ = ["file_of_sources", "parallel_rows"]


@contextmanager
def parallel_rows(
    source: TableSource,
    target: str | None = None,
    columns: ParallelColumns = ParallelColumns(),  # noqa: B008 (frozen)
    *,
    lines: str = "",
    targets: bool = True,
    skip_empty: bool = False,
) -> Iterator[Iterator[Parallel]]:
    """The rows, one by one as long as the context lasts; which columns are taken is printed, and how many rows were
    passed over.

    target: a file of targets; line by line they go with those of the source, which is no table then.
    lines: what to do where the source is one of lines, and no targets are said.    targets: whether they are needed.
    Raises InputError on what cannot be read.
    """
    if target is not None:
        reading = aligned(file_of_sources(source.path, target), target, skip_empty=skip_empty)
    else:
        _check_form(source, lines)
        reading = parallel(source, columns, targets=targets, skip_empty=skip_empty)
    with reading as found:
        print(f"bothways: {found.said}", file=sys.stderr)
        yield found.rows
        if found.empty:
            print(f"bothways: {found.empty:,} rows of which a side is empty were passed over", file=sys.stderr)


def file_of_sources(path: str | None, target: str) -> str:
    """The file whose lines go with those of a file of targets. Raises InputError where none is named."""
    if path is None:
        raise InputError(f"{target} has targets; name the file of their sources, too")
    return path


def _check_form(source: TableSource, lines: str) -> None:
    """Raise InputError on a file that may well have lines of sources, saying what to do."""
    path = source.path
    if path is None or format_of(source) is not None or path == STANDARD_INPUT or not Path(path).is_file():
        return
    raise InputError(
        f"{path}: its name does not say what it is: of lines of sources, {lines}; of a table, give "
        f"--format {'|'.join(TABLES)}"
    )
