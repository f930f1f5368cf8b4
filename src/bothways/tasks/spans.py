"""Answers as spans of a context: from scores of its tokens to characters, and from characters to tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from bothways.tasks.contexts import context_rows
from bothways.text.tokenizer import Encoded

__all__ = ["NONE", "Span", "best_spans", "null_score", "rows_of"]

NONE = (0, 0)
"""The rows that stand for an answer that is not there."""


class Span(NamedTuple):
    """Some characters of a context, `context[start:end]`, and how likely it is that they are the answer."""

    score: float
    start: int
    end: int


def best_spans(
    windows: Sequence[Encoded],
    scores: Sequence[NDArray[np.float32]],
    context: str,
    *,
    null: bool,
    count: int,
    longest: int,
) -> list[Span]:
    """The likeliest spans of a context, best first; at most `count`, and none twice.

    A span is as likely as that it begins where it does, and ends where it does, of all tokens of a window's context; in
    the window that says most of it. Blanks around it are left out.

    scores: [rows, 2] of each window, of being first and last.    null: whether the first row counts, too.
    longest: tokens that a span has at most.
    """
    found: dict[tuple[int, int], float] = {}
    for window, own in zip(windows, scores):
        for span in _spans_in(own, window, context, null, count, longest):
            place = span.start, span.end
            found[place] = max(span.score, found.get(place, 0.0))
    ranked = sorted((-score, *place) for place, score in found.items())
    return [Span(-score, start, end) for score, start, end in ranked[:count]]


def null_score(windows: Sequence[Encoded], scores: Sequence[NDArray[np.float32]]) -> float:
    """How likely it is that a context has no answer, by the window that finds it least likely.

    scores: as those of `best_spans`; the first row is the one that says it.
    """
    return min(float(_known(own, context_rows(window), True)[:, 0].prod()) for window, own in zip(windows, scores))


def rows_of(windows: Sequence[Encoded], start: int, end: int) -> list[tuple[int, int]] | None:
    """The first and the last row of `context[start:end]` in each window; NONE where that is not all in it.

    None if no token has any of these characters.
    """
    hits = [window.start + _overlapping(window, start, end) for window in windows]
    tokens = np.concatenate(hits)
    if not len(tokens):
        return None
    first, last = int(tokens.min()), int(tokens.max())
    found = []
    for window in windows:
        rows = context_rows(window)
        inside = window.start <= first and last < window.start + len(rows)
        shift = rows.start - window.start
        found.append((first + shift, last + shift) if inside else NONE)
    return found


def _overlapping(window: Encoded, start: int, end: int) -> NDArray[np.int64]:
    """Which tokens of a window's context have any of the characters, counted from its first."""
    rows = context_rows(window)
    offsets = np.array(window.offsets[rows.start : rows.stop], dtype=np.int64).reshape(-1, 2)
    starts, ends = offsets[:, 0], offsets[:, 1]
    return np.flatnonzero((starts < ends) & (starts < end) & (ends > start))


def _known(scores: NDArray[np.float32], rows: range, null: bool) -> NDArray[np.float64]:
    """[2, tokens of the context]: that each is the first one, and the last one, of the answer; before them [CLS]'s."""
    own = scores[rows.start : rows.stop]
    columns = np.ascontiguousarray((np.concatenate([scores[:1], own]) if null else own).T, dtype=np.float64)
    exp = np.exp(columns - columns.max(1, keepdims=True))
    return exp / exp.sum(1, keepdims=True)


def _spans_in(
    scores: NDArray[np.float32], window: Encoded, context: str, null: bool, count: int, longest: int
) -> list[Span]:
    """The likeliest spans of one window, best first."""
    rows, offsets = context_rows(window), window.offsets
    starts, ends = _known(scores, rows, null)[:, int(null) :]
    width = min(longest, len(rows))
    band = starts[:, None] * sliding_window_view(np.concatenate([ends, np.zeros(width - 1)]), width)
    values = band.ravel()  # [first token, tokens after it]
    tried = count
    while True:
        found: dict[tuple[int, int], float] = {}
        for place in _highest(values, tried):
            first, more = divmod(place, width)
            if first + more < len(rows) and len(found) < count:
                start, end = _trimmed(context, offsets[rows[first]][0], offsets[rows[first + more]][1])
                if start < end:
                    found.setdefault((start, end), float(values[place]))
        if len(found) == count or tried >= len(values):
            return [Span(score, start, end) for (start, end), score in found.items()]
        tried *= 4  # some were blank, or the same characters in other tokens


def _highest(values: NDArray[np.float64], count: int) -> list[int]:
    """The places of the highest values, highest first; of equal ones the first."""
    if count == 1:
        return [int(values.argmax())]
    places = np.arange(len(values))
    if count < len(values):
        places = np.sort(np.argpartition(values, len(values) - count)[-count:])
    return [int(place) for place in places[np.argsort(-values[places], kind="stable")]]


def _trimmed(context: str, start: int, end: int) -> tuple[int, int]:
    """The span without the blanks around it."""
    text = context[start:end]
    start += len(text) - len(text.lstrip())
    return start, start + len(text.strip())
