"""Words in the place of a mask: how likely they are where they have several pieces.

A word of n pieces stands in the place of n masks. Its probability is the product of its pieces', from left to right:
each piece where those before it are in place and masks are in the places of those after it. So

    P(p1 p2 | text) = P(p1 | … [MASK] [MASK] …) · P(p2 | … p1 [MASK] …)

and a word of one piece has the probability that a masked-language model gives it anyway.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from math import prod
from string import punctuation
from typing import Any, TypeVar

import torch
from torch import Tensor

from bothways.data.batch import Tokens
from bothways.errors import InputError
from bothways.tasks.task import Round
from bothways.text.tokenizer import Encoded, Tokenizer

__all__ = ["Asked", "Gap", "Scored", "Word", "best_pieces", "filled", "longer_words", "pieces_in_place", "scored_words"]

# Words kept at each step of the search; more where more are asked for.
LEAST_WIDTH = 10
# How pieces that begin a new word are marked, by vocabularies that mark those and not the others.
SPACES = ("Ġ", "Ċ", "ĉ", "č", "▁", " ")
# Those of a plain space; the others are letters of languages too.
MARKS = ("Ġ", "▁")

T = TypeVar("T")
Scored = Generator[Round, list[Any], T]
"""Rounds that lead to a T."""


@dataclass(frozen=True)
class Gap:
    """A mask: which text it is in, and at which token."""

    text: int
    place: int


@dataclass(frozen=True)
class Word:
    """Pieces in the place of a mask, and how likely they are there."""

    score: float
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Asked:
    """The likeliest tokens at some places.

    places: of each sequence of the round.    top_k: how many for each place, at most.
    among: for each sequence, the ids to choose from, int64 [C]; None for the whole vocabulary, for all of them.
    """

    places: Sequence[Sequence[int]]
    top_k: int
    among: Sequence[Tensor] | None = None


@dataclass(frozen=True)
class Filled:
    """A text with other tokens in the place of one of its masks."""

    ids: list[int]
    types: list[int]
    pair: bool

    def __len__(self) -> int:
        return len(self.ids)


def filled(tokens: Tokens, place: int, ids: Sequence[int]) -> Filled:
    """The text with `ids` in the place of one token."""
    types = [*tokens.types[:place], *[tokens.types[place]] * len(ids), *tokens.types[place + 1 :]]
    return Filled([*tokens.ids[:place], *ids, *tokens.ids[place + 1 :]], types, tokens.pair)


def best_pieces(encoded: Sequence[Encoded], gaps: Sequence[Gap], top_k: int) -> Scored[dict[Gap, list[Word]]]:
    """The likeliest words of one piece for each mask, best first; one round over the texts as they are."""
    places: list[list[int]] = [[] for _ in encoded]
    for gap in gaps:
        places[gap.text].append(gap.place)
    predicted = yield Round(encoded, Asked(places, top_k))
    found = {}
    for text, (scores, ids) in enumerate(predicted):
        for place, *best in zip(places[text], scores.tolist(), ids.tolist()):
            found[Gap(text, place)] = [Word(score, (i,)) for score, i in zip(*best)]
    return found


def scored_words(
    encoded: Sequence[Encoded], words: dict[Gap, list[tuple[int, ...]]], mask: int
) -> Scored[dict[Gap, list[Word]]]:
    """Each mask's given words (their pieces), best first.

    All pieces are known, so one round does: over the texts with the first pieces of words in place.
    """
    wanted: dict[tuple[Gap, tuple[int, ...]], set[int]] = {}
    for gap, every in words.items():
        for ids in every:
            for step, piece in enumerate(ids):
                wanted.setdefault((gap, _begun(ids, step, mask)), set()).add(piece)
    sequences = [filled(encoded[gap.text], gap.place, ids) for gap, ids in wanted]
    places = [[gap.place + ids.index(mask)] for gap, ids in wanted]
    among = [torch.tensor(sorted(pieces)) for pieces in wanted.values()]
    predicted = yield Round(sequences, Asked(places, max(map(len, among), default=1), among))
    known = {key: dict(zip(ids[0].tolist(), scores[0].tolist())) for key, (scores, ids) in zip(wanted, predicted)}

    def score(gap: Gap, ids: tuple[int, ...]) -> float:
        return prod(known[gap, _begun(ids, step, mask)][piece] for step, piece in enumerate(ids))

    return {gap: _best([Word(score(gap, ids), ids) for ids in dict.fromkeys(every)]) for gap, every in words.items()}


def _begun(ids: tuple[int, ...], step: int, mask: int) -> tuple[int, ...]:
    """The word with masks from piece `step` on."""
    return (*ids[:step], *[mask] * (len(ids) - step))


def longer_words(
    encoded: Sequence[Encoded], gaps: Sequence[Gap], tokenizer: Tokenizer, mask: int, pieces: int, top_k: int
) -> Scored[dict[Gap, list[Word]]]:
    """Likely words of 2 to `pieces` pieces for each mask, best first: for each length a beam search, left to right.

    A piece after the first is one that goes on with a word. As every beam search, it may miss a word whose first
    pieces are unlikely.
    """
    width = max(top_k, LEAST_WIDTH)
    parts = _word_parts(tokenizer)
    beams = {(gap, length): [Word(1.0, ())] for gap in gaps for length in range(2, pieces + 1)}
    for step in range(pieces):
        growing = [(key, word) for key, words in beams.items() if key[1] > step for word in words]
        masked = [(gap, (*word.ids, *[mask] * (length - step))) for (gap, length), word in growing]
        sequences = [filled(encoded[gap.text], gap.place, ids) for gap, ids in masked]
        places = [[gap.place + step] for gap, _ in masked]
        predicted = yield Round(sequences, Asked(places, width, [parts[min(step, 1)]] * len(growing)))
        grown: dict[tuple[Gap, int], list[Word]] = {}
        for (key, word), (scores, ids) in zip(growing, predicted):
            grown.setdefault(key, []).extend(_longer(word, scores[0].tolist(), ids[0].tolist()))
        beams |= {key: _best(words)[:width] for key, words in grown.items()}
    return {gap: _best([word for length in range(2, pieces + 1) for word in beams[gap, length]]) for gap in gaps}


def _longer(word: Word, scores: Sequence[float], ids: Sequence[int]) -> list[Word]:
    return [Word(word.score * score, (*word.ids, piece)) for score, piece in zip(scores, ids)]


def _best(words: Sequence[Word]) -> list[Word]:
    return sorted(words, key=lambda word: -word.score)


def _word_parts(tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    """The ids that may begin a word of several pieces, and those that may go on with one."""
    special = {tokenizer.id_of(role) for role in tokenizer.special} | set(tokenizer.backend.get_added_tokens_decoder())
    vocab = tokenizer.backend.get_vocab(with_added_tokens=False)
    inside = getattr(tokenizer.backend.model, "continuing_subword_prefix", None) or ""
    begins = [i for token, i in vocab.items() if i not in special and _has_letters(token.removeprefix(inside))]
    goes_on = {i for token, i in vocab.items() if token.startswith(inside) and not token.startswith(SPACES)}
    return torch.tensor(sorted(begins)), torch.tensor(sorted(goes_on.intersection(begins)))


def _has_letters(piece: str) -> bool:
    return bool(piece.strip(punctuation))


def pieces_in_place(
    text: str, mask: tuple[int, int], words: Sequence[str], tokenizer: Tokenizer
) -> list[tuple[int, ...]]:
    """The pieces of each word where it stands in the text in the place of characters `mask[0]` to `mask[1]`.

    So a word gets the piece that its vocabulary has for it after a space ("Ġcat"), or inside a word ("##s"). Where its
    pieces run on into what is beside it, they are those it has by itself. What is spelt as one piece is that piece.

    Raises InputError, naming it, on a word that the vocabulary does not know or that has a mask token in it.
    """
    start, end = mask
    bare = [word.strip() for word in words]
    in_place = tokenizer.encode([text[:start] + word + text[end:] for word in bare])
    found = []
    for said, word, within, single in zip(words, bare, in_place, tokenizer.encode(bare)):
        whole = text[:start] + word + text[end:]
        ids = _covering(within, whole, start, start + len(word)) or _covering(single, word, 0, len(word))
        found.append(_spelt(said, tokenizer) or _checked(word, ids, tokenizer))
    return found


def _checked(word: str, ids: tuple[int, ...], tokenizer: Tokenizer) -> tuple[int, ...]:
    if not ids or tokenizer.id_of("unk") in ids:
        raise InputError(f"the target {word!r} has pieces that are not in the model's vocabulary")
    if tokenizer.id_of("mask") in ids:
        raise InputError(f"the target {word!r} has a mask token in it")
    return ids


def _spelt(word: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The piece that a word is the spelling of, with the mark that tells it from a plain word; () if of none.

    Marked are pieces inside a word ("##s"), those after a space ("Ġcat", "▁cat", or " cat"), and added tokens.
    """
    spelling, backend = word.strip(), tokenizer.backend
    number, inside = backend.token_to_id(spelling), getattr(backend.model, "continuing_subword_prefix", None)
    whole = spelling in tokenizer.special.values() or number in backend.get_added_tokens_decoder()
    if number is not None and (whole or spelling.startswith((*MARKS, inside or MARKS[0]))):
        return (number,)
    (encoded,) = tokenizer.encode([word])
    ids = tuple(i for i, special in zip(encoded.ids, encoded.special) if not special)
    return ids if word[:1].isspace() and len(ids) == 1 and tokenizer.decode(ids) == word else ()


def _covering(encoded: Encoded, text: str, start: int, end: int) -> tuple[int, ...]:
    """The tokens of characters `start` to `end`; none if one of them covers more than that and spaces."""
    spans = [(i, *span) for i, span in zip(encoded.ids, encoded.offsets) if span[0] < end and span[1] > start]
    if any(text[first:start].strip() or text[end:last].strip() for _, first, last in spans):
        return ()
    return tuple(i for i, *_ in spans)
