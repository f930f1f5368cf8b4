"""Documents to sentences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bothways.errors import MissingExtraError

__all__ = ["SENTENCES", "sentences"]


def sentences(text: str, how: str, language: str) -> list[str]:
    """The sentences of a document, without the space around them; none if there is only space.

    how: a name in SENTENCES.    language: an ISO code such as "en"; one that sentencex does not know is taken for a
    neighbour of it, or for English.

    Raises MissingExtraError if that takes sentencex, and it is not there.
    """
    return [stripped for sentence in SENTENCES[how](text, language) if (stripped := sentence.strip())]


def _split(text: str, language: str) -> list[str]:
    """By the rules of the language; a line break ends a sentence, as a heading or an item of a list does."""
    return [sentence for line in text.splitlines() for sentence in _segment(line, language)]


def _wrapped(text: str, language: str) -> list[str]:
    """By the rules of the language, through line breaks: text wrapped to a width."""
    return _segment(" ".join(text.split()), language)


def _line(text: str, language: str) -> list[str]:
    return text.split("\n")


def _none(text: str, language: str) -> list[str]:
    return [text]


SENTENCES: dict[str, Callable[[str, str], list[str]]] = {
    "split": _split,
    "wrapped": _wrapped,
    "line": _line,
    "none": _none,
}
"""Ways to divide a document, each (text, language code) → sentences."""


def _segment(text: str, language: str) -> list[str]:
    found: list[str] = _sentencex().segment(language, text)
    return found


def _sentencex() -> Any:
    try:
        import sentencex
    except ImportError:
        advice = 'pip install "bothways[corpus]", or give --sentences line or none'
        raise MissingExtraError(f"sentences are found with sentencex: {advice}") from None
    return sentencex
