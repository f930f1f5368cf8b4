"""Pairs of segments, [CLS] A [SEP] B [SEP]: for next-sentence prediction (Devlin et al. 2018, section 3.1, task 2) and
sentence order (Lan et al. 2019, section 3.2).

A packing's sequence of whole sentences is split at one of their bounds. What follows there is replaced, or both change
places, in half of the pairs; each epoch draws anew. What decides that is never to be seen from the form alone: both
kinds of pairs end where a sentence ends, and a wrong B has all the sentences that A leaves room for, as a true one has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bothways.data.packing import Packed, Packing, Piece, Shard
from bothways.errors import InputError

__all__ = ["NEGATIVES", "PairPacking", "Pairing"]

Ints = NDArray[np.int64]
Negatives = Literal["other", "same"]
NEGATIVES: tuple[Negatives, ...] = ("other", "same")
SHAPES = 64  # numbers of tokens in a batch are multiples of it
TRIES = 8  # at a wrong next segment that fits, and at text to fill a batch with
PAIRS, FILLING = 1 << 60, 1 << 61  # what is drawn has keys apart from those of an epoch's order
SINGLE = -1
NOWHERE = {
    "other": "a single document: there is no other one to take a wrong next segment from; "
    'build the corpus with documents apart, or say negatives = "same"',
    "same": "no document is longer than a sequence, so none has a wrong next segment; "
    'say negatives = "other", or a smaller longest',
}


@dataclass(frozen=True)
class Pairing:
    """kind: "next": is B what follows A (0), or text from elsewhere (1)?    "order": are both in their order (0), or
    have they changed places (1)?

    negatives, of kind "next": where that text is from: "other" documents, or elsewhere in the "same" one.
    """

    kind: Literal["next", "order"]
    negatives: Negatives = "other"


@dataclass(frozen=True, eq=False)
class _Pairs:
    """An epoch's sequences, as first and last (exclusive) tokens of the corpus.

    spans: [n, 4], of A and B; B is empty where there is no pair.    labels: [n], 0 or 1, -1 where there is none.
    """

    spans: Ints
    labels: Ints


@dataclass(frozen=True, eq=False)
class _Text:
    """Where sentences and documents begin in all shards together, as if their tokens lay end to end.

    shards: [shards + 1], first tokens.    bounds: [S + 1], first tokens of sentences, and the end.
    documents: [D + 1], sentences that documents begin with, and the end.
    """

    shards: Ints
    bounds: Ints
    documents: Ints

    @classmethod
    def of(cls, shards: Sequence[Shard]) -> _Text:
        first = np.cumsum([0, *(int(shard.sentences[-1]) for shard in shards)])
        bounds = [np.asarray(shard.sentences) + start for shard, start in zip(shards, first)]
        opened = [bound[np.asarray(shard.documents)] for shard, bound in zip(shards, bounds)]
        every = np.unique(np.concatenate(bounds))  # sentences without tokens are none
        return cls(first, every, np.searchsorted(every, np.unique(np.concatenate(opened))))

    def document(self, sentences: Ints) -> tuple[Ints, Ints]:
        """The first sentence of the documents that sentences are in, and the last (exclusive)."""
        numbers = np.searchsorted(self.documents, sentences, side="right")
        return self.documents[numbers - 1], self.documents[numbers]

    def fitting(self, sentences: Ints, room: Ints) -> Ints:
        """Up to which sentence (exclusive) `room` tokens reach from the first one on."""
        return np.searchsorted(self.bounds, self.bounds[sentences] + room, side="right") - 1

    def pieces(self, starts: Ints, ends: Ints) -> list[Piece]:
        """The tokens from each start to before its end as a piece of their shard."""
        shards = np.searchsorted(self.shards[1:-1], starts, side="right")
        before = self.shards[shards]
        return [Piece(*one) for one in zip(shards.tolist(), (starts - before).tolist(), (ends - before).tolist())]


class PairPacking(Packing):
    """The batches of a split of a corpus, with pairs of segments.

    A sequence of a single sentence stays as it is, without a label; so does one for which no wrong B was found, whether
    it would have had one or not, so that labels stay even. Every token of the split is once an epoch in a sequence,
    unless it is in a B that was replaced. No sequence is cut at a batch's end; where `filled`, a batch is filled with
    other text instead, single segments without a label, until its number of tokens is a multiple of 64 or the budget
    (up to 2 fewer, where no piece fits): kernels are compiled for a shape, see `Packing`.

    Raises InputError where a sequence cannot fit, and where there can be no pair.
    """

    SPECIAL = 3

    def __init__(
        self,
        pairing: Pairing,
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
        super().__init__(
            shards,
            longest=longest,
            budget=budget,
            before=before,
            after=after,
            seed=seed,
            shuffle=shuffle,
            filled=False,
        )
        self._pairing, self._fills, self._room = pairing, filled, longest - self.SPECIAL
        self._text = text = _Text.of(shards)
        self._singles = np.stack([self._starts, self._ends, self._ends, self._ends], 1) + text.shards[self._of][:, None]
        first, last = (np.searchsorted(text.bounds, self._singles[:, side]) for side in (0, 1))
        whole = (text.bounds[first] == self._singles[:, 0]) & (text.bounds[last] == self._singles[:, 1])
        self._divisible = np.flatnonzero(whole & (last - first > 1))
        self._sentences = first[self._divisible], last[self._divisible]
        self._check()
        self._paired = lru_cache(maxsize=2)(self._pairs)

    def _check(self) -> None:
        if not len(self._divisible):
            raise InputError("no sequence has two sentences to make a pair of; build the corpus with --sentences split")
        if self._pairing.kind == "next" and not (self._elsewhere().count > 0).any():
            raise InputError(NOWHERE[self._pairing.negatives])

    def cut_to(self, longest: int) -> Packing:
        """The same split under the same seed and budget, in sequences of at most so many tokens."""
        if longest == self._longest:
            return self
        return PairPacking(
            self._pairing,
            self._shards,
            longest=longest,
            budget=self._budget,
            before=int(self._before[0]),
            after=int(self._after[0]),
            seed=self._seed,
            shuffle=self._shuffle,
            filled=self._fills,
        )

    def __call__(self, epoch: int, number: int) -> Packed:
        """One batch, its longest sequences first."""
        plan, paired = self._epoch(epoch), self._paired(epoch)
        chosen = plan.order[plan.first[number] : plan.first[number + 1]]
        sequences = self._sequences_of(paired.spans[chosen])
        labels = paired.labels[chosen].tolist()
        if self._fills:
            rng = np.random.Generator(np.random.Philox(key=[self._seed, FILLING + (epoch << 40) + number]))
            filling = list(self._filling(sum(map(_length, sequences)), rng))
            sequences, labels = [*sequences, *filling], [*labels, *[SINGLE] * len(filling)]
        order = sorted(range(len(sequences)), key=lambda i: -_length(sequences[i]))
        return self._laid([sequences[i] for i in order], np.array([labels[i] for i in order]))

    def _sequences_of(self, spans: Ints) -> list[tuple[Piece, ...]]:
        first, second = (self._text.pieces(spans[:, side], spans[:, side + 1]) for side in (0, 2))
        return [(a, b) if b.end > b.start else (a,) for a, b in zip(first, second)]

    def _lengths(self, epoch: int) -> Ints:
        spans = self._paired(epoch).spans
        a, b = spans[:, 1] - spans[:, 0], spans[:, 3] - spans[:, 2]
        return a + b + np.where(b > 0, 3, 2)

    def _pairs(self, epoch: int) -> _Pairs:
        """All of an epoch, drawn at once."""
        rng = np.random.Generator(np.random.Philox(key=[self._seed, PAIRS + epoch]))
        first, last = self._sentences
        right = self._singles[self._divisible]
        right[:, 1] = right[:, 2] = self._text.bounds[first + 1 + _below(last - first - 1, rng)]
        wrong = right[:, [2, 3, 0, 1]] if self._pairing.kind == "order" else self._replaced(right, rng)
        found = np.flatnonzero(wrong[:, 3] > wrong[:, 2])
        label = rng.integers(2, size=len(found))
        spans, labels = self._singles.copy(), np.full(self.sequences, SINGLE)
        spans[self._divisible[found]] = np.where(label[:, None] == 1, wrong[found], right[found])
        labels[self._divisible[found]] = label
        return _Pairs(spans, labels)

    def _elsewhere(self) -> _Elsewhere:
        """Where a wrong B may begin."""
        first, last = self._sentences
        begin, end = self._text.document(first)
        if self._pairing.negatives == "same":
            return _Elsewhere(begin, end, first, last)
        return _Elsewhere(np.zeros_like(begin), np.full_like(end, len(self._text.bounds) - 1), begin, end)

    def _replaced(self, right: Ints, rng: np.random.Generator) -> Ints:
        """The pairs with another B, which is empty where none was found."""
        wrong, elsewhere = right.copy(), self._elsewhere()
        wrong[:, 3] = wrong[:, 2]
        room = self._room - (right[:, 1] - right[:, 0])
        waiting = np.flatnonzero(elsewhere.count > 0)
        for _ in range(TRIES):
            places = elsewhere.at(waiting)
            begin = places.draw(rng)
            end = np.minimum(self._text.fitting(begin, room[waiting]), places.end_of(begin, self._text))
            fits = end > begin
            wrong[waiting[fits], 2:] = self._text.bounds[np.stack([begin, end], 1)[fits]]
            waiting = waiting[~fits]
        return wrong

    def _filling(self, tokens: int, rng: np.random.Generator) -> Iterator[tuple[Piece]]:
        """Beginnings of sequences drawn at random, for a batch that has some tokens already."""
        missing = self._goal(tokens) - tokens
        while missing > 2:
            tried = rng.integers(self.sequences, size=TRIES)
            some = int(tried[np.minimum((self._ends - self._starts)[tried], missing - 2).argmax()])
            start, count = int(self._starts[some]), int(self._ends[some] - self._starts[some])
            most = missing - 2
            count = most if count >= most else min(count, most - 3)  # another piece has 3 at least
            if count < 1:
                return
            yield (Piece(int(self._of[some]), start, start + count),)
            missing -= count + 2

    def _goal(self, tokens: int) -> int:
        """How many tokens a batch shall have: a multiple of 64 that is the same, or 3 or more away."""
        goal = -(-tokens // SHAPES) * SHAPES
        return min(self._budget, goal + SHAPES if 0 < goal - tokens < 3 else goal)


@dataclass(frozen=True, eq=False)
class _Elsewhere:
    """For each pair, sentences from `begin` to before `end` but for those from `without` to before `beyond`."""

    begin: Ints
    end: Ints
    without: Ints
    beyond: Ints

    @property
    def count(self) -> Ints:
        return self.end - self.begin - (self.beyond - self.without)

    def at(self, pairs: Ints) -> _Elsewhere:
        """Those of some pairs."""
        return _Elsewhere(self.begin[pairs], self.end[pairs], self.without[pairs], self.beyond[pairs])

    def draw(self, rng: np.random.Generator) -> Ints:
        """One sentence for each pair, all as likely."""
        drawn = self.begin + _below(self.count, rng)
        return drawn + np.where(drawn >= self.without, self.beyond - self.without, 0)

    def end_of(self, sentences: Ints, text: _Text) -> Ints:
        """Up to where (exclusive) one may go on from there: the document's end, or what is left out."""
        end = text.document(sentences)[1]
        return np.where(sentences < self.without, np.minimum(end, self.without), end)


def _length(pieces: tuple[Piece, ...]) -> int:
    """Of a sequence, with special tokens."""
    return 1 + sum(piece.end - piece.start + 1 for piece in pieces)


def _below(counts: Ints, rng: np.random.Generator) -> Ints:
    """For each count a number from 0 to before it, all as likely."""
    return (rng.random(len(counts)) * counts).astype(np.int64)
