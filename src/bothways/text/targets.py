"""Texts as what a decoder is to write: ids with an end behind them, and without what it begins with anyway; and those
that it goes on from: with a separator behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from tokenizers import Tokenizer as Backend
from tokenizers import processors

from bothways.errors import InputError
from bothways.text.formats import AS_WRITTEN
from bothways.text.tokenizer import Encoded, Tokenizer

__all__ = ["Target", "as_targets", "open_ended", "opening", "separated"]


class Target(NamedTuple):
    """ids: what is to be predicted, one after the other.    cut: how many more there were."""

    ids: list[int]
    cut: int


def as_targets(
    tokenizer: Tokenizer, texts: Sequence[str], start: int | None, ends: Sequence[int], max_length: int | None = None
) -> list[Target]:
    """Texts as the tokenizer writes them, with its special tokens; behind them one of `ends`, else the first.

    start: what a decoder is given before the first of these ids, which is left out where the tokenizer begins with it,
    too (BERT's "[CLS]"; BART begins with "</s>", and writes its "<s>"). None: it is given a text, which these go on
    from, without special tokens before them.
    max_length: ids of a target; what is too long loses its last ones, and has no end: after its last one nothing ends.
    """
    found = []
    for one in tokenizer.encode(texts, offsets=False):
        ids = _begun(one, start)
        ids = ids if not ends or (ids and ids[-1] in ends) else [*ids, ends[0]]
        limit = len(ids) if max_length is None else max_length
        found.append(Target(ids[:limit], max(0, len(ids) - limit)))
    return found


def _begun(encoded: Encoded, start: int | None) -> list[int]:
    """The ids without those that are there before."""
    ids, special = list(encoded.ids), encoded.special
    if start is not None:
        return ids[1:] if ids and ids[0] == start else ids
    first = next((i for i, one in enumerate(special) if not one), len(ids))
    return ids[first:]


def open_ended(encoded: Encoded) -> list[int]:
    """The ids of a text that is gone on from: without the special tokens behind it, which say that it is over."""
    ids, special = list(encoded.ids), encoded.special
    while len(ids) > 1 and special[len(ids) - 1]:
        ids.pop()
    return ids


def opening(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer as a decoder alone has it: what it puts behind a text, which says that the text is over, is left
    out, so that whoever loads the model's folder has a prompt to go on from. The same where there is nothing behind.
    """
    (empty,) = tokenizer.encode([""])
    (text,) = tokenizer.encode(["a"])
    if not len(text) or not text.special[-1]:
        return tokenizer
    number = empty.ids[0]
    token = tokenizer.backend.id_to_token(number)
    backend = Backend.from_str(tokenizer.backend.to_str())
    template = processors.TemplateProcessing(
        single="first $A", pair="first $A $B", special_tokens=[{"id": "first", "ids": [number], "tokens": [token]}]
    )
    trims = isinstance(backend.post_processor, processors.RobertaProcessing)
    backend.post_processor = (
        processors.Sequence([processors.ByteLevel(trim_offsets=True), template]) if trims else template
    )
    return replace(tokenizer, backend=backend, config={**tokenizer.config, "tokenizer_class": AS_WRITTEN})


def separated(
    tokenizer: Tokenizer, texts: Sequence[str], separator: str, max_length: int, prefix: str = ""
) -> list[Encoded]:
    """Texts with a prefix before each and a separator behind it, at most so many tokens: what is too long loses the end
    of the text, never the separator, without which nobody knows that the text is over.

    Raises InputError where there is no room for prefix, separator and a token.
    """
    if prefix:
        (around,) = tokenizer.encode([prefix + separator])
        if len(around) >= max_length:
            raise InputError(
                f"a limit of {max_length} tokens leaves no room for a text behind the prefix {prefix!r:.40}"
            )
        texts = [prefix + text for text in texts]
    encoded = tokenizer.encode([text + separator for text in texts], max_length=max_length)
    if not separator:
        return encoded
    return [_cut(tokenizer, text, separator, one, max_length) for text, one in zip(texts, encoded)]


def _cut(tokenizer: Tokenizer, text: str, separator: str, one: Encoded, max_length: int) -> Encoded:
    """The encoded text if it is whole, else as much of its beginning as has room with the separator."""
    if not one.dropped:
        return one
    (behind,) = tokenizer.encode([separator])
    for room in range(max_length - behind.special.count(False), behind.special.count(True), -1):
        (begun,) = tokenizer.encode([text], max_length=room)
        (found,) = tokenizer.encode([text[: max(end for _, end in begun.offsets)] + separator])
        if len(found) <= max_length:
            return replace(found, dropped=len(one) + one.dropped - len(found))
    raise InputError(f"a limit of {max_length} tokens leaves no room for a text before the separator {separator!r:.40}")
