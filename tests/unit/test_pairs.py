"""Pairs of segments: half of them true, wrong ones from where they may be, nothing told by their form."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_packing import CLS, SEP, Arrays, Documents, corpora, epoch, offsets, packing, sequences, shards_of

from bothways import InputError
from bothways.data.packing import Packed
from bothways.data.pairs import SHAPES, Pairing, PairPacking

NEXT, SAME, ORDER = Pairing("next"), Pairing("next", "same"), Pairing("order")
PAIRINGS = {"next": NEXT, "same": SAME, "order": ORDER}


def pairs_of(pairing: Pairing, shards: list[Arrays], longest: int, budget: int, **options: Any) -> PairPacking:
    return PairPacking(pairing, shards, longest=longest, budget=budget, before=CLS, after=SEP, **options)


def segments(packed: Packed) -> list[tuple[int, list[int], list[int]]]:
    """Of each sequence its label, A and B, without special tokens, each of which stands where it must."""
    assert packed.types is not None
    assert packed.pairs is not None
    found = []
    types = np.split(packed.types, np.cumsum(packed.lengths)[:-1])
    for sequence, kinds, label in zip(sequences(packed), types, packed.pairs.tolist(), strict=True):
        assert sequence[0] == CLS
        assert sequence[-1] == SEP
        ends = [i for i, token in enumerate(sequence) if token == SEP]
        assert len(ends) == (1 if label < 0 else 2)
        assert kinds.tolist() == [0] * (ends[0] + 1) + [1] * (len(sequence) - ends[0] - 1)
        found.append((label, sequence[1 : ends[0]], sequence[ends[0] + 1 : -1]))
    return found


def bounds(shards: list[Arrays]) -> tuple[set[int], set[int]]:
    """Tokens that sentences and documents begin with; the token behind a shard is the first of the next one."""
    sentences = {int(s.tokens[0] + at) for s in shards for at in s.sentences}
    return sentences, {int(s.tokens[0] + s.sentences[at]) for s in shards for at in s.documents}


def document_of(token: int, begins: set[int]) -> int:
    return max(first for first in begins if first <= token)


long_documents = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=12), min_size=2, max_size=6)


@given(
    st.lists(long_documents, min_size=1, max_size=3),
    st.integers(5, 30),
    st.integers(0, 200),
    st.integers(0, 2**63 - 1),
    st.sampled_from(list(PAIRINGS)),
    st.booleans(),
    st.integers(0, 3),
)
def test_pairs_are_what_their_labels_say(
    corpus: list[Documents], longest: int, more: int, seed: int, kind: str, filled: bool, number: int
) -> None:
    shards, pairing = shards_of(corpus), PAIRINGS[kind]
    try:
        packed = pairs_of(pairing, shards, longest, longest + more, seed=seed, filled=filled)
    except InputError:
        return
    sentences, begins = bounds(shards)
    seen: Counter[int] = Counter()
    for batch in epoch(packed, number):
        assert sum(batch.lengths) == len(batch.ids) <= longest + more
        assert list(batch.lengths) == sorted(batch.lengths, reverse=True)
        assert (batch.special == (batch.ids < 10)).all()
        assert (batch.words == ((batch.ids % 3 == 0) & ~batch.special)).all()
        if filled and len(batch.ids) % SHAPES:
            assert len(batch.ids) >= longest + more - 2 - SHAPES  # where texts are too short, there are fewer
        for label, a, b in segments(batch):
            seen.update(a + b)
            assert len(a) + len(b) + (2 if label < 0 else 3) <= longest
            for one in (a, b) if b else (a,):
                assert one == list(range(one[0], one[-1] + 1))
                assert not begins & set(one[1:])
            if label < 0:
                continue
            assert {a[0], b[0], b[-1] + 1} <= sentences
            if kind == "order":
                assert (b[0] == a[-1] + 1) if label == 0 else (a[0] == b[-1] + 1)
            elif label == 0:
                assert b[0] == a[-1] + 1
                assert b[0] not in begins
            else:
                assert b[0] != a[-1] + 1
                assert not set(a) & set(b)
                assert (document_of(a[0], begins) == document_of(b[0], begins)) == (kind == "same")
                assert b[0] not in begins  # which a true one cannot be
    every = Counter(token for s in shards for token in s.tokens.tolist())
    assert seen >= every
    if not filled:
        assert seen == every


@cache
def realistic(documents: int, seed: int = 0) -> list[Arrays]:
    """Two shards of documents of 1 to 40 sentences of 3 to 60 tokens."""
    rng = np.random.default_rng(seed)
    corpus = [
        [rng.integers(3, 60, rng.integers(1, 40)).tolist() for _ in range(count)]
        for count in (documents // 3, documents - documents // 3)
    ]
    return shards_of(corpus)


@pytest.mark.parametrize("pairing", [NEXT, SAME, ORDER], ids=list(PAIRINGS))
def test_half_of_the_pairs_are_wrong_and_no_wrong_one_is_true(pairing: Pairing) -> None:
    """Over all pairs of epochs, without their texts: hundreds of thousands."""
    shards = realistic(15_000)
    packed = pairs_of(pairing, shards, 128, 4096)
    drawn = np.concatenate([packed._paired(epoch).labels for epoch in range(1, 6)])
    assert (drawn[drawn >= 0] == 1).mean() == pytest.approx(0.5, abs=0.005)
    paired = packed._paired(0)
    pairs = paired.labels >= 0
    assert packed.paired == pairs.mean()
    spans, wrong = paired.spans[pairs], paired.labels[pairs] == 1
    assert len(spans) > 50_000
    assert wrong.mean() == pytest.approx(0.5, abs=0.01)
    assert (spans[:, 1] > spans[:, 0]).all()
    assert (spans[:, 3] > spans[:, 2]).all()
    assert ((spans[:, 1] - spans[:, 0]) + (spans[:, 3] - spans[:, 2]) + 3 <= 128).all()
    assert (spans[~wrong, 1] == spans[~wrong, 2]).all()
    if pairing.kind == "order":
        assert (spans[wrong, 3] == spans[wrong, 0]).all()
        return
    assert (spans[wrong, 1] != spans[wrong, 2]).all()
    opened = np.concatenate([s.sentences[s.documents[:-1]] + int(s.tokens[0]) - 10 for s in shards])
    first, second = (np.searchsorted(opened, spans[:, side], side="right") for side in (0, 2))
    assert ((first == second) == (~wrong | (pairing == SAME))).all()
    apart = (spans[:, 3] <= spans[:, 0]) | (spans[:, 2] >= spans[:, 1])
    assert apart.all()
    singles = packed._singles[np.flatnonzero(pairs)[wrong]]
    assert ((spans[wrong, 3] <= singles[:, 0]) | (spans[wrong, 2] >= singles[:, 1])).all()  # not a part of the true one


def short(documents: int, seed: int = 0) -> list[Arrays]:
    """Documents of 2 to 4 sentences of 3 to 40 tokens."""
    rng = np.random.default_rng(seed)
    return shards_of([[rng.integers(3, 40, rng.integers(2, 5)).tolist() for _ in range(documents)]])


def told_by_lengths(packed: PairPacking) -> float:
    """How often the best rule about the lengths of A and of B is right about pairs it was not made from."""
    cells, wrong = [], []
    for number in (0, 1):
        paired = packed._paired(number)
        pairs = paired.labels >= 0
        a, b = (paired.spans[pairs, side + 1] - paired.spans[pairs, side] for side in (0, 2))
        cells.append((a // 8) * 100 + b // 8)
        wrong.append(paired.labels[pairs] == 1)
    known = np.bincount(cells[0], weights=np.where(wrong[0], 1, -1), minlength=10_000) > 0
    return float((known[cells[1]] == wrong[1]).mean())


@pytest.mark.parametrize(
    ("pairing", "shards", "longest", "most"),
    [
        (NEXT, realistic(4_000), 128, 0.52),
        (NEXT, realistic(4_000), 400, 0.53),
        (NEXT, short(8_000), 64, 0.52),
        (NEXT, short(8_000), 256, 0.52),
        (SAME, realistic(4_000), 64, 0.52),
        (SAME, realistic(4_000), 128, 0.53),
        (ORDER, realistic(4_000), 64, 0.52),
        (ORDER, short(8_000), 64, 0.52),
        (ORDER, shards_of([[np.random.default_rng(0).integers(3, 60, 40_000).tolist()]]), 64, 0.52),
    ],
)
def test_lengths_tell_nothing(pairing: Pairing, shards: list[Arrays], longest: int, most: float) -> None:
    """On documents longer than sequences, and on short ones, whose true B are beginnings of none."""
    told = told_by_lengths(pairs_of(pairing, shards, longest, 4096))
    print(pairing, longest, "right by lengths", told)
    assert told < most


def test_two_that_exchange_b_are_both_right_or_both_wrong() -> None:
    """So every text is there once, and the lengths of a true and of a wrong B are the same numbers."""
    packed = pairs_of(NEXT, short(3_000), 64, 512)
    right, paired = packed._singles[packed._divisible], packed._paired(3)
    spans, labels = paired.spans[packed._divisible], paired.labels[packed._divisible]
    assert (labels >= 0).mean() > 0.99
    own = dict(zip(right[:, 1].tolist(), right[:, 0].tolist()))
    wrong = np.flatnonzero(labels == 1)
    theirs = [own[end] for end in spans[wrong, 3].tolist()]
    back = dict(zip(spans[wrong, 0].tolist(), theirs))
    assert all(back[other] == begin != other for begin, other in back.items())


def test_another_b_is_found_each_epoch() -> None:
    """Also in a small corpus, where few are of one length."""
    packed = pairs_of(NEXT, short(150), 256, 1024)
    found = np.stack([np.where(packed._paired(e).labels == 1, packed._paired(e).spans[:, 3], -1) for e in range(40)])
    several = [len(set(one[one >= 0].tolist())) for one in found.T]
    assert np.median(several) > 8


@pytest.mark.parametrize("pairing", [NEXT, SAME, ORDER], ids=list(PAIRINGS))
def test_batches_have_few_sizes_and_are_nearly_full(pairing: Pairing) -> None:
    packed = pairs_of(pairing, realistic(400), 128, 1024, seed=1)
    sizes = Counter(len(batch.ids) for batch in epoch(packed, 0)[:-1])
    assert all(size % SHAPES == 0 or size >= 1024 - 2 for size in sizes)
    assert len(sizes) <= 6
    assert min(sizes) >= 1024 - 128 - SHAPES
    labels = np.concatenate([batch.pairs for batch in epoch(packed, 0) if batch.pairs is not None])
    print(pairing, sizes, "pairs", (labels >= 0).mean())


def same(some: Packed, other: Packed) -> bool:
    return all(np.array_equal(getattr(some, name), getattr(other, name)) for name in vars(some))


def test_a_batch_is_a_function_of_seed_epoch_and_number() -> None:
    shards = realistic(60)
    one, again, other = (pairs_of(NEXT, shards, 64, 512, seed=seed) for seed in (5, 5, 6))
    last = one.batches(1) - 1
    late = again(1, last)  # asked for first, and alone
    assert same(late, one(1, last))
    assert all(same(one(0, i), again(0, i)) for i in range(one.batches(0)))
    assert not same(one(0, 0), other(0, 0))
    assert not same(one(0, 0), one(1, 0))


def test_each_epoch_splits_and_labels_anew() -> None:
    packed = pairs_of(NEXT, realistic(200), 64, 512, shuffle=False)
    first, second = packed._paired(0), packed._paired(1)
    both = (first.labels >= 0) & (second.labels >= 0)
    assert (first.labels[both] == second.labels[both]).mean() == pytest.approx(0.5, abs=0.1)
    long = both & (np.bincount(packed._divisible, packed._sentences[1] - packed._sentences[0], len(both)) > 3)
    assert (first.spans[long, 1] == second.spans[long, 1]).mean() == pytest.approx(0.33, abs=0.1)


def test_where_there_can_be_no_pair_it_is_said() -> None:
    single = shards_of([[[3, 4, 3, 4]]])
    with pytest.raises(InputError, match="a single document has sequences of two sentences: there is no other"):
        pairs_of(NEXT, single, 12, 40)
    assert pairs_of(SAME, single, 11, 40).sequences == 2
    with pytest.raises(InputError, match='say negatives = "other", or a smaller longest'):
        pairs_of(SAME, shards_of([[[3, 4], [3, 4]]]), 64, 64)
    with pytest.raises(InputError, match=r"no sequence of at most \d+ tokens has two sentences"):
        pairs_of(ORDER, shards_of([[[9], [9]]]), 24, 40)
    with pytest.raises(InputError, match="sequences of 3 tokens leave no room beside 3 special ones"):
        pairs_of(ORDER, single, 3, 40)
    with pytest.raises(InputError, match="a budget of 9 tokens a batch is smaller"):
        pairs_of(ORDER, single, 10, 9)


@given(corpora, st.integers(5, 24))
def test_a_packing_of_single_segments_has_no_pairs(corpus: list[Documents], longest: int) -> None:
    for batch in epoch(packing(shards_of(corpus), longest, 2 * longest), 0):
        assert batch.types is None
        assert batch.pairs is None


def test_sentences_without_tokens_are_none() -> None:
    tokens = np.arange(10, 34, dtype="u2")
    shard = Arrays(tokens, np.ones(24), offsets([4, 0, 4, 4, 0, 8, 4]), np.array([0, 3, 3, 5, 7]))
    for pairing in (NEXT, ORDER):
        packed = pairs_of(pairing, [shard], 16, 64)
        labels = [one for number in range(20) for batch in epoch(packed, number) for one in segments(batch)]
        assert {label for label, _, _ in labels} == {-1, 0, 1}
        assert all(len(b) % 4 == 0 for label, _, b in labels if label >= 0)
