"""Tokens that are written, as text: whole, piece by piece as they come, and as the vocabulary spells them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bothways.text.tokenizer import Tokenizer

__all__ = ["Spelling", "continued", "spelt"]

# Characters of a text without spaces that are held back at most.
HELD_BACK = 16


def spelt(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[str, ...]:
    """Ids as the vocabulary spells them."""
    return tuple(tokenizer.backend.id_to_token(i) or f"#{i}" for i in ids)


@dataclass(eq=False)
class Spelling:
    """Tokens as text, told piece by piece. Whole words are told: a vocabulary's decoder may yet join what comes next to
    the last one, and letters may be in several tokens."""

    tokenizer: Tokenizer
    before: Sequence[int]
    ids: list[int] = field(default_factory=list)
    told: str = ""

    def more(self, token: int) -> str:
        """What can be told after another token; "" for nothing yet."""
        self.ids.append(token)
        text = continued(self.tokenizer, self.before, self.ids).rstrip("\ufffd")
        until = max(text.rfind(" "), text.rfind("\n"))
        if until <= len(self.told):
            until = len(text) if len(text) - len(self.told) > HELD_BACK else len(self.told)
        return self._tell(text[:until])

    def rest(self) -> str:
        """What has not been told at the end; of a text that has become another one, from there on."""
        text = continued(self.tokenizer, self.before, self.ids)
        same = next((i for i, pair in enumerate(zip(self.told, text)) if pair[0] != pair[1]), len(self.told))
        self.told = text[:same]
        return self._tell(text)

    def _tell(self, text: str) -> str:
        if not text.startswith(self.told):
            return ""
        piece, self.told = text[len(self.told) :], text
        return piece


def continued(tokenizer: Tokenizer, before: Sequence[int], ids: Sequence[int]) -> str:
    """The text of ids that stand behind others, with the space between them where there is one."""
    if not before:
        return tokenizer.decode(ids, skip_special=True)
    start = tokenizer.decode(before, skip_special=True)
    whole = tokenizer.decode([*before, *ids], skip_special=True)
    return whole[len(start) :] if whole.startswith(start) else tokenizer.decode(ids, skip_special=True)
