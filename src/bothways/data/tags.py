"""How tags of words say where spans are: IOB1, IOB2, BIOES, BILOU and BMES are told apart, checked, and become IOB2.

    words   Anna Lee  met Bo    Kim   in Rome
    IOB1    I-P  I-P  O   I-P   I-P   O  I-L    (B- only where a span follows one of its type)
    IOB2    B-P  I-P  O   B-P   I-P   O  B-L
    BIOES   B-P  E-P  O   B-P   E-P   O  S-L    (BILOU: L for E, U for S; BMES: M for I)

A sentence with a span fits one of the first two at most, and none of the others; so a file's scheme is seen from few.
CoNLL-2003's own files, in IOB1, have B- where none is needed. As there is one way to read it, it is no error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from bothways.errors import InputError

__all__ = ["OUTSIDE", "SCHEMES", "check_scheme", "find_scheme", "first_fault", "is_span_tag", "to_iob2"]

OUTSIDE = "O"
PLAIN = "plain"
BEGIN_INSIDE = {"B": "B", "I": "I"}
# What each letter is in BIOES; the likeliest scheme first.
SPANS: Mapping[str, Mapping[str, str]] = {
    "iob2": BEGIN_INSIDE,
    "iob1": BEGIN_INSIDE,
    "bioes": {"B": "B", "I": "I", "E": "E", "S": "S"},
    "bilou": {"B": "B", "I": "I", "L": "E", "U": "S"},
    "bmes": {"B": "B", "M": "I", "E": "E", "S": "S"},
}
SCHEMES = (*SPANS, PLAIN)
LETTERS = frozenset(letter for scheme in SPANS.values() for letter in scheme)
SPAN_TAG = re.compile(f"([{''.join(sorted(LETTERS))}])-(.*)", re.DOTALL)


def check_scheme(scheme: str | None) -> None:
    """Raises InputError if there is no such scheme."""
    if scheme is not None and scheme not in SCHEMES:
        raise InputError(f"unknown scheme {scheme!r}; known: {', '.join(SCHEMES)}")


def is_span_tag(tag: str) -> bool:
    """Whether the tag is O, or says that its word is in a span, such as B-PER."""
    return tag == OUTSIDE or SPAN_TAG.fullmatch(tag) is not None


def find_scheme(sentences: Iterable[Sequence[str]]) -> str | None:
    """The scheme that most of the sentences' tags fit; None if all are O, which fits every scheme.

    "plain": tags that say nothing of spans, such as parts of speech.
    """
    said = [tags for tags in sentences if any(tag != OUTSIDE for tag in tags)]
    occurring = {tag for tags in said for tag in tags} - {OUTSIDE}
    if not occurring:
        return None
    if not any(map(is_span_tag, occurring)) and not occurring <= LETTERS:
        return PLAIN
    votes = {scheme: sum(_fits(tags, scheme) for tags in said) for scheme in SPANS}
    return max(votes, key=lambda scheme: votes[scheme])


def _fits(tags: Sequence[str], scheme: str) -> bool:
    return first_fault(tags, scheme) is None and not (scheme == "iob1" and _needless(tags))


def _needless(tags: Sequence[str]) -> bool:
    """Whether a B- stands in IOB1 where I- would say the same."""
    return any(tag[:2] == "B-" and before[1:] != tag[1:] for before, tag in zip((OUTSIDE, *tags), tags))


def first_fault(tags: Sequence[str], scheme: str) -> tuple[int, str] | None:
    """The first tag of a sentence that does not fit the scheme, and why; None if all do."""
    before = OUTSIDE, ""
    for i, tag in enumerate(tags):
        if scheme == PLAIN:
            fault = "says that it is in a span, but tags before do not" if SPAN_TAG.fullmatch(tag) else ""
        else:
            fault = _wrong_form(tag, SPANS[scheme]) or _wrong_place(before, _parts(tag, SPANS[scheme]), scheme)
        if fault:
            return i, fault
        if scheme != PLAIN:
            before = _parts(tag, SPANS[scheme])
    if scheme in SPANS and _ends(scheme) and before[0] in ("B", "I"):
        return len(tags) - 1, "begins or continues a span that has no end"
    return None


def to_iob2(tags: Sequence[str], scheme: str) -> tuple[str, ...]:
    """A sentence's tags, which fit the scheme, as IOB2; plain ones as they are."""
    if scheme == PLAIN:
        return tuple(tags)
    parts = [_parts(tag, SPANS[scheme]) for tag in tags]
    return tuple(_iob2(before, now, _ends(scheme)) for before, now in zip([(OUTSIDE, ""), *parts], parts))


def _iob2(before: tuple[str, str], now: tuple[str, str], ends: bool) -> str:
    letter, kind = now
    if letter == OUTSIDE:
        return OUTSIDE
    begins = letter in ("B", "S") or not (ends or (before[0] != OUTSIDE and before[1] == kind))
    return f"{'B' if begins else 'I'}-{kind}"


def _parts(tag: str, letters: Mapping[str, str]) -> tuple[str, str]:
    """Of a well-formed tag: O, B, I, E or S, and the type."""
    return (OUTSIDE, "") if tag == OUTSIDE else (letters[tag[0]], tag[2:])


def _ends(scheme: str) -> bool:
    """Whether the scheme marks where spans end."""
    return len(SPANS[scheme]) > 2


def _wrong_form(tag: str, letters: Mapping[str, str]) -> str:
    if tag == OUTSIDE:
        return ""
    match = SPAN_TAG.fullmatch(tag)
    if tag in LETTERS or (match is not None and not match[2]):
        return "has no type, such as PER in B-PER"
    if match is None:
        return f"is neither O nor a tag such as {next(iter(letters))}-PER"
    return "" if match[1] in letters else f"is none of {', '.join(letters)} with a type"


def _wrong_place(before: tuple[str, str], now: tuple[str, str], scheme: str) -> str:
    """Why a tag cannot stand behind the one before it; "" if it can."""
    same = before[0] != OUTSIDE and before[1] == now[1]
    if scheme == "iob2":
        return "continues a span that has not begun" if now[0] == "I" and not same else ""
    if not _ends(scheme):
        return ""
    inside = before[0] in ("B", "I")
    if now[0] in ("I", "E"):
        return "" if inside and same else "continues a span that has not begun"
    return "comes before the span before it has ended" if inside else ""
