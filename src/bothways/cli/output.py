"""What commands print: JSON for machines, tables for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import TextIOWrapper
from typing import Any

__all__ = [
    "BETWEEN",
    "LEAST_TEXT",
    "StandardOutputError",
    "print_json",
    "print_table",
    "print_words",
    "printable",
    "shorten",
    "terminal_width",
    "told_apart",
]

LEAST_TEXT = 24  # columns that the last column of a table gets at least, if it is text
BETWEEN = 2  # blanks between two columns


class StandardOutputError(Exception):
    """Standard output cannot be written. No OSError, so that nothing takes it for an error of a file.

    closed: since nobody reads it any more.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(f"standard output cannot be written: {error.strerror}")
        self.closed = isinstance(error, BrokenPipeError)


@contextmanager
def told_apart() -> Iterator[None]:
    """Within, errors of standard output are `StandardOutputError`s."""
    with redirect_stdout(_StandardOutput(sys.stdout) if isinstance(sys.stdout, TextIOWrapper) else sys.stdout):
        yield


class _StandardOutput:
    """A stream that says which errors are its own."""

    def __init__(self, stream: TextIOWrapper) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with _own_errors():
            return self._stream.write(text)

    def flush(self) -> None:
        with _own_errors():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _own_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StandardOutputError(error) from error


def print_json(value: object) -> None:
    """One line of JSON on stdout."""
    print(json.dumps(value, ensure_ascii=False))


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str | None = None,
    text: Collection[str] | None = None,
) -> None:
    """A table that fits the terminal if numbers and a little text do; its title stands above it.

    text: the columns that stand to the left; by default the last one. The last one is broken into lines if it is text.
    """
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    left = columns[-1:] if text is None else text
    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False, show_edge=False)
    for i, column in enumerate(columns):
        broken = i == len(columns) - 1 and column in left
        table.add_column(column, justify="left" if column in left else "right", overflow="fold", no_wrap=not broken)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console()
    widths = [max(map(cell_len, cells)) for cells in zip(columns, *rows)]
    if columns[-1] in left:
        widths[-1] = min(widths[-1], LEAST_TEXT)
    console.print(Text("\n".join(["", *map(printable, (title or "").splitlines())])))
    # Numbers are not broken: lines that are too long are left to the terminal to wrap.
    console.width = max(console.width, sum(widths) + BETWEEN * (len(widths) - 1))
    console.print(table)


def print_words(words: Iterable[tuple[str, str]]) -> None:
    """Running text, broken into the lines of the terminal. words: each with its style, such as "bold"; "" for none."""
    from rich.console import Console
    from rich.text import Text

    shown = Text(" ").join(Text(printable(word), style=style) for word, style in words)
    Console(highlight=False).print(shown)


def terminal_width() -> int:
    """Columns that a line has; 80 where there is no terminal."""
    from rich.console import Console

    return Console().width


def shorten(text: str, longest: int = 12) -> str:
    """At most so many columns, the last of them … where some of the text is left out."""
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= longest else f"{set_cell_size(text, longest - 1).rstrip()}…"


def printable(text: str) -> str:
    """The text on one line and without characters that would steer the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)
