"""From tokens with scores to entities, by the rules of transformers: which tokens are one word, which words one entity.

tokens → (`first`, `average`, `max`: words with one label each) → neighbours of one kind → characters of the text
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bothways.text.tokenizer import Encoded, Tokenizer
from bothways.text.windows import Place

__all__ = ["STRATEGIES", "Piece", "Span", "entities", "first_pieces", "is_span_label", "joiner", "pieces_of", "trimmed"]

Span = tuple[int, int]
"""Characters of a text, from and to."""
Scores = NDArray[np.float32]
PREFIXES = ("B-", "I-")


@dataclass(frozen=True)
class Piece:
    """A token of a text.

    word: how it is spelt; the text itself where the vocabulary does not have it.    span: as the tokenizer says it, so
    it may begin with a space.    joined: whether it goes on with the word before, as far as transformers can tell.
    """

    word: str
    span: Span
    joined: bool


@dataclass(frozen=True)
class _Said:
    """What is said of a token, or of a word's tokens."""

    label: str
    score: float
    word: str
    spans: tuple[Span, ...]


def pieces_of(text: str, windows: Sequence[Encoded], places: Sequence[Place], tokenizer: Tokenizer) -> list[Piece]:
    """The tokens of a text that is read in windows, each from the row that speaks for it."""
    unknown = tokenizer.id_of("unk")
    marked = bool(getattr(tokenizer.backend.model, "continuing_subword_prefix", None))
    parts = [(window.ids, window.tokens, window.offsets) for window in windows]
    pieces = []
    for number, row in places:
        ids, tokens, offsets = parts[number]
        word, (start, end) = tokens[row], offsets[row]
        if ids[row] == unknown:
            pieces.append(Piece(text[start:end], (start, end), False))
        elif marked:
            pieces.append(Piece(word, (start, end), len(word) != end - start))
        else:
            pieces.append(Piece(word, (start, end), start > 0 and " " not in text[start - 1 : start + 1]))
    return pieces


def joiner(tokenizer: Tokenizer) -> Callable[[list[str]], str]:
    """Tokens to text, as the tokenizer's own decoder joins them."""
    decoder = tokenizer.backend.decoder
    return " ".join if decoder is None else decoder.decode


def _one_by_one(pieces: Sequence[Piece], scores: Scores, names: Sequence[str]) -> list[_Said]:
    best = scores.argmax(1)
    return [
        _Said(names[label], float(own[label]), piece.word, (piece.span,))
        for piece, own, label in zip(pieces, scores, best.tolist())
    ]


REDUCE: dict[str, Callable[[Scores], Scores]] = {
    "first": lambda scores: scores[0],
    "average": lambda scores: scores.mean(0),
    "max": lambda scores: scores[scores.max(1).argmax()],
}
"""What a word's label is read from: scores [pieces, labels] → [labels]."""
STRATEGIES = ("none", "simple", *REDUCE)


def _words(pieces: Sequence[Piece]) -> list[slice]:
    """The pieces of each word: those that are joined to the one before, and that one."""
    starts = [i for i, piece in enumerate(pieces) if i == 0 or not piece.joined]
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], len(pieces)])]


def _word_by_word(
    pieces: Sequence[Piece], scores: Scores, names: Sequence[str], strategy: str, join: Callable[[list[str]], str]
) -> list[_Said]:
    said = []
    for word in _words(pieces):
        own = REDUCE[strategy](scores[word])
        label = int(own.argmax())
        spelt = join([piece.word for piece in pieces[word]])
        said.append(_Said(names[label], float(own[label]), spelt, tuple(piece.span for piece in pieces[word])))
    return said


def is_span_label(name: str) -> bool:
    """Whether a label says where in an entity a word is."""
    return name.startswith(PREFIXES)


def _kind(label: str) -> str:
    return label[2:] if is_span_label(label) else label


def _grouped(said: Sequence[_Said]) -> list[list[_Said]]:
    """Neighbours of one kind; a label that says B- begins a new one."""
    groups: list[list[_Said]] = []
    for one in said:
        if groups and _kind(one.label) == _kind(groups[-1][-1].label) and not one.label.startswith("B-"):
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def entities(
    text: str,
    pieces: Sequence[Piece],
    scores: Scores,
    names: Sequence[str],
    strategy: str,
    join: Callable[[list[str]], str],
    first: int = 1,
) -> list[dict[str, Any]]:
    """What is said of a text, in the shape of transformers, with "O" and all others.

    scores: [pieces, labels].    strategy: one of STRATEGIES; "none" gives an entry a token.    join: see `joiner`.
    first: the number of the first token.
    """
    if strategy == "none":
        said = _one_by_one(pieces, scores, names)
        return [
            {"entity": one.label, "score": one.score, "index": first + i, "word": one.word, **_where(text, one.spans)}
            for i, one in enumerate(said)
        ]
    if strategy == "simple":
        said = _one_by_one(pieces, scores, names)
    else:
        said = _word_by_word(pieces, scores, names, strategy, join)
    return [
        {
            "entity_group": group[0].label.split("-", 1)[-1],
            "score": sum(one.score for one in group) / len(group),
            "word": join([one.word for one in group]),
            **_where(text, [span for one in group for span in one.spans]),
        }
        for group in _grouped(said)
    ]


def _where(text: str, spans: Sequence[Span]) -> dict[str, int]:
    start, end = trimmed(text, spans)
    return {"start": start, "end": end}


def trimmed(text: str, spans: Sequence[Span]) -> Span:
    """From the first to the last character of tokens, without the space around them that tokenizers count as theirs.

    Tokens without characters do not count; where there are no others, or only space, the span is empty.
    """
    real = [span for span in spans if span[0] < span[1]]
    if not real:
        return spans[0]
    start, end = min(span[0] for span in real), max(span[1] for span in real)
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end


def first_pieces(spans: Sequence[Span], words: Sequence[Span]) -> list[int | None]:
    """For each word the first token that has a character of it; None where there is none."""
    first: dict[int, int] = {}
    for token, (start, end) in enumerate(spans):
        for character in range(start, end):
            first.setdefault(character, token)
    found = ([first[i] for i in range(start, end) if i in first] for start, end in words)
    return [min(tokens, default=None) for tokens in found]
