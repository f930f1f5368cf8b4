"""Ragged batches: sequences of different lengths end to end in one tensor, with no padding in between.

    data   [T, …]   the tokens of all sequences, T = sum of lengths
    layout          where each sequence starts and ends

Lengths live on the host as well as on the device, so that no forward ever waits for the device to tell a size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bothways.errors import InputError

__all__ = ["Group", "Grouping", "Layout", "Ragged", "group_by_lengths"]


@dataclass(frozen=True, eq=False)
class Layout:
    """Offsets of N sequences in T rows: sequence i is rows `offsets[i]` to `offsets[i + 1]`.

    offsets: int32 [N + 1] on the device of the data; starts at 0, non-decreasing, last = T.
    lengths: the N lengths on the host.

    Build one with `Layout.of`; two layouts are the same only if they are the same object.
    """

    offsets: Tensor
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, lengths: Iterable[int], device: torch.device | str = "cpu") -> Layout:
        """The layout of sequences with these lengths (0 is allowed). Raises InputError on a negative length."""
        lengths = tuple(int(length) for length in lengths)
        if any(length < 0 for length in lengths):
            raise InputError(f"a sequence cannot have a negative length, got {min(lengths)}")
        return cls(_indices(np.array([0, *accumulate(lengths)], dtype=np.int32), device), lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def device(self) -> torch.device:
        return self.offsets.device

    @cached_property
    def total(self) -> int:
        """T, the number of rows."""
        return sum(self.lengths)

    @cached_property
    def longest(self) -> int:
        return max(self.lengths, default=0)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The first row of each sequence, on the host."""
        return tuple(accumulate(self.lengths, initial=0))[:-1]

    @cached_property
    def positions(self) -> Tensor:
        """int64 [T]: 0, 1, … within each sequence."""
        return _indices(np.concatenate([np.arange(0), *(np.arange(length) for length in self.lengths)]), self.device)

    @cached_property
    def segments(self) -> Tensor:
        """int64 [T]: the index of the sequence each row belongs to."""
        return _indices(np.repeat(np.arange(len(self)), self.lengths), self.device)

    @cached_property
    def grouping(self) -> Grouping:
        """The sequences of equal length, for work that wants rectangles."""
        return group_by_lengths(self, self)

    def rows(self, sequences: Iterable[int]) -> Tensor:
        """int64 row numbers of the given sequences, in their order."""
        return _indices(self._rows(sequences), self.device)

    def _rows(self, sequences: Iterable[int]) -> NDArray[np.int64]:
        parts = (np.arange(self.starts[i], self.starts[i] + self.lengths[i]) for i in sequences)
        return np.concatenate([np.arange(0), *parts])

    def to(self, device: torch.device | str) -> Layout:
        """This layout on another device (itself, if it is there already)."""
        device = torch.device(device)
        return self if device == self.device else Layout(self.offsets.to(device), self.lengths)


@dataclass(frozen=True)
class Group:
    """Pairs of sequences, all with `query_length` rows on one side and `key_length` on the other.

    query_rows, key_rows: a slice where the sequences are neighbours, else int64 row numbers.
    """

    sequences: tuple[int, ...]
    query_length: int
    key_length: int
    query_rows: slice | Tensor
    key_rows: slice | Tensor

    @property
    def count(self) -> int:
        return len(self.sequences)


@dataclass(frozen=True)
class Grouping:
    """Groups that cover all sequences; `restore` puts their rows, laid end to end, back in order (None: they are)."""

    groups: tuple[Group, ...]
    restore: Tensor | None

    def split(self, x: Tensor, *, keys: bool = False) -> list[Tensor]:
        """Rows [T, …] of the queries (or keys) as one tensor for each group: `count × length` rows; the way back of
        `merge`. One copy at most, and one on the way back of a gradient."""
        if self.restore is not None:
            x = x.index_select(0, self.key_order if keys else self.query_order)
        lengths = [group.key_length if keys else group.query_length for group in self.groups]
        return list(x.split([group.count * length for group, length in zip(self.groups, lengths)]))

    @cached_property
    def query_order(self) -> Tensor:
        """int64 [Tq]: the queries' rows, group after group."""
        return _one_after_another([group.query_rows for group in self.groups])

    @cached_property
    def key_order(self) -> Tensor:
        """int64 [Tk]: the keys' rows, group after group."""
        return _one_after_another([group.key_rows for group in self.groups])

    def merge(self, parts: Sequence[Tensor]) -> Tensor:
        """The groups' results (`parts[g]` has `count × query_length` rows) as one tensor in the layout's order."""
        merged = parts[0] if len(parts) == 1 else torch.cat(list(parts))
        return merged if self.restore is None else merged.index_select(0, self.restore)


