"""Documents to sentences."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

from bothways.errors import BorrowedRulesWarning, InputError, MissingExtraError, meant

__all__ = ["SENTENCES", "check_language", "sentences", "warn_of_borrowed_rules"]

# Languages that sentencex (1.0) has rules for; it does not tell them itself, and takes any text for a language's code.
OWN_RULES = (
    *("am", "ar", "bg", "bn", "ca", "da", "de", "el", "en", "es", "fi", "fr", "gu", "hi", "hy", "it"),
    *("ja", "kk", "kn", "ml", "mr", "my", "nl", "pa", "pl", "pt", "ru", "sk", "ta", "te", "uk"),
)
CODE = re.compile("[a-z]{2,3}(-[a-z0-9]{2,8})*")


def check_language(language: str) -> None:
    """Raises InputError on what cannot be a language's code, such as "german" or "DE": English rules would be taken."""
    if not CODE.fullmatch(language):
        otherwise = f"; there are rules for {', '.join(OWN_RULES)}"
        hint = meant(language.lower().replace("_", "-"), OWN_RULES, otherwise)
        raise InputError(f"language must be a code in small letters, such as en or de-at, got {language!r}{hint}")


def warn_of_borrowed_rules(how: str, language: str) -> None:
    """Where documents are divided by rules, and the language has none of its own."""
    if SENTENCES[how] in (_split, _wrapped) and language not in OWN_RULES:
        warnings.warn(
            f"sentencex has no rules of its own for the language {language}: those of a neighbour of it are taken, or "
            f"English ones; there are rules for {', '.join(OWN_RULES)}",
            BorrowedRulesWarning,
            stacklevel=3,
        )


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
