"""Questions about contexts, and where in these their answers are."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Question"]


@dataclass(frozen=True)
class Question:
    """id: as the file has it, or the number of its row.    place: file and line or question, for messages.

    answers: the first character in the context and the text, of each answer that counts as right; () where the context
    has none; None where it is not known.
    """

    id: str
    question: str
    context: str
    answers: tuple[tuple[int, str], ...] | None
    place: str
