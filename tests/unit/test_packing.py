"""Packed batches: every token once an epoch, no sequence over a document's end, none too long, none over budget."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bothways import InputError
from bothways.data.packing import Packed, Packing, cut_documents

CLS, SEP = 1, 2

Documents = list[list[int]]  # how many tokens each sentence of each document has


@dataclass(frozen=True)
class Arrays:
    tokens: NDArray[Any]
    words: NDArray[Any]
    sentences: NDArray[Any]
    documents: NDArray[Any]


def offsets(lengths: list[int]) -> NDArray[np.int64]:
    return np.cumsum([0, *lengths])


def shard(documents: Documents, first: int) -> Arrays:
    """Every token has an id of its own, from `first` on; every third one begins a word."""
    sentences = offsets([length for document in documents for length in document])
    tokens = np.arange(first, first + sentences[-1], dtype=np.uint32)
    return Arrays(tokens, (tokens % 3 == 0).astype("u1"), sentences, offsets([len(d) for d in documents]))


def shards_of(corpus: list[Documents]) -> list[Arrays]:
    ends = offsets([sum(map(sum, documents)) for documents in corpus])
    return [shard(documents, 10 + int(first)) for documents, first in zip(corpus, ends)]


def packing(shards: list[Arrays], longest: int, budget: int, **options: Any) -> Packing:
    return Packing(shards, longest=longest, budget=budget, before=CLS, after=SEP, **options)


def sequences(packed: Packed) -> list[list[int]]:
    return [part.tolist() for part in np.split(packed.ids, np.cumsum(packed.lengths)[:-1])]


def epoch(packed: Packing, number: int) -> list[Packed]:
    return [packed(number, i) for i in range(packed.batches(number))]


documents = st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=5), min_size=1, max_size=6)
corpora = st.lists(documents, min_size=1, max_size=3)
longest = st.integers(3, 24)


@given(corpora, longest, st.integers(0, 60), st.integers(0, 2**63 - 1), st.booleans(), st.booleans(), st.integers(0, 3))
def test_every_token_is_there_once_an_epoch_in_sequences_that_fit(
    corpus: list[Documents], longest: int, more: int, seed: int, shuffle: bool, filled: bool, number: int
) -> None:
    shards = shards_of(corpus)
    packed = packing(shards, longest, longest + more, seed=seed, shuffle=shuffle, filled=filled)
    batches = epoch(packed, number)
    found = [sequence for batch in batches for sequence in sequences(batch)]
    assert all(sequence[0] == CLS and sequence[-1] == SEP for sequence in found)
    assert all(3 <= len(sequence) <= longest for sequence in found)
    assert all(sum(batch.lengths) == len(batch.ids) <= longest + more for batch in batches)
    ends = {int(s.tokens[0] + s.sentences[end]) for s in shards for end in s.documents[1:]}
    for sequence in found:
        inner = sequence[1:-1]
        assert inner == list(range(inner[0], inner[-1] + 1))
        assert not ends & set(inner[1:])  # no document begins inside
    tokens = Counter(token for sequence in found for token in sequence[1:-1])
    assert tokens == Counter(token for s in shards for token in s.tokens.tolist())
    if filled:
        assert all(sum(batch.lengths) >= longest + more - 2 for batch in batches[:-1])
        assert packed.sequences <= len(found) < packed.sequences + len(batches)
    else:
        assert packed.sequences == len(found)
        assert packed.tokens == sum(map(len, found))


@given(corpora, longest)
def test_words_and_special_tokens_are_told(corpus: list[Documents], longest: int) -> None:
    for batch in epoch(packing(shards_of(corpus), longest, 2 * longest), 0):
        assert (batch.special == (batch.ids < 10)).all()
        assert (batch.words == ((batch.ids % 3 == 0) & ~batch.special)).all()
        assert list(batch.lengths) == sorted(batch.lengths, reverse=True)
        assert batch.ids.dtype == np.int64


@given(documents, st.integers(1, 20))
def test_sentences_stay_whole_where_they_fit(documents: Documents, room: int) -> None:
    """The oracle: sentence after sentence into a sequence, as long as there is room."""
    expected, at = [], 0
    for document in documents:
        open_ = 0
        for length in document:
            if open_ and open_ + length > room:
                expected.append((at - open_, at))
                open_ = 0
            while length > room:
                expected.append((at, at + room))
                at, length = at + room, length - room
            at, open_ = at + length, open_ + length
        if open_:
            expected.append((at - open_, at))
    arrays = shard(documents, 0)
    starts, ends = cut_documents(arrays.sentences, arrays.documents, room)
    assert list(zip(starts.tolist(), ends.tolist())) == expected


@given(corpora, longest, st.integers(0, 2**63 - 1))
def test_the_same_seed_epoch_and_number_give_the_same_batch(corpus: list[Documents], longest: int, seed: int) -> None:
    one, other = (packing(shards_of(corpus), longest, 2 * longest, seed=seed) for _ in range(2))
    places = [(e, i) for e in range(3) for i in range(one.batches(e))]
    expected = {place: one(*place).ids.tolist() for place in places}
    assert {place: other(*place).ids.tolist() for place in reversed(places)} == expected


def test_other_epochs_and_seeds_have_another_order_and_the_held_out_split_has_its_own() -> None:
    shards = shards_of([[[5, 6, 7], [8, 9]] * 20])
    orders = [
        [
            tuple(s)
            for batch in epoch(packing(shards, 12, 40, seed=seed, filled=False), number)
            for s in sequences(batch)
        ]
        for seed, number in [(0, 0), (0, 1), (1, 0)]
    ]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])
    straight = packing(shards, 12, 40, shuffle=False, filled=False)
    firsts = [min(map(min, (s[1:-1] for s in sequences(batch)))) for batch in epoch(straight, 1)]
    assert firsts == sorted(firsts)
    assert [b.ids.tolist() for b in epoch(straight, 0)] == [b.ids.tolist() for b in epoch(straight, 1)]


def test_what_cannot_be_packed_is_said() -> None:
    shards = shards_of([[[5]]])
    with pytest.raises(InputError, match="leave no room"):
        packing(shards, 2, 10)
    with pytest.raises(InputError, match="budget of 9 tokens a batch is smaller than one sequence of 10"):
        packing(shards, 10, 9)
    with pytest.raises(InputError, match="no sequence"):
        packing([], 10, 20)


@given(corpora, longest, st.integers(0, 60), st.integers(0, 2**63 - 1), st.booleans(), st.integers(0, 3))
def test_where_only_documents_have_edges_each_has_one_beginning_and_one_end(
    corpus: list[Documents], longest: int, more: int, seed: int, filled: bool, number: int
) -> None:
    """Every token once, and special ones nowhere but where a document begins and where it ends."""
    shards = shards_of(corpus)
    packed = packing(shards, longest, longest + more, seed=seed, filled=filled, edges="document")
    batches = epoch(packed, number)
    found = [sequence for batch in batches for sequence in sequences(batch)]
    edges = {int(s.tokens[0] + s.sentences[at]) for s in shards for at in s.documents}
    for sequence in found:
        inner = [token for token in sequence if token >= 10]
        assert inner == list(range(inner[0], inner[-1] + 1))
        opens, closes = inner[0] in edges, inner[-1] + 1 in edges
        assert sequence == [CLS] * opens + inner + [SEP] * closes
        assert len(sequence) <= longest
    tokens = Counter(token for sequence in found for token in sequence if token >= 10)
    assert tokens == Counter(token for s in shards for token in s.tokens.tolist())
    whole = sum(len(document) > 0 for documents in corpus for document in documents)
    for special in (CLS, SEP):
        assert sum(sequence.count(special) for sequence in found) == whole
    for batch in batches:
        assert sum(batch.lengths) == len(batch.ids) <= longest + more
        assert (batch.special == (batch.ids < 10)).all()
    if filled:
        assert all(len(batch.ids) >= longest + more - 2 for batch in batches[:-1])
    else:
        assert packed.tokens == sum(map(len, found))
