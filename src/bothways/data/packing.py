"""From a corpus to batches under a budget of tokens: documents are cut into sequences, and those laid end to end.

Which sequences a batch has is a function of the seed, the epoch and the batch's number alone, so that a run can be
resumed anywhere and prepared by any number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bothways.errors import InputError

__all__ = ["Edges", "Packed", "Packing", "Piece", "Shard", "cut_documents"]

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
Edges = Literal["sequence", "document"]


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
    """Neighbouring tokens of a shard, given by its number: from `start` to before `end`.

    opens, closes: whether a special token stands before them, and whether one stands after them.
    """

    shard: int
    start: int
    end: int
    opens: bool = True
    closes: bool = True

    @property
    def length(self) -> int:
        """With special tokens."""
        return self.end - self.start + self.opens + self.closes


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
        found += [(-end, -start) for start, end in reversed(_whole_sentences(-before[::-1], room))]
        found += _whole_sentences(behind, room)
    starts, ends = np.array(found, dtype=np.int64).reshape(-1, 2).T
    return starts.copy(), ends.copy()


def _whole_sentences(bounds: Ints, room: int) -> list[tuple[int, int]]:
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
    before, after: special tokens that sequences start and end with.    edges: every "sequence" does; or where a
    "document" starts and where it ends alone, so that nothing says that a text ends where it goes on.
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
        edges: Edges = "sequence",
    ) -> None:
        if longest <= self.SPECIAL:
            raise InputError(f"sequences of {longest} tokens leave no room beside {self.SPECIAL} special ones")
        if budget < longest:
            advice = "say more batch_tokens, or a lower longest"
            raise InputError(f"a budget of {budget} tokens a batch is smaller than one sequence of {longest}; {advice}")
        self._shards = shards
        self._longest, self._budget, self._seed = longest, budget, seed
        self._shuffle, self._filled, self._edges = shuffle, filled, edges
        self._before, self._after = np.array([before], np.int64), np.array([after], np.int64)
        self._room = longest - self.SPECIAL
        cuts = self._cuts()
        self._starts = np.concatenate([np.zeros(0, np.int64), *(starts for starts, _ in cuts)])
        self._ends = np.concatenate([np.zeros(0, np.int64), *(ends for _, ends in cuts)])
        self._of = np.repeat(np.arange(len(cuts)), [len(starts) for starts, _ in cuts])
        if not len(self._starts):
            raise InputError("the corpus has no sequence to make a batch of")
        self._opens, self._closes = self._special(cuts)
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
            edges=self._edges,
        )

    def _special(self, cuts: list[tuple[Ints, Ints]]) -> tuple[Flags, Flags]:
        """Whether a special token stands before each sequence, and whether one stands after it."""
        if self._edges == "sequence":
            return np.ones(len(self._of), bool), np.ones(len(self._of), bool)
        edges = [np.asarray(shard.sentences)[np.asarray(shard.documents)] for shard in self._shards]
        opens = [np.isin(starts, edge) for (starts, _), edge in zip(cuts, edges)]
        closes = [np.isin(ends, edge) for (_, ends), edge in zip(cuts, edges)]
        return np.concatenate(opens), np.concatenate(closes)

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
        pieces = self._sequences(epoch, number)
        return self._laid([(piece,) for piece in sorted(pieces, key=lambda piece: -piece.length)])

    def _laid(self, sequences: Sequence[tuple[Piece, ...]], pairs: Ints | None = None) -> Packed:
        """Sequences of one piece or two, with the special tokens around them."""
        pieces = [piece for sequence in sequences for piece in sequence]
        places = np.array([place for sequence in sequences for place in range(len(sequence))])
        ids: list[Any] = []
        words: list[Any] = []
        edge = np.zeros(1, bool)
        for piece in pieces:
            shard, rows = self._shards[piece.shard], slice(piece.start, piece.end)
            ids += (*((self._before,) * piece.opens), shard.tokens[rows], *((self._after,) * piece.closes))
            words += (*((edge,) * piece.opens), shard.words[rows], *((edge,) * piece.closes))
        sizes = np.array([piece.length for piece in pieces])
        behind = np.cumsum(sizes)
        special = np.zeros(behind[-1], bool)
        special[(behind - sizes)[[piece.opens for piece in pieces]]] = True
        special[behind[[piece.closes for piece in pieces]] - 1] = True
        return Packed(
            np.concatenate(ids, dtype=np.int64, casting="unsafe"),
            np.concatenate(words).astype(bool),
            special,
            tuple(np.add.reduceat(sizes, np.flatnonzero(places == 0)).tolist()),
            None if pairs is None else np.repeat(places, sizes),
            pairs,
        )

    def _sequences(self, epoch: int, number: int) -> list[Piece]:
        """A batch's sequences, and what it has of the first and of the last."""
        plan = self._epoch(epoch)
        (first, last), (done, cut) = plan.first[number : number + 2], plan.done[number : number + 2]
        chosen, every = plan.order[first : last + (cut > 0)], self._edges == "sequence"
        starts, ends = self._starts[chosen], self._ends[chosen]  # copies
        opens, closes = self._opens[chosen], self._closes[chosen]
        if cut:
            ends[-1], closes[-1] = starts[-1] + cut, every
        if done:
            starts[0], opens[0] = starts[0] + done, every
        columns = (self._of[chosen], starts, ends, opens, closes)
        return [Piece(*one) for one in zip(*(column.tolist() for column in columns))]

    def _lengths(self, epoch: int) -> Ints:
        """Of all sequences, with special tokens."""
        return self._ends - self._starts + self._opens + self._closes

    def _plan(self, epoch: int) -> _Plan:
        order = np.arange(self.sequences)
        if self._shuffle:
            order = np.random.Generator(np.random.Philox(key=[self._seed, epoch])).permutation(order)
        behind = np.cumsum(self._lengths(epoch)[order])
        first, done, filled, left = [0], [0], 0, 0
        while first[-1] < len(order):
            # What was cut off the first sequence is not in this batch.
            end = filled + left + self._budget
            last = int(np.searchsorted(behind, end, side="right"))
            filled = int(behind[last - 1]) if last else 0
            cut, left = self._cut(int(order[last]), end - filled) if self._filled and last < len(order) else (0, 0)
            first.append(last)
            done.append(cut)
        return _Plan(order, first, done)

    def _cut(self, sequence: int, room: int) -> tuple[int, int]:
        """How many tokens of a sequence, without special ones, a batch has room for that has not all of it; and by how
        many the rest is shorter than the whole.

        Where every sequence has special tokens, both parts have them.
        """
        opens = int(self._opens[sequence])
        if self._edges == "sequence":
            return (room - 2, room - 2) if room > 2 else (0, 0)
        most = int(self._ends[sequence] - self._starts[sequence]) - 1  # a token is left, beside the one that closes
        cut = min(room - opens, most)
        return (cut, cut + opens) if cut > 0 else (0, 0)