def group_by_lengths(query: Layout, key: Layout) -> Grouping:
    """Group sequence i of `query` with sequence i of `key` by their two lengths, in order of first appearance.

    In a batch sorted by length every group is a slice and nothing is copied. Raises InputError if the numbers differ.
    """
    if len(query) != len(key):
        raise InputError(f"cannot attend from {len(query)} sequences to {len(key)}: one for one is needed")
    members: dict[tuple[int, int], list[int]] = {}
    for i, pair in enumerate(zip(query.lengths, key.lengths)):
        members.setdefault(pair, []).append(i)
    groups = tuple(
        Group(tuple(m), query_length, key_length, _rows(query, m), _rows(key, m))
        for (query_length, key_length), m in members.items()
    )
    order = [i for m in members.values() for i in m]
    if order == list(range(len(query))):
        return Grouping(groups, None)
    restore = np.empty(query.total, dtype=np.int64)
    restore[query._rows(order)] = np.arange(query.total)
    return Grouping(groups, _indices(restore, query.device))


def _indices(numbers: NDArray[Any], device: torch.device | str) -> Tensor:
    """Host numbers as a tensor there, fit for autograd even if they are first asked for in inference mode."""
    with torch.inference_mode(False):
        return torch.from_numpy(numbers).to(device, non_blocking=True)


def _one_after_another(rows: Sequence[slice | Tensor]) -> Tensor:
    """Row numbers, fit for autograd even if they are first asked for in inference mode."""
    device = next((some.device for some in rows if isinstance(some, Tensor)), torch.device("cpu"))
    with torch.inference_mode(False):
        parts = [torch.arange(r.start, r.stop, device=device) if isinstance(r, slice) else r for r in rows]
        return torch.cat(parts)


def _rows(layout: Layout, sequences: list[int]) -> slice | Tensor:
    first, last = sequences[0], sequences[-1]
    if last - first + 1 == len(sequences):
        return slice(layout.starts[first], layout.starts[last] + layout.lengths[last])
    return layout.rows(sequences)


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of N sequences end to end: `data [T, …]` and their `layout`."""

    data: Tensor
    layout: Layout

    def __post_init__(self) -> None:
        if len(self.data) != self.layout.total:
            raise InputError(f"{len(self.data)} rows do not fit a layout of {self.layout.total}")

    @classmethod
    def of(cls, sequences: Sequence[Tensor | Sequence[int]], device: torch.device | str = "cpu") -> Ragged:
        """Sequences (tensors `[length, …]`, or lists of ids) laid end to end."""
        tensors = [torch.as_tensor(s, dtype=torch.int64 if not len(s) else None) for s in sequences]
        data = torch.cat(tensors) if tensors else torch.empty(0, dtype=torch.int64)
        return cls(data.to(device), Layout.of(map(len, tensors), device))

    def __len__(self) -> int:
        return len(self.layout)

    def to(self, device: torch.device | str) -> Ragged:
        return Ragged(self.data.to(device), self.layout.to(device))

    def unbind(self) -> list[Tensor]:
        """One view `[length, …]` for each sequence."""
        return list(self.data.split(list(self.layout.lengths))) if len(self) else []

    def select(self, sequences: Sequence[int]) -> Ragged:
        """The given sequences, in the given order."""
        layout = Layout.of((self.layout.lengths[i] for i in sequences), self.layout.device)
        return Ragged(self.data.index_select(0, self.layout.rows(sequences)), layout)

    def drop_first(self, count: int) -> Ragged:
        """Each sequence without its first `count` rows (empty where it has no more)."""
        starts, lengths = self.layout.starts, self.layout.lengths
        rows = [np.arange(start + min(count, n), start + n) for start, n in zip(starts, lengths)]
        index = _indices(np.concatenate([np.arange(0), *rows]), self.data.device)
        return Ragged(self.data.index_select(0, index), Layout.of((max(0, n - count) for n in lengths), index.device))

    # Reductions: [T, …] → [N, …]. A sequence without rows gives zeros.

    def first(self) -> Tensor:
        """The first row of each sequence."""
        if all(self.layout.lengths):
            return self.data.index_select(0, self.layout.offsets[:-1])
        return self._reduce(lambda group: group[:, 0])

    def last(self) -> Tensor:
        """The last row of each sequence."""
        return self._reduce(lambda group: group[:, -1])

    def sum(self) -> Tensor:
        return self._reduce(lambda group: group.sum(1))

    def mean(self) -> Tensor:
        return self._reduce(lambda group: group.mean(1))

    def max(self) -> Tensor:
        return self._reduce(lambda group: group.amax(1))

    def _reduce(self, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        """Reduce rectangles [count, length, …] along 1: a sequence's result never depends on its neighbours."""
        parts: list[Tensor] = []
        order: list[int] = []
        for group in self.layout.grouping.groups:
            if group.query_length:
                rows = self.data[group.query_rows]
                parts.append(reduce(rows.reshape(group.count, group.query_length, *rows.shape[1:])))
                order += group.sequences
        if order == list(range(len(self))) and parts:
            return torch.cat(parts)
        if not parts:
            return self.data.new_zeros((len(self), *self.data.shape[1:]))
        reduced = torch.cat(parts)
        out = reduced.new_zeros((len(self), *reduced.shape[1:]))
        return out.index_copy(0, _indices(np.array(order), out.device), reduced)
