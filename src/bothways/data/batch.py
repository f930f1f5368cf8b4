"""What a forward takes, and how sequences are gathered into it under a budget of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bothways.ragged import Layout, Ragged

__all__ = ["Answers", "Batch", "Numbers", "Tokens", "batch", "by_token_budget"]


class Tokens(Protocol):
    """What a forward reads of a sequence: ids, types (0 or 1, which text of a pair), whether it is a pair.

    A tokenizer's `Encoded` is one.
    """

    @property
    def ids(self) -> Sequence[int]: ...

    @property
    def types(self) -> Sequence[int]: ...

    @property
    def pair(self) -> bool: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Numbers:
    """What a forward reads of a sequence and nothing else, in little memory.

    numbers: int32 [length], its ids.    second: bool [length], which of them are of type 1; None where none is.
    """

    numbers: NDArray[np.int32]
    second: NDArray[np.bool_] | None
    pair: bool

    @classmethod
    def of(cls, tokens: Tokens) -> Numbers:
        """The sequence's."""
        types = np.array(tokens.types, bool)
        return cls(np.array(tokens.ids, np.int32), types if types.any() else None, tokens.pair)

    @property
    def ids(self) -> Sequence[int]:
        return self.numbers.tolist()

    @property
    def types(self) -> Sequence[int]:
        return [0] * len(self) if self.second is None else self.second.astype(int).tolist()

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True, eq=False)
class Answers:
    """What a loss compares with.

    values: [M].    rows: int64 [M], the rows of tokens they belong to; what is said of a whole sequence belongs to its
    first row. None: they belong to all rows.
    """

    values: Tensor
    rows: Tensor | None = None

    def to(self, device: torch.device | str) -> Answers:
        """These answers on another device."""
        rows = None if self.rows is None else self.rows.to(device, non_blocking=True)
        return Answers(self.values.to(device, non_blocking=True), rows)


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences for one forward.

    tokens: ids int64 [T].    types: int64 [T], or None where all are 0.
    origin: where each sequence stood in the input.
    target: the other side of a sequence-to-sequence pair.    groups: sequences that belong together (the choices of a
    question, the documents of a query).    labels: what losses compare with, by their names.
    rows: int64 [M], the rows of tokens that are asked about, ascending, each sequence's own, where they are few; None:
    all may be.
    """

    tokens: Ragged
    types: Tensor | None
    origin: tuple[int, ...]
    target: Ragged | None = None
    groups: Layout | None = None
    labels: Mapping[str, Answers] = field(default_factory=dict)
    rows: Ragged | None = None

    def to(self, device: torch.device | str) -> Batch:
        """This batch on another device."""
        return replace(
            self,
            tokens=self.tokens.to(device),
            types=None if self.types is None else self.types.to(device, non_blocking=True),
            target=None if self.target is None else self.target.to(device),
            groups=None if self.groups is None else self.groups.to(device),
            labels={name: answers.to(device) for name, answers in self.labels.items()},
            rows=None if self.rows is None else self.rows.to(device),
        )


def by_token_budget(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Sequences gathered by length, longest first, so that a batch has at most `budget` tokens and few lengths.

    A sequence longer than the budget is a batch of its own. Gives lists of indices into `lengths`.
    """
    batches: list[list[int]] = []
    room = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or lengths[i] > room:
            batches.append([])
            room = budget
        batches[-1].append(i)
        room -= lengths[i]
    return batches


def batch(encoded: Sequence[Tokens], origin: Iterable[int], device: torch.device | str = "cpu") -> Batch:
    """The sequences numbered `origin`, as one batch on the device."""
    origin = tuple(origin)
    chosen = [encoded[i] for i in origin]
    tokens = Ragged.of([e.ids for e in chosen], device)
    types = (
        torch.tensor([t for e in chosen for t in e.types], dtype=torch.int64) if any(e.pair for e in chosen) else None
    )
    return Batch(tokens, None if types is None else types.to(device, non_blocking=True), origin)
