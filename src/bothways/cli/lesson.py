"""`bothways inspect --objective`: what an objective makes of a text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import exp
from typing import TYPE_CHECKING, Any, Literal

from bothways.cli.output import print_json, print_table, print_words, shorten
from bothways.errors import InputError

if TYPE_CHECKING:
    from bothways.engine.lesson import Asked, Lesson, Taught

__all__ = ["ObjectiveFlags", "show_lesson"]

# Objectives that flags say something about; the others are about all.
ABOUT = {
    "pair": ("nsp",),
    "rate": ("mlm",),
    "mask": ("mlm",),
    "random": ("mlm",),
    "unit": ("mlm",),
    "sentences": ("nsp", "sop"),
    "language": ("nsp", "sop"),
}
MASKING = ("rate", "mask", "random", "unit")
STYLES = {"mask": "bold cyan", "random": "bold yellow", "kept": "bold green"}
# What is shown of a long text: so many tokens as running text, questions, pairs.
MOST_WORDS, MOST_ASKED, MOST_PAIRS = 512, 64, 8
LONGEST = 15  # columns of a token


@dataclass(frozen=True)
class ObjectiveFlags:
    """What an objective makes of the text, in place of tokens and attention.

    Parameters
    ----------
    objective
        Show what training with it makes of the text, and what the model answers: mlm, nsp, sop or causal.
    pair
        With nsp, another document, which wrong segments are from; else they are from elsewhere in the text.
    rate
        With mlm, the share of tokens that are predicted (0.15).
    mask
        Of these, the share that becomes the mask token (0.8).
    random
        And the share that becomes a random token (0.1); the rest stays.
    unit
        What is hidden as a whole: token, word or span.
    longest
        Tokens of a sequence, special ones included.
    sentences
        With nsp and sop, how the text is divided into sentences: split, wrapped, line or none.
    language
        The text's language, for that: an ISO code (en).
    seed
        Of what is left to chance (0).
    """

    objective: str | None = None
    pair: str | None = None
    rate: float | None = None
    mask: float | None = None
    random: float | None = None
    unit: Literal["token", "word", "span"] | None = None
    longest: int | None = None
    sentences: str | None = None
    language: str | None = None
    seed: int | None = None

    @property
    def given(self) -> dict[str, Any]:
        """Those that were said, but for the objective."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "objective"}
        return {name: value for name, value in values.items() if value is not None}

    def check(self, others: Mapping[str, object]) -> None:
        """Raise InputError on flags that say nothing beside each other. others: what else was given, or None."""
        for name in self.given:
            if self.objective is None:
                raise InputError(f"--{name} says nothing without --objective")
            if self.objective not in ABOUT.get(name, (self.objective,)):
                raise InputError(f"--{name} goes with --objective {' or '.join(ABOUT[name])}, not {self.objective}")
        for name, given in others.items():
            if given is not None and self.objective is not None:
                raise InputError(f"{name} says nothing with --objective; leave one of them out")


def show_lesson(model: str, text: str, flags: ObjectiveFlags, device: str, json: bool) -> None:
    """Look, and print it."""
    from bothways.engine.lesson import LessonSettings, lesson
    from bothways.objectives.masking import Masking

    given = flags.given
    masking = Masking(**{name: given.pop(name) for name in MASKING if name in given})
    assert flags.objective is not None
    found = lesson(model, text, flags.objective, LessonSettings(masking, **given), device=device)
    if json:
        print_json(asdict(found))
    else:
        SHOW[found.objective](found)
    if not found.head:
        print(f"bothways: the model has no head for {found.objective}, so it answers nothing", file=sys.stderr)


def _show_words(found: Lesson) -> None:
    """Tokens that are asked for: hidden ones, or next ones."""
    (one,) = found.sequences
    replaces = any(asked.how for asked in one.asked)
    what = "chosen" if replaces else "followed by one that is asked for"
    print(f"\n{len(one.tokens):,} tokens, {len(one.asked):,} of them {what}:")
    chosen = {asked.row: STYLES.get(asked.how or "", "") for asked in one.asked}
    words = [(word, chosen.get(row, "")) for row, word in enumerate(one.seen[:MOST_WORDS])]
    print_words([*words, *([("…", "")] if len(one.seen) > MOST_WORDS else [])])
    if not one.asked:
        return
    columns = ["#", *(["as"] if replaces else []), "seen", "token" if replaces else "next"]
    columns += ["p", "guess", "p"] if found.head else []
    rows = [_word(one, asked) for asked in one.asked[:MOST_ASKED]]
    left_out = "" if len(rows) == len(one.asked) else f"The first {len(rows)} (--json has all). "
    title = "p: the probability that the model gives it" if found.head else ""
    print_table(columns, rows, title=left_out + title, text=("as", "seen", "token", "next", "guess"))
    if found.head:
        print(_summary(one.asked))


def _word(one: Taught, asked: Asked) -> list[str]:
    how = [] if asked.how is None else [asked.how]
    cells = [f"{asked.row}", *how, shorten(one.seen[asked.row], LONGEST), shorten(asked.answer, LONGEST)]
    if asked.loss is None:
        return cells
    return [*cells, f"{exp(-asked.loss):.4f}", shorten(asked.guess or "", LONGEST), f"{asked.probability:.4f}"]


def _summary(asked: Sequence[Asked]) -> str:
    right = sum(one.guess == one.answer for one in asked)
    loss = sum(one.loss or 0.0 for one in asked) / len(asked)
    return f"Mean loss {loss:.4f}; {right:,} of {len(asked):,} are guessed right."


def _show_pairs(found: Lesson) -> None:
    """Segments, what they are to each other, and what the model takes them for."""
    count = len(found.sequences)
    for i, one in enumerate(found.sequences[:MOST_PAIRS], start=1):
        print(f"\n{i} of {count}, {len(one.tokens)} tokens: {_label(one)}")
        for name, segment in zip("AB", one.segments):
            print_words([(name, "bold"), (segment, "")])
    if count > MOST_PAIRS:
        print(f"\n… and {count - MOST_PAIRS:,} more (--json has all).")


def _label(one: Taught) -> str:
    if not one.asked:
        return "a single segment, of which nothing is asked"
    (asked,) = one.asked
    return asked.answer + ("" if asked.guess is None else f"; the model says {asked.guess} ({asked.probability:.4f})")


SHOW: dict[str, Callable[[Lesson], None]] = {
    "mlm": _show_words,
    "nsp": _show_pairs,
    "sop": _show_pairs,
    "causal": _show_words,
}
