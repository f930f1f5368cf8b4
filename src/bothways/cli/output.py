"""What commands print: JSON for machines, tables for people."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

__all__ = ["print_json", "print_table", "printable"]

LEAST_TEXT = 24  # columns that the last column of a table gets at least


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
    """A table that fits the terminal if numbers and a little text do.

    text: the columns that stand to the left; by default the last one, which alone is broken into lines.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title)) if title else None, title_justify="left", box=box.SIMPLE_HEAD)
    for i, column in enumerate(columns):
        last = i == len(columns) - 1
        left = last if text is None else column in text
        table.add_column(column, justify="left" if left else "right", overflow="fold", no_wrap=not last)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console()
    widest = sum(max(len(cell) for cell in cells) + 2 for cells in zip(columns[:-1], *(row[:-1] for row in rows)))
    if widest + LEAST_TEXT > console.width:
        console.width = widest + LEAST_TEXT  # numbers are not broken: such lines are left to the terminal to wrap
    console.print(table)


def printable(text: str) -> str:
    """The text on one line and without characters that would steer the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)
