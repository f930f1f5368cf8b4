"""The keys of a pretraining run for `--help`: what their classes' docstrings say of them, with the defaults."""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any

from bothways.cli.settings import PARTS, RunFlags

__all__ = ["keys_told"]

NARROWEST, WIDEST = 40, 100


def keys_told(parts: Sequence[type[Any]] = (*PARTS.values(), RunFlags)) -> str:
    """Every key of some parts, by default of a pretraining run, a paragraph each."""
    width = max(NARROWEST, min(WIDEST, shutil.get_terminal_size().columns)) - 1
    told = [*(entry for part in parts for entry in _entries(part))]
    return "Keys of the file; each is a flag, too (--batch-tokens 4096), which wins:\n\n" + "\n".join(
        textwrap.fill(entry, width, initial_indent="  ", subsequent_indent="      ") for entry in told
    )


def _entries(part: type[Any]) -> Iterator[str]:
    """ "key (default): what the docstring says of it", for keys it explains together in one entry."""
    known = {one.name: one for one in fields(part)}
    doc = " " * 4 + " ".join(f"{line}\n" for line in inspect.cleandoc(part.__doc__ or "").split("\n"))
    names = "|".join(known)
    starts = list(re.finditer(rf"(?:^|\n|\s{{4}})\s*((?:{names})(?:, (?:{names}))*): ", doc))
    for start, behind in zip(starts, [*(one.start() for one in starts[1:]), len(doc)]):
        keys = start[1].split(", ")
        said = " ".join(doc[start.end() : behind].split()).partition(" Raises ")[0]
        yield f"{', '.join(f'{key} ({_default(known[key])})' for key in keys)}: {said}"


def _default(field: Field[Any]) -> str:
    value = field.default
    if value is None or value is MISSING:
        return "-"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, str) and value.isspace():
        return repr(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
