"""Files that commands write line by line, and go on with where they were killed."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bothways.errors import InputError

if TYPE_CHECKING:
    from bothways.engine.lines import PartialLines

__all__ = ["written_lines"]


def written_lines(
    output: Path,
    made: Mapping[str, str],
    resume: bool,
    steps: Callable[[PartialLines], Iterator[int]],
    total: int | None = None,
) -> tuple[int, int]:
    """Write a file: how many rows it has, and how many of them it had before.

    made: what the lines are made from, by what to call it.    steps: adds the lines of some rows at a time, and yields
    how many these were.    total: how many rows there are, where that is known.
    """
    from bothways.engine.lines import PartialLines
    from bothways.engine.scheduler import progress

    lines = PartialLines(output, made, resume=resume)
    before = lines.rows
    if resume and not before:
        print(f"bothways: there is nothing in {output}.partial to go on with; it begins anew", file=sys.stderr)
    try:
        with lines as partial:
            deque(progress(steps(partial), total, "rows"), maxlen=0)
    except KeyboardInterrupt:
        if lines.rows:
            print(f"bothways: stopped after {lines.rows:,} rows; go on with --resume", file=sys.stderr)
        raise
    except InputError as error:
        if not lines.rows:
            raise
        raise InputError(f"{error} (the {lines.rows:,} rows before are done; go on with --resume)") from None
    return lines.rows, before
