"""`bothways inspect --objective`: what an objective makes of a text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from math import exp
from typing import TYPE_CHECKING, Any, Literal

from bothways.cli.output import print_json, print_table, print_words, shorten
from bothways.errors import InputError

if TYPE_CHECKING:
    from bothways.engine.lesson import Asked, Judged, Lesson, Taught

__all__ = ["ObjectiveFlags", "show_lesson"]

# Objectives that flags say something about; the others are about all.
ABOUT = {
    "pair": ("nsp",),
    "rate": ("mlm", "rtd"),
    "mask": ("mlm", "rtd"),
    "random": ("mlm", "rtd"),
    "unit": ("mlm", "rtd"),
    "sentences": ("nsp", "sop"),
    "language": ("nsp", "sop"),
}
MASKING = ("rate", "mask", "random", "unit")
STYLES = {"mask": "bold cyan", "random": "bold yellow", "kept": "bold green"}
# By whether a token is replaced, and whether the model says so, which it does not without a head.
SAID = {(True, None): "replaced", (True, True): "found", (True, False): "missed", (False, True): "falsely flagged"}
VERDICTS = {
    "replaced": "bold yellow",
    "found": "bold green",
    "missed": "bold red",
    "falsely flagged": "bold yellow",
    "guessed right": "bold cyan",
}
# What is shown of a long text: so many tokens as running text, questions, pairs.
MOST_WORDS, MOST_ASKED, MOST_PAIRS = 512, 64, 8
LONGEST = 15  # columns of a token


@dataclass(frozen=True)
class ObjectiveFlags:
    """What an objective makes of the text, in place of tokens and attention.

    Parameters
    ----------
    objective
        Show what training with it makes of the text, and what the model answers: mlm, nsp, sop, causal or rtd (whose
        generator is in MODEL/generator). Pairs of nsp and sop are shown whole; training hides tokens of them, too.
    pair
        With nsp, another document, which wrong segments are from; else they are from elsewhere in the text.
    rate
        With mlm and rtd, the share of tokens that are predicted (0.15).
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
    if found.generator is False:
        print(
            "bothways: the model's folder has no generator/, so no token is replaced and none judged", file=sys.stderr
        )
    elif not found.head:
        print(f"bothways: the model has no head for {found.objective}, so it answers nothing", file=sys.stderr)


def _show_words(found: Lesson) -> None:
    """Tokens that are asked for: hidden ones, or next ones."""
    (one,) = found.sequences
    from bothways.engine.lesson import READERS

    replaces = READERS[found.objective].replaces
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


def _show_replaced(found: Lesson) -> None:
    """Tokens that a generator filled in, and what a discriminator says of all of them."""
    if not found.generator:
        _show_words(replace(found, head=False))
        return
    (one,) = found.sequences
    asked = {asked.row: asked for asked in one.asked}
    verdicts = [_verdict(token, row in asked) for row, token in enumerate(one.judged)]
    print(f"\n{len(one.tokens):,} tokens, {len(asked):,} of them filled in by the generator:")
    words = [(judged.token, VERDICTS.get(said, "")) for judged, said in zip(one.judged, verdicts)]
    print_words([*words[:MOST_WORDS], *([("…", "")] if len(words) > MOST_WORDS else [])])
    rows = [row for row, said in enumerate(verdicts) if said]
    if not rows:
        return
    print_words((f"({said}: {verdicts.count(said):,})", style) for said, style in VERDICTS.items() if said in verdicts)
    columns = ["#", "as", "token", "p", "now", "is", *(["p replaced"] if found.head else [])]
    cells = [_filled_in(one, row, asked.get(row)) for row in rows[:MOST_ASKED]]
    left_out = "" if len(cells) == len(rows) else f"The first {len(cells)} (--json has all). "
    title = f"{left_out}p: the probability that the generator gives to the token"
    print_table(columns, cells, title=title, text=("as", "token", "now", "is"))
    if found.head:
        print(_precision(verdicts))


def _verdict(token: Judged, filled_in: bool) -> str:
    """In a word; none for a token that was never hidden, and is not said to be replaced."""
    flagged = None if token.probability is None else token.probability > 0.5
    return SAID.get((token.replaced, flagged), "guessed right" if filled_in else "")


def _filled_in(one: Taught, row: int, asked: Asked | None) -> list[str]:
    judged = one.judged[row]
    how, p = ("", "") if asked is None else (asked.how or "", f"{exp(-(asked.loss or 0.0)):.4f}")
    cells = [f"{row}", how, shorten(one.tokens[row], LONGEST), p, shorten(judged.token, LONGEST)]
    said = [] if judged.probability is None else [f"{judged.probability:.4f}"]
    return [*cells, "replaced" if judged.replaced else "original", *said]


def _precision(verdicts: Sequence[str]) -> str:
    found, missed, wrong = (verdicts.count(said) for said in ("found", "missed", "falsely flagged"))
    return f"Precision {_share(found, found + wrong)}, recall {_share(found, found + missed)}."


def _share(part: int, of: int) -> str:
    return f"{part / of:.4f} ({part:,} of {of:,})" if of else "– (of none)"


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
    "rtd": _show_replaced,
}
