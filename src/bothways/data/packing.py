"""From a corpus to batches under a budget of tokens: documents are cut into sequences, and those laid end to end.

Which sequences a batch has is a function of the seed, the epoch and the batch's number alone, so that a run can be
resumed anywhere and prepared by any number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bothways.errors import InputError

__all__ = ["Packed", "Packing", "Piece", "Shard", "cut_documents"]

Ints = NDArray[np.int64]


class Shard(Protocol):
    """A part of a corpus, as arrays that may be mapped from files.

    tokens: [T] ids without special tokens.    words: [T], 1 where a token begins a word.
    sentences: [S + 1] offsets into the tokens.    documents: [D + 1] offsets into the sentences.
    """

    @property
    def tokens(self) -> NDArray[Any]: ...
    @property
    def words(self) -> NDArray[Any]: ...
    @property
    def sentences(self) -> NDArray[Any]: ...
    @property
    def documents(self) -> NDArray[Any]: ...


@dataclass(frozen=True, eq=False)
class Packed:
    """Sequences of one batch, end to end, with special tokens, on the host.

    ids: int64 [T].    words: bool [T], whether a token begins a word.    special: bool [T], tokens that were added.
    lengths: of the sequences.    types: int64 [T], 1 in second segments; None where no sequence has two.
    pairs: int64 [N], of two segments what they are to each other, 0 or 1 (see `data.pairs`), -1 where there is just
    one; None where no sequence has two.
    """

    ids: Ints
    words: NDArray[np.bool_]
    special: NDArray[np.bool_]
    lengths: tuple[int, ...]
    types: Ints | None = None
    pairs: Ints | None = None


class Piece(NamedTuple):
    """Neighbouring tokens of a shard, given by its number: from `start` to before `end`."""

    shard: int
    start: int
    end: int


def cut_documents(
    sentences: NDArray[Any], documents: NDArray[Any], room: int, middles: Ints | None = None
) -> tuple[Ints, Ints]:
    """First and last row (exclusive) of sequences of at most `room` tokens: whole sentences, as many as fit.

    No sequence crosses a document's end; a sentence that is too long is cut into pieces of `room` tokens.
    middles: sentences [D] that documents are cut from, both ways; None: from the first one of each.
    """
    found: list[tuple[int, int]] = []
    middles = documents[:-1] if middles is None else middles
    for first, middle, last in zip(documents[:-1].tolist(), middles.tolist(), documents[1:].tolist()):
        bounds = np.asarray(sentences[first : last + 1], dtype=np.int64)
        before, behind = bounds[: middle - first + 1], bounds[middle - first :]
        found += [(-end, -start) for start, end in reversed(_cut(-before[::-1], room))]
        found += _cut(behind, room)
    starts, ends = np.array(found, dtype=np.int64).reshape(-1, 2).T
    return starts.copy(), ends.copy()


def _cut(bounds: Ints, room: int) -> list[tuple[int, int]]:
    """Some sentences into sequences; bounds: theirs."""
    found: list[tuple[int, int]] = []
    start, end = int(bounds[0]), int(bounds[-1])
    while start < end:
        fit = int(bounds[np.searchsorted(bounds, start + room, side="right") - 1])
        stop = fit if fit > start else start + room
        found.append((start, stop))
        start = stop
    return found


@dataclass(frozen=True, eq=False)
class _Plan:
    """An epoch's order of sequences, and where in it batches begin, with the end: the sequence, and how many tokens of
    it the batch before has.
    """

    order: Ints
    first: list[int]
    done: list[int]


class Packing:
    """The batches of a split of a corpus.

    longest: tokens of a sequence, special ones included.    budget: tokens of a batch.
    before, after: special tokens that every sequence starts and ends with.
    shuffle: a new order each epoch, by the seed; else the corpus's own.
    filled: a sequence that no longer fits into a batch is cut there and goes on in the next one, so that all batches
    but an epoch's last have `budget` tokens (up to 2 fewer, where no piece fits). Kernels are compiled for a shape:
    with other shapes in every batch a CPU spends a tenth of its time and gigabytes of memory on them.

    Raises InputError where a sequence cannot fit, or there is none.
    """

    SPECIAL = 2  # tokens of a sequence

    def __init__(
        self,
        shards: Sequence[Shard],
        *,
        longest: int,
        budget: int,
        before: int,
        after: int,
        seed: int = 0,
        shuffle: bool = True,
        filled: bool = True,
    ) -> None:
        if longest <= self.SPECIAL:
            raise InputError(f"sequences of {longest} tokens leave no room beside {self.SPECIAL} special ones")
        if budget < longest:
            raise InputError(f"a budget of {budget} tokens a batch is smaller than one sequence of {longest}")
        self._shards = shards
        self._longest, self._budget, self._seed = longest, budget, seed
        self._shuffle, self._filled = shuffle, filled
        self._before, self._after = np.array([before], np.int64), np.array([after], np.int64)
        self._room = longest - self.SPECIAL
        cuts = self._cuts()
        self._starts = np.concatenate([np.zeros(0, np.int64), *(starts for starts, _ in cuts)])
        self._ends = np.concatenate([np.zeros(0, np.int64), *(ends for _, ends in cuts)])
        self._of = np.repeat(np.arange(len(cuts)), [len(starts) for starts, _ in cuts])
        if not len(self._starts):
            raise InputError("the corpus has no sequence to make a batch of")
        self._epoch = lru_cache(maxsize=2)(self._plan)

    def _cuts(self) -> list[tuple[Ints, Ints]]:
        """Of each shard, the rows that sequences begin with and those they end before."""
        return [cut_documents(shard.sentences, shard.documents, self._room) for shard in self._shards]

    def cut_to(self, longest: int) -> Packing:
        """The same split under the same seed and budget, in sequences of at most so many tokens."""
        if longest == self._longest:
            return self
        before, after = int(self._before[0]), int(self._after[0])
        return Packing(
            self._shards,
            longest=longest,
            budget=self._budget,
            before=before,
            after=after,
            seed=self._seed,
            shuffle=self._shuffle,
            filled=self._filled,
        )

    @property
    def sequences(self) -> int:
        """How many there are before any is cut to fill a batch."""
        return len(self._starts)

    @property
    def tokens(self) -> int:
        """Of all these sequences, special ones included."""
        return int(self._lengths(0).sum())

    def batches(self, epoch: int) -> int:
        """How many batches an epoch has."""
        return len(self._epoch(epoch).first) - 1

    def __call__(self, epoch: int, number: int) -> Packed:
        """One batch, its longest sequences first: those of equal length are neighbours, which attention likes."""
        chosen, starts, ends = self._sequences(epoch, number)
        longest_first = np.argsort(starts - ends, kind="stable")
        pieces = [Piece(*one) for one in zip(self._of[chosen].tolist(), starts.tolist(), ends.tolist())]
        return self._laid([(pieces[i],) for i in longest_first.tolist()])

    def _laid(self, sequences: Sequence[tuple[Piece, ...]], pairs: Ints | None = None) -> Packed:
        """Sequences of one piece or two: a special token before the first, and one after each."""
        pieces = [piece for sequence in sequences for piece in sequence]
        places = np.array([place for sequence in sequences for place in range(len(sequence))])
        first = places == 0
        ids: list[Any] = []
        words: list[Any] = []
        edge = np.zeros(1, bool)
        for piece, begins in zip(pieces, first.tolist()):
            shard, rows = self._shards[piece.shard], slice(piece.start, piece.end)
            ids += (*((self._before,) if begins else ()), shard.tokens[rows], self._after)
            words += (*((edge,) if begins else ()), shard.words[rows], edge)
        sizes = np.array([piece.end - piece.start + 1 for piece in pieces]) + first
        behind = np.cumsum(sizes)
        special = np.zeros(behind[-1], bool)
        special[behind - 1] = special[(behind - sizes)[first]] = True
        return Packed(
            np.concatenate(ids, dtype=np.int64, casting="unsafe"),
            np.concatenate(words).astype(bool),
            special,
            tuple(np.add.reduceat(sizes, np.flatnonzero(first)).tolist()),
            None if pairs is None else np.repeat(places, sizes),
            pairs,
        )

    def _sequences(self, epoch: int, number: int) -> tuple[Ints, Ints, Ints]:
        """A batch's sequences, with the first row and the last (exclusive) of what the batch has of them."""
        plan = self._epoch(epoch)
        (first, last), (done, cut) = plan.first[number : number + 2], plan.done[number : number + 2]
        chosen = plan.order[first : last + (cut > 0)]
        starts, ends = self._starts[chosen], self._ends[chosen]  # copies
        if cut:
            ends[-1] = starts[-1] + cut
        starts[0] += done
        return chosen, starts, ends

    def _lengths(self, epoch: int) -> Ints:
        """Of all sequences, with special tokens."""
        return self._ends - self._starts + 2

    def _plan(self, epoch: int) -> _Plan:
        order = np.arange(self.sequences)
        if self._shuffle:
            order = np.random.Generator(np.random.Philox(key=[self._seed, epoch])).permutation(order)
        behind = np.cumsum(self._lengths(epoch)[order])
        first, done, filled = [0], [0], 0
        while first[-1] < len(order):
            # What was cut off the first sequence is not in this batch, but for the special tokens it has again.
            end = filled + done[-1] + self._budget
            last = int(np.searchsorted(behind, end, side="right"))
            filled = int(behind[last - 1]) if last else 0
            room = end - filled - 2 if self._filled and last < len(order) else 0
            first.append(last)
            done.append(max(0, room))
        return _Plan(order, first, done)
