"""Pairs of segments, [CLS] A [SEP] B [SEP]: for next-sentence prediction (Devlin et al. 2018, section 3.1, task 2) and
sentence order (Lan et al. 2019, section 3.2).

A packing's sequence of whole sentences is split at one of their bounds. In half of the pairs what follows there is
replaced, or both change places; each epoch draws anew. What decides that is never to be seen from the form alone:
- A wrong B is the true B of another pair, which gets this one's. Two such pairs have B of the same length, or nearly,
  and both have their own or both have the other's: lengths, and where in a document a B stands, are alike in both.
- A sentence that did not fit begins the next sequence, so what sequences begin with is longer than what they end with.
  For pairs about order half of the documents, by chance, are therefore cut from their end on, and those of many
  sequences from their middle on, both ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bothways.data.packing import Packed, Packing, Piece, Shard, cut_documents
from bothways.errors import InputError

__all__ = ["NEGATIVES", "PairPacking", "Pairing"]

Ints = NDArray[np.int64]
Negatives = Literal["other", "same"]
NEGATIVES: tuple[Negatives, ...] = ("other", "same")
SHAPES = 64  # numbers of tokens in a batch are multiples of it
TRIES = 8  # at text to fill a batch with
APART = (0, 1, 2, 4, 8, 16, 16, 16)  # how many tokens two B may differ by, at each try to find two of the same length
MANY = 8  # sequences of a document that is cut from its middle on
NEAR = 16  # how many pairs whose B is about as long one is tried with, so that it is another one each epoch
CUTS, PAIRS, FILLING = 1 << 59, 1 << 60, 1 << 61  # what is drawn has keys apart from those of an epoch's order
SINGLE = -1
NOWHERE = {
    "other": "a single document has sequences of two sentences: there is no other one to take a wrong next segment "
    'from; build the corpus with documents apart, or say negatives = "same"',
    "same": "no document has two sequences of two sentences, so none has a wrong next segment; "
    'say negatives = "other", or a smaller longest',
}


@dataclass(frozen=True)
class Pairing:
    """kind: "next": is B what follows A (0), or what follows another one (1)?    "order": are both in their order (0),
    or have they changed places (1)?

    negatives, of kind "next": where that one is: in "other" documents, or elsewhere in the "same" one.
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

    def document(self, sentences: Ints) -> Ints:
        """The number of the document that each sentence is in."""
        return np.searchsorted(self.documents, sentences, side="right") - 1

    def pieces(self, starts: Ints, ends: Ints) -> list[Piece]:
        """The tokens from each start to before its end as a piece of their shard."""
        shards = np.searchsorted(self.shards[1:-1], starts, side="right")
        before = self.shards[shards]
        return [Piece(*one) for one in zip(shards.tolist(), (starts - before).tolist(), (ends - before).tolist())]


