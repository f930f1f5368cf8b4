"""Which tokens are hidden from the model, and by what (Devlin et al. 2018, section 3.1).

Vectorised over a whole batch on the host: words are found by their first tokens, spans by the words they begin at.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bothways.errors import ConfigError

__all__ = ["Masked", "Masking", "mask_tokens"]

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

LONGEST_SPAN = 10
SPAN_STOPS = 0.2


@dataclass(frozen=True)
class Masking:
    """rate: share of tokens that are predicted.    mask, random: shares of those that are replaced by the mask token,
    by a random token; the rest stay as they are.

    unit: what is chosen and replaced as a whole: "token", "word" (all pieces of a word), or "span" (words in a row,
    1 to 10 with geometric chances, 3.8 on average; SpanBERT, https://arxiv.org/abs/1907.10529).

    Raises ConfigError on shares that cannot be.
    """

    rate: float = 0.15
    mask: float = 0.8
    random: float = 0.1
    unit: Literal["token", "word", "span"] = "token"

    def __post_init__(self) -> None:
        for name, share in (("rate", self.rate), ("mask", self.mask), ("random", self.random)):
            if not 0.0 <= share <= 1.0:
                raise ConfigError(f"{name} must be a share between 0 and 1, got {share}")
        if not 0.0 < self.rate < 1.0:
            raise ConfigError(f"rate must be above 0 and below 1, got {self.rate}")
        if self.mask + self.random > 1.0 + 1e-9:
            raise ConfigError(f"mask {self.mask} and random {self.random} are more than all")
        if self.unit not in ("token", "word", "span"):
            raise ConfigError(f"unit must be token, word or span, got {self.unit!r}")

    @cached_property
    def span_shares(self) -> NDArray[np.float64]:
        """How likely a span has 1, 2 … 10 words."""
        shares = SPAN_STOPS * (1 - SPAN_STOPS) ** np.arange(LONGEST_SPAN)
        return shares / shares.sum()

    @cached_property
    def span_start(self) -> float:
        """How likely a word must begin a span, so that a share of `rate` of all words is in one."""
        reaching = 1.0 - np.concatenate([[0.0], np.cumsum(self.span_shares)[:-1]])  # a span reaches its k-th word
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            covered = 1.0 - np.prod(1.0 - middle * reaching)
            low, high = (middle, high) if covered < self.rate else (low, middle)
        return (low + high) / 2


@dataclass(frozen=True, eq=False)
class Masked:
    """ids: [T] with replacements.    rows: [M] those to be predicted.    targets: [M] what stood there."""

    ids: Ints
    rows: Ints
    targets: Ints


def mask_tokens(
    ids: Ints, words: Flags, fixed: Flags, masking: Masking, mask_id: int, ordinary: Ints, rng: np.random.Generator
) -> Masked:
    """Choose tokens of a batch and replace them.

    ids [T]; words [T]: whether a token begins a word; fixed [T]: tokens never chosen (special ones), which also end
    a word: where a long sentence was cut, the pieces on both sides are words of their own.
    ordinary: the ids that a random replacement may be.
    """
    rows = np.flatnonzero(~fixed)
    begins = words | np.concatenate([[True], fixed[:-1]])
    unit = _units(begins[rows], masking)
    count = int(unit[-1]) + 1 if len(unit) else 0
    group, chosen = _chosen(count, masking, rng)
    picked = chosen[unit]
    rows, group = rows[picked], group[unit[picked]]
    lot = rng.random(count)[group]
    replaced = ids.copy()
    replaced[rows[lot < masking.mask]] = mask_id
    by_chance = rows[(lot >= masking.mask) & (lot < masking.mask + masking.random)]
    replaced[by_chance] = rng.choice(ordinary, len(by_chance))
    return Masked(replaced, rows, ids[rows])


def _units(words: Flags, masking: Masking) -> Ints:
    """The number of each token's unit: itself, or its word."""
    if masking.unit == "token":
        return np.arange(len(words))
    return np.cumsum(words) - 1


def _chosen(count: int, masking: Masking, rng: np.random.Generator) -> tuple[Ints, Flags]:
    """For each of `count` units: which draw decides its replacement, and whether it is chosen."""
    own = np.arange(count)
    if masking.unit != "span":
        return own, rng.random(count) < masking.rate
    lengths = rng.choice(np.arange(1, LONGEST_SPAN + 1), count, p=masking.span_shares)
    lengths = np.where(rng.random(count) < masking.span_start, lengths, 0)
    group, chosen = own.copy(), np.zeros(count, bool)
    # A span that begins k words before reaches here if it is longer than k; the last one to begin decides. The batch
    # is a ring, so that its first words are in spans as often as all others.
    for back in reversed(range(min(LONGEST_SPAN, count))):
        reached = np.roll(lengths, back) > back
        group = np.where(reached, np.roll(own, back), group)
        chosen |= reached
    return group, chosen
