"""Words with tags: sentences as they are read from files."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Tagged"]


@dataclass(frozen=True)
class Tagged:
    """A sentence.

    text: its words, joined by spaces, or the text as the file has it.    words: the characters of each, from and to.
    tags: one for each word, in IOB2 or plain; None where the file has none.    place: file and line, for messages.
    """

    text: str
    words: tuple[tuple[int, int], ...]
    tags: tuple[str, ...] | None
    place: str
