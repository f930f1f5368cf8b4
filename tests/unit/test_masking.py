"""What is hidden: as many tokens as asked for, as wholes, never a special one; and always the same."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bothways import ConfigError
from bothways.data.packing import Packed
from bothways.objectives.masking import Masked, Masking, mask_tokens
from bothways.objectives.mlm import MaskedLanguageModelling
from bothways.objectives.reading import Together

Unit = Literal["token", "word", "span"]
UNITS = get_args(Unit)
VOCAB, MASK = 50_000, 4
SPECIAL = frozenset(range(5))
ORDINARY = np.arange(5, VOCAB)
LENGTH = 100  # of the sequences below


def packed(count: int, seed: int = 0) -> Packed:
    """`count` tokens in sequences of 100; words of 1 to 4 pieces, some tokens unknown (id 1)."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, VOCAB, count)
    ids[rng.random(count) < 0.01] = 1
    special = np.isin(np.arange(count) % LENGTH, (0, LENGTH - 1))
    ids[special] = 2
    words = (rng.random(count) < 0.6) & ~special
    return Packed(ids, words, special, (LENGTH,) * (count // LENGTH))


def masked(source: Packed, masking: Masking, seed: int = 0) -> tuple[Masked, Any]:
    fixed = source.special | np.isin(source.ids, list(SPECIAL))
    rng = np.random.default_rng(seed)
    return mask_tokens(source.ids, source.words, fixed, masking, MASK, ORDINARY, rng), fixed


@pytest.mark.parametrize(("unit", "count"), [("token", 1_000_000), ("word", 1_000_000), ("span", 6_000_000)])
def test_the_shares_are_those_of_the_paper(unit: Unit, count: int) -> None:
    """Spans come in lumps of six tokens, so as many more tokens are needed to see as sharply."""
    source = packed(count)
    result, fixed = masked(source, Masking(unit=unit))
    rows = result.rows
    assert len(rows) / (~fixed).sum() == pytest.approx(0.15, abs=0.001)
    assert (np.diff(rows) > 0).all()
    assert not fixed[rows].any()
    assert (result.targets == source.ids[rows]).all()
    hidden, kept = result.ids[rows] == MASK, result.ids[rows] == source.ids[rows]
    assert hidden.mean() == pytest.approx(0.8, abs=0.003)
    assert kept.mean() == pytest.approx(0.1, abs=0.003)
    by_chance = result.ids[rows][~hidden & ~kept]
    assert len(by_chance) / len(rows) == pytest.approx(0.1, abs=0.003)
    assert by_chance.min() >= 5
    assert by_chance.mean() == pytest.approx(VOCAB / 2, rel=0.01)
    rest = np.ones(count, bool)
    rest[rows] = False
    assert (result.ids[rest] == source.ids[rest]).all()


def words_of(source: Packed, fixed: Any) -> list[list[int]]:
    """The rows of each word: it ends where the next begins, and at fixed tokens."""
    words: list[list[int]] = []
    for row in range(len(source.ids)):
        if fixed[row]:
            continue
        if source.words[row] or row == 0 or fixed[row - 1]:
            words.append([])
        words[-1].append(row)
    return words


@pytest.mark.parametrize("unit", ["word", "span"])
def test_words_are_chosen_and_replaced_as_a_whole(unit: Unit) -> None:
    source = packed(20_000)
    result, fixed = masked(source, Masking(unit=unit))
    fates = np.full(len(source.ids), "left", dtype="U6")
    now, before = result.ids[result.rows], result.targets
    fates[result.rows] = np.where(now == MASK, "mask", np.where(now == before, "kept", "random"))
    of_words = [set(fates[word].tolist()) for word in words_of(source, fixed)]
    assert all(len(one) == 1 for one in of_words)
    assert set.union(*of_words) == {"left", "mask", "kept", "random"}


def test_spans_are_words_in_a_row_replaced_alike() -> None:
    """With few spans, so that hardly two touch: each has one fate, and 3.8 words on average."""
    source = packed(1_000_000)
    result, fixed = masked(source, Masking(unit="span", rate=0.005, mask=0.5, random=0.0))
    # Words with a fate each: 0 left, 1 hidden, 2 kept.
    begins = (source.words | np.concatenate([[True], fixed[:-1]])) & ~fixed
    code = np.zeros(len(source.ids), int)
    code[result.rows] = np.where(result.ids[result.rows] == MASK, 1, 2)
    words = code[begins]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], words, [0]])))
    lengths = [b - a for a, b in pairwise(edges.tolist()) if words[a]]
    mixed = sum(words[a - 1] * words[a] == 2 for a in range(1, len(words)))
    assert mixed / len(lengths) < 0.02
    assert np.mean(lengths) == pytest.approx(3.8, rel=0.05)
    assert max(lengths) >= 10


def test_a_sentence_that_was_cut_in_a_word_does_not_join_two_sequences() -> None:
    """The piece behind the cut begins no word, and yet is not one with the last word of the sequence before."""
    ids = np.array([2, 10, 11, 3, 2, 12, 13, 3] * 500)
    special = ids < 5
    words = (ids == 10) | (ids == 13)
    source = Packed(ids, words, special, (4,) * 1000)
    result, _ = masked(source, Masking(unit="word", rate=0.5))
    chosen = np.zeros(len(ids), bool)
    chosen[result.rows] = True
    assert (chosen[1::8] == chosen[2::8]).all()
    assert (chosen[2::8] != chosen[5::8]).any()


@given(st.integers(0, 40), st.sampled_from(UNITS), st.integers(0, 1000), st.floats(0.01, 0.99))
def test_few_tokens_or_none_are_no_special_case(count: int, unit: Unit, seed: int, rate: float) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, VOCAB, count)
    fixed, words = rng.random(count) < 0.3, rng.random(count) < 0.5
    masking = Masking(unit=unit, rate=rate)
    first, second = (
        mask_tokens(ids, words, fixed, masking, MASK, ORDINARY, np.random.default_rng(seed)) for _ in range(2)
    )
    assert not fixed[first.rows].any()
    assert (first.ids[fixed] == ids[fixed]).all()
    assert (first.ids == second.ids).all()
    assert (first.rows == second.rows).all()
    assert (first.targets == ids[first.rows]).all()


@pytest.mark.parametrize("unit", UNITS)
def test_the_objective_keeps_its_special_tokens_and_is_deterministic(unit: Unit) -> None:
    objective = Together((MaskedLanguageModelling(VOCAB, MASK, SPECIAL, Masking(unit=unit, mask=0.0, random=1.0)),))
    source = packed(20_000)
    batch, again = (objective.corrupt(source, np.random.default_rng(3)) for _ in range(2))
    other = objective.corrupt(source, np.random.default_rng(4))
    ids = batch.tokens.data.numpy()
    fixed = np.isin(source.ids, list(SPECIAL))
    assert (ids[fixed] == source.ids[fixed]).all()
    assert not np.isin(ids[~fixed], list(SPECIAL)).any()
    assert batch.tokens.layout.lengths == source.lengths
    assert objective.counts(batch) == {"mlm": len(batch.labels["mlm"].values)}
    assert again.tokens.data.equal(batch.tokens.data)
    assert not other.tokens.data.equal(batch.tokens.data)


@pytest.mark.parametrize(
    "wrong",
    [{"rate": 0.0}, {"rate": 1.0}, {"rate": float("nan")}, {"mask": 1.1}, {"random": -0.1}, {"random": 0.3}],
    ids=str,
)
def test_shares_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Masking(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unit must be"):
        Masking(unit="letter")  # type: ignore[arg-type]
