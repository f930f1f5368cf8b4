"""Which columns of a table hold the text, its pair and the label: said, or guessed by names, then by values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, TypeAlias

from bothways.data.records import some
from bothways.errors import InputError

__all__ = [
    "Columns",
    "NoColumn",
    "Row",
    "cell",
    "find_column",
    "find_columns",
    "is_integer",
    "is_number",
    "known",
    "plain",
]

Row: TypeAlias = Mapping[str, Any]

# Names as `plain` writes them, the surest first.
PAIRS = (
    ("sentence1", "sentence2"),
    ("text1", "text2"),
    ("texta", "textb"),
    ("1string", "2string"),  # MRPC's "#1 String"
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("text", "textpair"),
    ("question", "sentence"),
    ("query", "passage"),
    ("query", "document"),
)
TEXTS = ("text", "sentence", "review", "content", "comment", "tweet", "utterance", "message", "document", "question")
LABELS = (
    *("label", "labels", "goldlabel", "score", "quality", "class", "category", "target", "sentiment", "intent"),
    *("rating", "stars", "similarity", "isduplicate", "emotion", "topic"),
)
NAMES = frozenset((*TEXTS, *LABELS, *(name for pair in PAIRS for name in pair)))

# What tells prose from codes, and labels from numbers of rows.
PROSE_LENGTH = 12
MOST_LABELS = 100
FEW_ROWS = 10

# "007" is a code, not a number, and so are more digits than anyone counts to.
WHOLE = r"[+-]?(0|[1-9][0-9]{0,30})"
INTEGER = re.compile(rf"\s*{WHOLE}\s*")
NUMBER = re.compile(
    rf"\s*({WHOLE}(\.[0-9]*)?([eE][+-]?[0-9]+)?|[+-]?\.[0-9]+([eE][+-]?[0-9]+)?|[+-]?(nan|inf|infinity))\s*",
    re.IGNORECASE,
)


class NoColumn(InputError):
    """A column that is wanted is not there, or names leave it open which one it is: maybe they are no names."""


@dataclass(frozen=True)
class Columns:
    """The names of columns; None for those that there are not, or that are still to be found."""

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None

    def said(self) -> str:
        """As a list for people: `text 'sentence', label 'label'`."""
        parts = (("text", self.text), ("second text", self.text_pair), ("label", self.label))
        return ", ".join(f"{role} {name!r}" for role, name in parts if name is not None)

    def given(self) -> list[str]:
        """The names that there are."""
        return [name for name in (self.text, self.text_pair, self.label) if name is not None]


def find_columns(
    wanted: Columns, names: Sequence[str], sample: Sequence[Row], table: str, *, labelled: bool = True
) -> Columns:
    """The columns: those wanted, and for what is not said the likeliest.

    A second text is looked for only where the first one is not said either.
    table: what messages call it.    labelled: whether there must be a label; if not, it is found by its name or not at
    all, even one that is wanted.    Raises InputError on a name that is not there (with the nearest that is), or if
    names and values leave it open which column it is.
    """
    if not labelled and wanted.label not in names:
        wanted = replace(wanted, label=None)
    for role, name in (("--text", wanted.text), ("--text-pair", wanted.text_pair), ("--label", wanted.label)):
        if name is not None:
            _check(name, names, table, role)
    found = wanted
    if found.label is None:
        found = replace(found, label=_named(LABELS, names, found.given()))
    if found.text is None:
        found = _texts_by_name(found, names) or _only_text(found, names, labelled)
        found = found if found.text is not None else _texts_by_value(found, names, sample, table)
    if found.label is None and labelled:
        found = replace(found, label=_label_by_value(found, names, sample, table))
    for name in found.given():
        _check(name, names, table, "another")
    return found


def find_column(wanted: str | None, likely: Sequence[str], names: Sequence[str], table: str, flag: str) -> str | None:
    """The column that is wanted, or else the one with the likeliest name; None if no column has such a name.

    likely: names in small letters and digits only, the surest first.    flag: how another one is said.
    Raises InputError on a wanted name that is not there, and on a name that two columns have.
    """
    found = wanted if wanted is not None else _named(likely, names, ())
    if found is not None:
        _check(found, names, table, flag)
    return found


def cell(row: Row, column: str, place: str) -> Any:
    """What a row has in a column. Raises InputError, naming the place and the nearest field, if it has none."""
    if column not in row:
        near = get_close_matches(column, row, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{place} has no field {column!r}; it has {some(row)}{hint}")
    return row[column]


def known(name: str) -> bool:
    """Whether tables use this name for a text or a label."""
    return plain(name) in NAMES


def is_integer(value: Any) -> bool:
    """Whether the value is a whole number, or the spelling of one."""
    return type(value) is int or (isinstance(value, str) and INTEGER.fullmatch(value) is not None)


def is_number(value: Any) -> bool:
    """Whether the value is a number, or the spelling of one; NaN is."""
    return type(value) in (int, float) or (isinstance(value, str) and NUMBER.fullmatch(value) is not None)


def plain(name: str) -> str:
    """The name in small letters and digits only."""
    return re.sub(r"[\W_]", "", name.lower())


def _check(name: str, names: Sequence[str], table: str, flag: str) -> None:
    if names.count(name) == 1:
        return
    if name in names:
        raise InputError(f"{table} has {names.count(name)} columns called {name!r}; rename them, or give {flag} one")
    by_case = {other.lower(): other for other in names}
    near = get_close_matches(name.lower(), by_case, n=1)
    hint = f"; did you mean {by_case[near[0]]!r}?" if near else ""
    raise NoColumn(f"{table} has no column {name!r}; it has {some(names)}{hint}")


def _named(likely: Sequence[str], names: Sequence[str], taken: Sequence[str]) -> str | None:
    free = {plain(name): name for name in reversed(names) if name not in taken}
    return next((free[name] for name in likely if name in free), None)


def _texts_by_name(found: Columns, names: Sequence[str]) -> Columns | None:
    taken = found.given()
    if found.text_pair is None:
        for first, second in PAIRS:
            text, pair = _named((first,), names, taken), _named((second,), names, taken)
            if text is not None and pair is not None:
                return replace(found, text=text, text_pair=pair)
    text = _named((*TEXTS, *(first for first, _ in PAIRS)), names, taken)
    return None if text is None else replace(found, text=text)


def _only_text(found: Columns, names: Sequence[str], labelled: bool) -> Columns:
    """With the text in the only column, where there need be no other one."""
    return found if labelled or len(names) > 1 or found.given() else replace(found, text=names[0])


def _texts_by_value(found: Columns, names: Sequence[str], sample: Sequence[Row], table: str) -> Columns:
    prose = [name for name in names if name not in found.given() and _is_prose(_values(sample, name))]
    if len(prose) == 1 or (prose and found.text_pair is not None):
        return replace(found, text=prose[0])
    if len(prose) == 2:
        return replace(found, text=prose[0], text_pair=prose[1])
    raise NoColumn(f"{table}: cannot tell which column is the text; say --text; it has {some(names)}")


def _label_by_value(found: Columns, names: Sequence[str], sample: Sequence[Row], table: str) -> str:
    free = {name: _values(sample, name) for name in names if name not in found.given()}
    for kind in LABEL_KINDS:
        likely = [name for name, values in free.items() if values and kind(values)]
        if len(likely) == 1:
            return likely[0]
        if likely:
            break
    raise NoColumn(f"{table}: cannot tell which column is the label; say --label; it has {some(names)}")


def _values(sample: Sequence[Row], name: str) -> list[Any]:
    return [row.get(name) for row in sample]


def _is_prose(values: Sequence[Any]) -> bool:
    """Texts of several words, most of which come once."""
    texts = [value for value in values if isinstance(value, str)]
    if not texts or len(texts) < len(values) or 2 * len(set(texts)) < len(texts):
        return False
    return sum(map(len, texts)) >= PROSE_LENGTH * len(texts) and 2 * sum(" " in text for text in texts) >= len(texts)


def _come_again(values: Sequence[Any]) -> bool:
    """Few values, each of them several times, as labels are."""
    different = len({str(value) for value in values})
    return 2 <= different <= MOST_LABELS and (2 * different <= len(values) or len(values) < FEW_ROWS)


# Which values are likely to be labels, the likeliest kind first: whole numbers, other numbers, words.
LABEL_KINDS: tuple[Callable[[Sequence[Any]], bool], ...] = (
    lambda values: all(map(is_integer, values)) and _come_again(values),
    lambda values: all(map(is_number, values)) and not all(map(is_integer, values)),
    lambda values: all(isinstance(value, str) and value.strip() for value in values) and _come_again(values),
)
