"""Long texts as windows that overlap, and back: which window speaks for a token (Devlin et al. 2018, section A.4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from bothways.errors import InputError
from bothways.text.tokenizer import Encoded, Strategy, Tokenizer

__all__ = ["Place", "Windows", "by_text", "in_windows", "speaking"]

USUAL_SHARE = 4  # of a window, one part in so many stands in the window before, too


@dataclass(frozen=True)
class Windows:
    """How long texts are read.

    length: tokens of a window, special ones included; None: as many as the model takes.
    stride: tokens that a window shares with the one before; None: a quarter of what it has of the text.
    side: of a pair, which text is read in windows, the other one standing whole in each.
    reduce: how the scores of a text's windows become one, where the text has one answer; as `Weighing.reduce`.
    """

    length: int | None = None
    stride: int | None = None
    side: Strategy = "only_first"
    reduce: Literal["mean", "max"] = "mean"

    def __post_init__(self) -> None:
        if self.length is not None and self.length < 1:
            raise InputError(f"windows must have at least 1 token, got {self.length}")
        if self.stride is not None and self.stride < 0:
            raise InputError(f"stride must be 0 or more tokens, got {self.stride}")


class Place(NamedTuple):
    """A row of a window: its number among the windows of the text, and the row's in it."""

    window: int
    row: int


def in_windows(
    tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None, windows: Windows, longest: int
) -> list[Encoded]:
    """The windows of each text, one after another. Raises InputError where the whole text of a pair leaves no room.

    longest: tokens that the model takes.
    """
    length = longest if windows.length is None else windows.length
    if length > longest:
        raise InputError(f"windows of {length} tokens are longer than the {longest} that the model takes")
    stride = windows.stride
    if stride is None:
        stride = max(0, length - tokenizer.backend.num_special_tokens_to_add(pairs is not None)) // USUAL_SHARE
    return tokenizer.encode(texts, pairs, max_length=length, strategy=windows.side, stride=stride)


def by_text(encoded: Iterable[Encoded], texts: int) -> list[list[int]]:
    """The numbers of the windows of each of so many texts."""
    found: list[list[int]] = [[] for _ in range(texts)]
    for number, window in enumerate(encoded):
        found[window.text].append(number)
    return found


def speaking(windows: Sequence[Encoded], side: int = 0) -> list[Place]:
    """For each token of a text that is read in windows, the row that speaks for it: that with the most context on its
    poorer side; of equal ones the first.

    windows: all of one text, in order.    side: of a pair, the text that is read in windows.
    """
    best: list[tuple[int, Place]] = []
    for number, window in enumerate(windows):
        rows = [row for row, sequence in enumerate(window.sequences) if sequence == side]
        for place, row in enumerate(rows):
            context = min(place, len(rows) - 1 - place)
            token = window.start + place
            if token == len(best):
                best.append((context, Place(number, row)))
            elif context > best[token][0]:
                best[token] = context, Place(number, row)
    return [place for _, place in best]
