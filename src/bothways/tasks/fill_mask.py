"""fill-mask: the likeliest words for each [MASK] (the pretraining task of Devlin et al. 2018, asked as a question)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bothways.data.batch import Batch
from bothways.errors import InputError
from bothways.nn.encoder import EncoderOutput
from bothways.tasks.task import Facts, Request, Rounds
from bothways.tasks.words import (
    Asked,
    Gap,
    Scored,
    Word,
    best_pieces,
    filled,
    longer_words,
    pieces_in_place,
    scored_words,
)
from bothways.text.tokenizer import Encoded, Tokenizer, as_texts

__all__ = ["FillMask"]

USUAL_TOP_K = 5
# The longest words that are searched for: each piece more is a round over all texts, and hardly a word has more.
MOST_PIECES = 8
# How the mask is written in the vocabularies that people know.
MASKS = ("[mask]", "<mask>")


@dataclass(frozen=True)
class Options:
    """top_k: None for all targets."""

    top_k: int | None
    targets: tuple[str, ...] = ()
    pieces: int = 1


@dataclass(frozen=True)
class FillMask:
    """One text with one mask gives `[{score, token, token_str, sequence}, …]`; with several masks, a list of those.

    A word of several pieces has a list of ids as its `token`, and as its score the product of its pieces'
    probabilities, filled in from left to right (`bothways.tasks.words`). Each mask is asked for by itself; the others
    stay masks.
    """

    head: str | None = "mlm"

    def request(
        self,
        texts: str | Sequence[str],
        *,
        top_k: int | None = None,
        targets: str | Sequence[str] | None = None,
        pieces: int = 1,
    ) -> Request:
        """texts: each with at least one mask token.

        top_k: how many candidates for each mask; by default 5, or all targets.
        targets: only these, best first. A word is split as it would be where the mask is: after a space "cat" is the
        piece with the space, inside a word the one that goes on with it (transformers takes the bare word there). What
        is spelt as a piece of the vocabulary is spelt ("##able", "Ġcat", "▁cat", "[UNK]", or " cat" where the piece
        has the space) is that piece, wherever it stands.
        pieces: words of up to so many pieces, 8 at most. Those of two and more are searched for with a beam (at least
        10 wide), and those of each length count with their own probability.

        A text near the model's limit is cut, with a TruncationWarning, to leave room for the longest of all targets or
        for `pieces`; so the scores in a text that is cut depend on all that is asked for together.

        Raises InputError on a text without a mask, on numbers that are no counts, on a target that is no word, has
        pieces that are not in the vocabulary, or more of them than leave room for a text.
        """
        for name, value, most in (("top_k", 1 if top_k is None else top_k, None), ("pieces", pieces, MOST_PIECES)):
            if type(value) is not int or not 1 <= value <= (most or value):
                upto = "of at least 1" if most is None else f"from 1 to {most}"
                raise InputError(f"{name} must be a whole number {upto}, got {value!r}")
        words = () if targets is None else _checked(targets)
        if words and pieces > 1:
            raise InputError("give targets, which have as many pieces as they need, or pieces, not both")
        top_k = top_k if top_k is not None or words else USUAL_TOP_K
        return Request(as_texts(texts), isinstance(texts, str), options=Options(top_k, words, pieces))

    def rooms(self, request: Request, encoded: Sequence[Encoded], facts: Facts) -> Sequence[int]:
        tokenizer, longest = facts.tokenizer, facts.longest
        special = tokenizer.backend.num_special_tokens_to_add(False)
        lengths = [request.options.pieces] * len(encoded)
        for gap in _gaps(encoded, tokenizer) if request.options.targets else ():
            for target, ids in zip(request.options.targets, _targets(request, encoded[gap.text], gap, tokenizer)):
                _check_room(f"the target {_short(target)!r}", len(ids), special, longest)
                lengths[gap.text] = max(lengths[gap.text], len(ids))
        _check_room("a word", request.options.pieces, special, longest)
        return [length - 1 for length in lengths]

    def check(self, request: Request, encoded: Sequence[Encoded], facts: Facts) -> None:
        tokenizer = facts.tokenizer
        mask = tokenizer.id_of("mask")
        if mask is None:
            raise InputError("this model's tokenizer has no mask token")
        for text, tokens in zip(request.texts, encoded):
            if mask not in tokens.ids:
                lost = " after it was cut to the model's length" if tokens.dropped else ""
                other = any(name in text.casefold() for name in MASKS) and tokenizer.special["mask"] not in text
                hint = f" (this model's mask is written {tokenizer.special['mask']})" if other else ""
                raise InputError(f"no {tokenizer.special['mask']} in the text{lost}: {_short(text)!r}{hint}")

    def rounds(self, request: Request, encoded: Sequence[Encoded], facts: Facts) -> Rounds:
        tokenizer = facts.tokenizer
        gaps = _gaps(encoded, tokenizer)
        masks = Counter(gap.text for gap in gaps)
        words = yield from _words(request, encoded, gaps, tokenizer)
        answers: list[Any] = [[] for _ in encoded]
        for gap in gaps:
            candidates, single = words[gap][: request.options.top_k], masks[gap.text] == 1
            answers[gap.text].append([_shown(word, gap, encoded, tokenizer, single) for word in candidates])
        return [answer[0] if len(answer) == 1 else answer for answer in answers]

    def predict(
        self, output: EncoderOutput, head: nn.Module | None, batch: Batch, asked: Asked
    ) -> list[tuple[Tensor, Tensor]]:
        """(scores, ids), each [places, top_k], for each sequence. The head sees the rows asked about only."""
        assert head is not None
        states = head.states(output)  # type: ignore[operator]
        places = [asked.places[i] for i in batch.origin]
        rows = [start + place for start, own in zip(batch.tokens.layout.starts, places) for place in own]
        probabilities = head(states[torch.tensor(rows, dtype=torch.int64, device=states.device)]).float().softmax(-1)
        parts = probabilities.split([len(own) for own in places])
        if asked.among is None:
            return [_top(part, asked.top_k) for part in parts]
        return [_top(part, asked.top_k, asked.among[i]) for part, i in zip(parts, batch.origin)]


def _gaps(encoded: Sequence[Encoded], tokenizer: Tokenizer) -> list[Gap]:
    mask = tokenizer.id_of("mask")
    return [Gap(text, place) for text, e in enumerate(encoded) for place, i in enumerate(e.ids) if i == mask]


def _check_room(what: str, pieces: int, special: int, longest: int) -> None:
    """Refuse words in whose place a text would have no other token."""
    if pieces + special > longest:
        raise InputError(f"{what} of {pieces} pieces has no room in a text: the model takes {longest} tokens")


def _words(
    request: Request, encoded: Sequence[Encoded], gaps: Sequence[Gap], tokenizer: Tokenizer
) -> Scored[Mapping[Gap, Sequence[Word]]]:
    """The candidates for each mask, best first: the targets, or as many as asked for and perhaps more."""
    options, mask = request.options, tokenizer.id_of("mask")
    assert mask is not None
    if options.targets:
        targets = {gap: _targets(request, encoded[gap.text], gap, tokenizer) for gap in gaps}
        return (yield from scored_words(encoded, targets, mask))
    best = yield from best_pieces(encoded, gaps, options.top_k)
    if options.pieces == 1:
        return best
    longer = yield from longer_words(encoded, gaps, tokenizer, mask, options.pieces, options.top_k)
    return {gap: sorted([*best[gap], *longer[gap]], key=lambda word: -word.score) for gap in gaps}


def _targets(request: Request, encoded: Encoded, gap: Gap, tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """The pieces of each target in the place of a mask, whose offsets may cover the space before it too."""
    text, mask = request.texts[gap.text], tokenizer.special["mask"]
    start, end = encoded.offsets[gap.place]
    found = text.find(mask, start, end)
    span = (start, end) if found < 0 else (found, found + len(mask))
    return pieces_in_place(text, span, request.options.targets, tokenizer)


def _top(probabilities: Tensor, top_k: int, among: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """probabilities [places, vocab] → the best scores and their ids, both [places, top_k], on the host."""
    known = probabilities if among is None else probabilities[:, among.to(probabilities.device)]
    best = known.topk(min(top_k, known.shape[-1]))
    ids = best.indices.cpu()
    return best.values.cpu(), ids if among is None else among[ids]


def _shown(word: Word, gap: Gap, encoded: Sequence[Encoded], tokenizer: Tokenizer, single: bool) -> dict[str, Any]:
    """A candidate, in the shape of transformers. single: whether its text has no other mask."""
    ids = [i for i in filled(encoded[gap.text], gap.place, word.ids).ids if i != tokenizer.id_of("pad")]
    return {
        "score": word.score,
        "token": word.ids[0] if len(word.ids) == 1 else list(word.ids),
        "token_str": tokenizer.decode(word.ids),
        "sequence": tokenizer.decode(ids, skip_special=single),
    }


def _checked(targets: str | Sequence[str]) -> tuple[str, ...]:
    words = as_texts(targets)
    for word in words:
        if not isinstance(word, str) or not word.strip():
            raise InputError(f"a target must be a word, got {word!r}")
    if not words:
        raise InputError("targets is empty: give at least one word, or leave it out")
    return tuple(words)


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "…"