class PairPacking(Packing):
    """The batches of a split of a corpus, with pairs of segments.

    A sequence of a single sentence stays as it is, without a label; so does one for which no other was found to have
    its B, whether it would have been exchanged or not: labels stay even. Every token of the split is once an epoch in a
    sequence. No sequence is cut at a batch's end; where `filled`, a batch is filled with other text instead, single
    segments without a label, until its number of tokens is a multiple of 64 or the budget (up to 2 fewer, where no
    piece fits): kernels are compiled for a shape, see `Packing`.

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
        self._pairing = pairing
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
        self._fills = filled
        self._text = text = _Text.of(shards)
        self._singles = np.stack([self._starts, self._ends, self._ends, self._ends], 1) + text.shards[self._of][:, None]
        first, last = (np.searchsorted(text.bounds, self._singles[:, side]) for side in (0, 1))
        whole = (text.bounds[first] == self._singles[:, 0]) & (text.bounds[last] == self._singles[:, 1])
        self._divisible = np.flatnonzero(whole & (last - first > 1))
        self._sentences = first[self._divisible], last[self._divisible]
        self._document = text.document(first[self._divisible])
        self._check()
        self._paired = lru_cache(maxsize=2)(self._pairs)

    def _check(self) -> None:
        if not len(self._divisible):
            advice = "build the corpus with --sentences split, of longer documents, or give a larger longest"
            raise InputError(
                f"no sequence of at most {self._longest} tokens has two sentences to make a pair of; {advice}"
            )
        documents = len(np.unique(self._document))
        some = documents < len(self._document) if self._pairing.negatives == "same" else documents > 1
        if self._pairing.kind == "next" and not some:
            raise InputError(NOWHERE[self._pairing.negatives])

    def _cuts(self) -> list[tuple[Ints, Ints]]:
        if self._pairing.kind != "order":
            return super()._cuts()
        rng = np.random.Generator(np.random.Philox(key=[self._seed, CUTS]))
        return [
            cut_documents(shard.sentences, shard.documents, self._room, self._middles(shard, rng))
            for shard in self._shards
        ]

    def _middles(self, shard: Shard, rng: np.random.Generator) -> Ints:
        """The sentence of each document that it is cut from, both ways: its first, its last, or one in the middle."""
        edges = np.asarray(shard.documents, np.int64)
        tokens = np.diff(np.asarray(shard.sentences, np.int64)[edges])
        by_chance = np.where(rng.integers(2, size=len(tokens)), edges[:-1], edges[1:])
        return np.where(tokens > MANY * self._room, (edges[:-1] + edges[1:]) // 2, by_chance)

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
        return [(a, b._replace(opens=False)) if b.end > b.start else (a,) for a, b in zip(first, second)]

    @property
    def paired(self) -> float:
        """The share of the first epoch's sequences that are pairs with a label; the others are single segments."""
        return float((self._paired(0).labels != SINGLE).mean())

    def _lengths(self, epoch: int) -> Ints:
        spans = self._paired(epoch).spans
        a, b = spans[:, 1] - spans[:, 0], spans[:, 3] - spans[:, 2]
        return a + b + np.where(b > 0, 3, 2)

    def _pairs(self, epoch: int) -> _Pairs:
        """All of an epoch, drawn at once."""
        rng = np.random.Generator(np.random.Philox(key=[self._seed, PAIRS + epoch]))
        many = np.arange(len(self._divisible))
        start, end = self._singles[self._divisible, 0], self._singles[self._divisible, 1]
        if self._pairing.kind == "order":
            middle, other = self._splits(many, rng), many
            wrong = np.stack([middle, end, start, middle], 1)
        else:
            middle, other = self._exchanged(start, end, rng)
            wrong = np.stack([start, middle, middle[other], end[other]], 1)
        right = np.stack([start, middle, middle, end], 1)
        found = np.flatnonzero(other != SINGLE)
        label = rng.integers(2, size=len(many))[np.minimum(many, other)[found]]
        spans, labels = self._singles.copy(), np.full(self.sequences, SINGLE)
        spans[self._divisible[found]] = np.where(label[:, None] == 1, wrong[found], right[found])
        labels[self._divisible[found]] = label
        return _Pairs(spans, labels)

    def _splits(self, some: Ints, rng: np.random.Generator) -> Ints:
        """Tokens that B begins with in some of the sequences: a sentence's first, all but the first one as likely."""
        first, last = (side[some] for side in self._sentences)
        return self._text.bounds[first + 1 + _below(last - first - 1, rng)]

    def _nearest(self, some: Ints, tokens: Ints) -> Ints:
        """The same, each as near to a given token as can be."""
        (first, last), bounds = (side[some] for side in self._sentences), self._text.bounds
        behind = np.clip(np.searchsorted(bounds, tokens), first + 1, last - 1)
        before = np.maximum(behind - 1, first + 1)
        return np.where(tokens - bounds[before] < bounds[behind] - tokens, bounds[before], bounds[behind])

    def _exchanged(self, start: Ints, end: Ints, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """What B begins with in the sequences from `start` to `end`, and which of them each can exchange it with.

        Any two that can stay together, whatever their label will be; the number of one that found no other is -1.
        """
        same = self._pairing.negatives == "same"
        group = self._document if same else np.zeros_like(self._document)
        middle, other = np.zeros_like(start), np.full(len(start), SINGLE)
        for apart in (*APART, self._room):
            if apart == self._room and (other != SINGLE).any():
                break  # any two will do only where there would be no pair at all
            waiting = np.flatnonzero(other == SINGLE)
            middle[waiting] = self._splits(waiting, rng)
            a, b = (waiting[one] for one in _neighbours(group[waiting], (end - middle)[waiting], rng))
            middle[b] = self._nearest(b, end[b] - (end[a] - middle[a]))
            more = (end[b] - middle[b]) - (end[a] - middle[a])  # that a would get
            fits = (end[a] - start[a] + more <= self._room) & (end[b] - start[b] - more <= self._room)
            fits &= (abs(more) <= apart) & (same | (self._document[a] != self._document[b]))
            other[a[fits]], other[b[fits]] = b[fits], a[fits]
        return middle, other

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


def _length(pieces: tuple[Piece, ...]) -> int:
    """Of a sequence, with special tokens."""
    return sum(piece.length for piece in pieces)


def _below(counts: Ints, rng: np.random.Generator) -> Ints:
    """For each count a number from 0 to before it, all as likely."""
    return (rng.random(len(counts)) * counts).astype(np.int64)


def _neighbours(groups: Ints, sizes: Ints, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Two and two of a group, of about the same size: the places of the one and of the other."""
    rank = np.empty(len(sizes))
    rank[np.lexsort((rng.random(len(sizes)), sizes, groups))] = np.arange(len(sizes))
    order = np.lexsort((rank + NEAR * rng.random(len(sizes)), groups))
    groups = groups[order]
    place = np.arange(len(groups)) - np.searchsorted(groups, groups)
    one = np.flatnonzero((place[:-1] % 2 == 0) & (groups[1:] == groups[:-1]))
    return order[one], order[one + 1]
